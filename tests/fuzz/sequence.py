"""Makes sequences: exchanges over the same connections that are alike but for a few values, and suddenly are not.

Programs repeat themselves, so the gateway remembers heads by what varies in them; what is sudden must not be read as
what was usual before it. One case of ``grammar.make`` has too few messages, too unlike one another, to come so far.
"""

from random import Random

from tests.fuzz.case import Answer, Case, Step
from tests.fuzz.grammar import BAD_HEADERS, CODINGS, HEADERS, HOSTS, ROUTES, chunked, split, tag

_COUNTS = (4, 5, 6, 8)  # the first two show what varies
_SIZES = (0, 1, 6, 7, 12, 100, 900)  # within the limit of every route
_LENGTHS = ("Content-Length", "Content-Length", "content-length", "CONTENT-LENGTH")
# A line in which the same words stand that a reader may look for.
_DECOYS = ("X-Strength: 7", "X-Content-Length: 3", "x-length: 12", "X-A: Content-Length: 5", "Wavelength: 1")

_ALWAYS = ("Content-Type: application/json", "X-B: 1", "Server: fuzz", "Vary: Origin", "Connection: keep-alive", "X-High: \xe9", "X-Under_Score: 1", "X-Empty:")  # fmt: skip
_VARY = (
    "Date", "X-Request-Id", "X-Answer", "Set-Cookie", "Set-Cookie", "ETag", "Server", "X-B", "Access-Control-Allow-Origin", "Proxy-Status", "X-Gateway-Request-Id", "Keep-Alive", "date",
    "Connection",
)  # fmt: skip
_VALUES = ("v1", "v2", "", "a: b, c", "\xe9", " spaced\t", "v" * 300)
_CONNECTIONS = ("keep-alive", "keep-alive", "Keep-Alive", "X-B", "close")
_STATUS_LINES = ("HTTP/1.1 200 OK",) * 6 + ("HTTP/1.1 404 Not Found", "HTTP/1.1 500 Oops", "HTTP/1.1 200 ")
_OTHER_STATUS_LINES = (
    "HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified", "HTTP/1.0 200 OK", "HTTP/1.1 201 OK", "HTTP/1.1 200 KO", "HTTP/1.1 200 O\x00K", "HTTP/1.1 2000 OK",
    "HTTP/1.1 103 Early Hints", "HTTP/1.1 200 OK\r\nX-C: 1", "http/1.1 200 OK",
)  # fmt: skip
# ``$`` is what stood there.
_ODD_VALUES = (
    "$\x00", "\x01$", "$\x7f", "$\rx", "\n$", "$\nX-C: 1", "$\x0b", "$\r\n folded", "$\r", "", "+$", "-$", "0$", "$, $", "$ $", " $ \t", "0x$", "1", "$1", "$" + "0" * 18, "\xb2",
    "chunked", "close", "X-B", "keep-alive, Date",
)  # fmt: skip


def sequence(random: Random, number: int) -> Case:
    """Several requests of one caller with the same head but for its length, and answers that are alike as well."""
    clean = random.random() < 0.2
    count = random.choice(_COUNTS)
    # Behind a request that is refused nothing is read, so most often only answers are sudden.
    evil_requests = 0.0 if clean or random.random() < 0.7 else 0.3
    evil_answers = 0.0 if clean or (evil_requests and random.random() < 0.7) else random.choice((0.1, 0.3, 0.6))
    requests = _requests(random, number, count, evil_requests)
    answers = _answers(random, number, [data.startswith(b"HEAD ") for data in requests], evil_answers)
    if random.random() < 0.5:
        writes = [Step(data, random.choice((0, 0, 1, 2))) for data in requests]
    else:
        writes = split(random, b"".join(requests))
    after = "stay" if clean else random.choice(("stay", "stay", "stay", "stay", "half-close", "close", "reset"))
    return Case(writes, answers, after, clean, fresh=random.random() < 0.8)


def _requests(random: Random, number: int, count: int, evil: float) -> list[bytes]:
    method = random.choice(("POST", "POST", "POST", "PUT", "GET"))
    # The same path for all of them: only bodies and answers carry marks of their own.
    target = f"{random.choice(ROUTES)}/{tag(number, 0)}{random.choice(('', '', '?x=1'))}"
    # With one id for all, nobody could tell which of them an attempt is for.
    usual = [line for line in HEADERS if not line.startswith("X-Request-Id")]
    lines = [random.choice(HOSTS), *random.sample(usual, random.choice((0, 1, 3)))]
    if random.random() < 0.4:
        lines.append(random.choice(_DECOYS))
    place, name = random.randrange(len(lines) + 1), random.choice(_LENGTHS)
    space = random.choice((" ", " ", " ", "", "  "))
    requests = []
    for part in range(count):
        its_method = "HEAD" if random.random() < 0.15 else method
        its_lines, body = [*lines], b""
        if its_method not in {"GET", "HEAD"}:
            body = _payload(random, number, part)
            its_lines.insert(place, f"{name}:{space}{len(body)}")
        head = [f"{its_method} {target} HTTP/1.1", *its_lines]
        if part and random.random() < evil:
            head = _suddenly(random, head)
        requests.append("\r\n".join([*head, "", ""]).encode("latin-1") + body)
    return requests


def _answers(random: Random, number: int, to_head: list[bool], evil: float) -> list[Answer]:
    first = random.choice(_STATUS_LINES)
    usual = [*random.sample(_ALWAYS, random.choice((0, 1, 3))), *random.sample(_VARY, random.choice((1, 2, 4)))]
    framing = random.choice((*_LENGTHS, *_LENGTHS, CODINGS[0], CODINGS[1]))
    usual.append(framing)
    random.shuffle(usual)
    values = {name: "keep-alive" if name == "Connection" else random.choice(_VALUES) for name in usual}
    varying = random.choice((0.5, 1.0))
    answers = []
    for part, bodiless in enumerate(to_head):
        payload = _payload(random, number, part)
        lines = [first]
        for name in usual:
            if name in _LENGTHS:
                lines.append(f"{name}: {len(payload)}")
                continue
            if ":" in name:
                lines.append(name)
                continue
            if random.random() < varying:
                its_values = _CONNECTIONS if name == "Connection" else (*_VALUES, f"<{tag(number, part)}>")
                values[name] = random.choice(its_values)
            lines.append(f"{name}: {values[name]}")
        if framing not in _LENGTHS:
            payload = chunked(random, payload, 0.0)
        answers.append(_answer(random, lines, payload, bodiless=bodiless, evil=evil if part > 1 else evil / 4))
    return answers


def _answer(random: Random, lines: list[str], payload: bytes, *, bodiless: bool, evil: float) -> Answer:
    then = "keep"
    if bodiless and random.random() >= evil / 4:
        payload = b""
    interim = b""
    if random.random() < 0.05:
        interim = "\r\n".join(["HTTP/1.1 103 Early Hints", *lines[1:], "", ""]).encode("latin-1")
    if random.random() < evil:
        lines = _suddenly(random, lines, _OTHER_STATUS_LINES)
        then = random.choice(("keep", "keep", "close"))
    data = interim + "\r\n".join([*lines, "", ""]).encode("latin-1") + payload
    if random.random() < evil / 8:
        data += random.choice((b"stray", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"))
    return Answer(split(random, data), then=then)


def _payload(random: Random, number: int, part: int) -> bytes:
    size = random.choice(_SIZES)
    return (f"<{tag(number, part)}>".encode() * (size // 6 + 1))[:size]


def _suddenly(random: Random, lines: list[str], firsts: tuple[str, ...] = ()) -> list[str]:
    """The lines of a head that is no longer like those before it; ``firsts`` are other first lines."""
    lines = [*lines]
    at = random.randrange(1, len(lines))
    framing = [place for place, line in enumerate(lines) if line.lower().startswith(("content-length:", "transfer-"))]
    if framing and random.random() < 0.4:
        at = framing[0]  # what matters most
    name, _, value = lines[at].partition(":")
    what = random.randrange(9)
    if what < 3:
        lines[at] = f"{name}: {random.choice(_ODD_VALUES).replace('$', value.strip())}"
    elif what == 3:
        del lines[at]
    elif what == 4:
        lines.insert(random.randrange(1, len(lines) + 1), lines[at])
    elif what == 5:
        other = random.randrange(1, len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif what == 6:
        new = (*CODINGS, *BAD_HEADERS, "Content-Length: 5", "Connection: close", "Connection: X-B, Date", "X-New: 1")
        lines.insert(random.randrange(1, len(lines) + 1), random.choice(new))
    elif what == 7 or not firsts:
        others = (name.swapcase(), name.replace("-", "_"), f"{name} ", f" {name}", f"{name}\0", f"X{name}", name[:-1])
        lines[at] = f"{random.choice(others)}:{value}"
    else:
        lines[0] = random.choice(firsts)
    return lines
