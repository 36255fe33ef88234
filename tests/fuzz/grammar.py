"""Makes cases: messages that are right, messages that are wrong in ways that have broken proxies, and mixtures.

Everything comes from one ``random.Random``, so a seed makes the same cases again.
"""

import re
from itertools import pairwise
from random import Random

from tests.fuzz.case import AFTER, THEN, WHEN, Answer, Case, Step
from tests.fuzz.places import HEAD_BYTES, OPEN_BODY_BYTES

ROUTES = ("/code", "/code/deep", "/sig", "/key", "/open", "/ws")
_METHODS = ("GET", "POST", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH")
_ODD_METHODS = ("get", "CONNECT", "TRACE", "FOO", "G-T", "1GET", "GE(T", "", "M" * 40, "PRI")
_TAILS = (
    "", "/", "/a", "/a/b?x=1", "?", "?x=1&x=0", "?a=b+c;d", "?a=%20", "/%41", "/%7Euser", "/a%20b", "/v1//x", "/%2F", "/a;v=1",
    "/...", "/.a", "/a.", "/%C3%A9", "?q=%E4%BD%A0", "/a{b}", "/a|b", "/a^b", "/~", "/a?b?c", "?=x", "?&", "?a&b", "/'(a)'",
)  # fmt: skip
_BAD_TAILS = (
    "/..", "/../x", "/.", "/a/../b", "/%2e%2e/x", "/%2E./x", "/.%2e", "/%252e%252e", "/%25252e%25252e/x", "/..;/x", "/..;v=1/x",
    "/..%2f", "/%2e%2e%2f", "/..%5c", "/a\\b", "/..\\..\\x", "/%00", "/%0d%0aX-A:b", "/%7f", "/%", "/%4", "/%zz", "/%ff", "/%c0%ae%c0%ae/",
    "/%c0%af", "/#x", "?#", "?\\", "?%00", "/\xe9", "?\xe9", "/a\tb", "x", "%2f..", "/%ef%bc%8e%ef%bc%8e/", "/%u002e%u002e/", "/" + "%25" * 40 + "2e/x",
)  # fmt: skip
HEADERS = (
    "Accept: */*", "Content-Type: application/json", "X-A: 1", "X-A: 2", "x-a:3", "X-Empty:", "X-Space:  \t a  ", "X-High: caf\xe9",
    "Cookie: a=b; c=d", "Cookie: e=f", "User-Agent: fuzz", "Accept-Encoding: gzip, br", "traceparent: 00-ab-cd-01", "Range: bytes=0-1",
    "If-None-Match: \"x\"", "X_Under_Score: 1", "Content-Encoding: gzip", "X-Request-Id: theirs-1", "Keep-Alive: timeout=5", "TE: trailers",
    "Trailer: X-T", "Proxy-Connection: keep-alive", "Forwarded: for=1.2.3.4", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil", "X-Real-IP: 1.2.3.4",
    "Via: 1.0 other", "Max-Forwards: 0", "X-Stage: RELEASE", "X-Gateway-Request-Id: forged", "Proxy-Status: forged", "Date: Thu, 01 Jan 1970 00:00:00 GMT",
    "X-Colons: a:b:c", "X-Quoted: \"a, b\"", "Priority: u=1", "HTTP2-Settings: AAMAAABk", "X-Forwarded_For: 9", "X-Long: " + "v" * 300, "Upgrade: h2c",
)  # fmt: skip
CREDENTIAL_NAMES = (
    "Authorization", "Proxy-Authorization", "X-Auth-Token", "X-Subject-Token", "X-Apig-AppCode", "apikey", "X-API-Key", "X-Sdk-Date",
    "X-Sdk-Content-Sha256", "X-Sdk-Anything", "X-Security-Token", "X-HW-ID", "X-HW-AppKey", "X-Project-Id", "X-Domain-Id", "X-Apig-Mode",
)  # fmt: skip
_CONNECTIONS = (
    "close", "keep-alive", "Keep-Alive, X-A", "X-A", "X-Apig-AppCode, Authorization, X-Sdk-Date", "close, X-A", "Host", "Content-Length", "Via, X-Request-Id",
    "upgrade", "Upgrade, X-Sdk-Date", "TE, close", "transfer-encoding", "", ",", "Cookie", "x_a", "close\t, keep-alive", "CLOSE",
)  # fmt: skip
BAD_HEADERS = (
    "X-A : 1", " X-A: 1", "X-A\t: 1", "X(A): 1", ": 1", "rubbish", "X-\xe9: 1", "X-A: a\x00b", "X-A: a\rb", "X-A: a\nb", "X-A: a\x01", "X-A: \x7f",
    "X-A: 1\r\n folded", "X-A: 1\r\n\tfolded: 2", "\x00X: 1", "X-A:\x0b1", "Authorization\x00: x", "X A: 1", "X-A\r: 1", "\r", "\n",
)  # fmt: skip
HOSTS = ("Host: fuzz.example", "Host: fuzz.example:80", "Host: [::1]:8080", "host:x", "Host: 127.0.0.1")
_BAD_HOSTS = (
    "", "Host:", "Host: a\r\nHost: b", "Host: a b", "Host: a/b", "Host: a@b", "Host: a:80:80", "Host: [::1", "Host: a,b", "Host : a", "Host: \xe9",
    "Host: a\r\nhost: a", "Host_: a", "Host: http://a", "Host: a:x", "Host: evil%00",
)  # fmt: skip
_EXTRA = (
    "Expect: 100-continue", "Expect: 100-Continue", "Expect: 200-ok", "Origin: https://evil.example", "X-Request-Timeout: 5", "X-Request-Timeout: 1e9",
    "X-Request-Timeout: -1", "x-envoy-expected-rq-timeout-ms: 4000", "X-Request-Id: with space", "X-Request-Id: " + "i" * 200, "Via: 1.1 modelarts-gateway-0",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade\r\nUpgrade: websocket",
)  # fmt: skip
_VERSIONS = (
    "HTTP/1.0",
    "HTTP/1.2",
    "HTTP/2.0",
    "HTTP/0.9",
    "HTTP/1.10",
    "HTTP/11",
    "http/1.1",
    "HTTP/1,1",
    "HTTP/1.1 ",
    "",
    "HTTP/+1.1",
    "HTTQ/1.1",
)
CODINGS = (
    "Transfer-Encoding: chunked", "transfer-encoding:chunked", "Transfer-Encoding: CHUNKED", "Transfer-Encoding: \tchunked ", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: identity", "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked,", "Transfer-Encoding:", "Transfer-Encoding : chunked",
    "Transfer_Encoding: chunked", "Transfer-Encoding: chunked\x0b", "Transfer-Encoding: chun\r\n ked", "X: 1\nTransfer-Encoding: chunked", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
)  # fmt: skip
_SIZES = (
    "0x",
    "+",
    "-",
    " ",
    "\t",
    "00000000000000000",
    "_",
    "\xb2",
    "g",
    ";a=b",
    ';a="b\r\nc"',
    " ;a",
    ";\n",
    ";\r",
    "\x00",
    ";" + "e" * 1500,
)


def tag(number: int, part: int) -> str:
    """The mark of one exchange: ``c7-0`` in paths, ``<c7-0>`` in bodies."""
    return f"c{number}-{part}"


def renumber(data: bytes, number: int) -> bytes:
    """Bytes of another case, with this one's marks."""
    return re.sub(rb"c[0-9]+-([0-9])", b"c%d-\\1" % number, data)


def make(random: Random, number: int) -> Case:
    """A new case, from nothing."""
    clean = random.random() < 0.2
    count = random.choice((1, 1, 1, 2, 3, 4))
    evil = 0.0 if clean else random.choice((0.0, 0.05, 0.2, 0.5))
    requests = [request(random, number, part, evil, last=part == count - 1) for part in range(count)]
    data = b"".join(requests)
    evil = 0.0 if clean else random.choice((0.0, 0.1, 0.5))
    answers = [
        answer(random, number, part, evil, last=part == count - 1, to_head=sent.startswith(b"HEAD "))
        for part, sent in enumerate(requests)
    ]
    if not clean and random.random() < 0.3:
        data = mutated_bytes(random, data)
    if not clean and random.random() < 0.3:
        for step in random.choice(answers).steps:
            step.data = mutated_bytes(random, step.data)
    after = "stay" if clean else random.choice(("stay", "stay", "stay", "half-close", "close", "reset"))
    return Case(split(random, data), answers, after, clean)


def mutate(random: Random, case: Case, number: int) -> Case:
    """A neighbour of a case that did something new."""
    data = renumber(case.request, number)
    answers = [
        Answer(
            [Step(renumber(step.data, number), step.wait_ms) for step in each.steps],
            each.when,
            each.then,
            renumber(each.later, number),
        )
        for each in case.answers
    ]
    after = case.after
    for _ in range(random.choice((1, 1, 2, 4))):
        what = random.random()
        if what < 0.5 or not answers:
            data = mutated_bytes(random, data)
        elif what < 0.85:
            changed = random.choice(answers)
            changed.steps = split(random, mutated_bytes(random, b"".join(step.data for step in changed.steps)))
        elif what < 0.92:
            changed = random.choice(answers)
            changed.then, changed.when = random.choice(THEN), random.choice(WHEN)
        else:
            after = random.choice(AFTER)
    return Case(split(random, data), answers, after, fresh=case.fresh)


def split(random: Random, data: bytes) -> list[Step]:
    """Writes at arbitrary positions, most often few."""
    count = random.choice((0, 0, 0, 1, 2, 5, 40))
    if count == 40 and len(data) > 4000:
        count = 5
    cuts = sorted(random.randrange(1, len(data)) for _ in range(count)) if len(data) > 1 else []
    edges = [0, *cuts, len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(edges)]
    return [Step(piece, random.choice((0, 0, 0, 0, 1))) for piece in pieces if piece]


def mutated_bytes(random: Random, data: bytes) -> bytes:
    """The bytes with one small accident."""
    if not data:
        return data
    at = random.randrange(len(data))
    to = min(len(data), at + random.choice((1, 2, 5, 20, 80)))
    what = random.randrange(9)
    special = random.choice(
        (
            b"\r",
            b"\n",
            b"\r\n",
            b"\0",
            b" ",
            b"\t",
            b"\x0b",
            b"\x7f",
            b"\x80",
            b"\xff",
            b":",
            b",",
            b";",
            b"0",
            b"%",
            b"/",
            b"_",
        )
    )
    if what == 0:
        return data[:at] + special + data[at:]
    if what == 1:
        return data[:at] + special + data[at + 1 :]
    if what == 2:
        return data[:at] + data[to:]
    if what == 3:
        return data[:to] + data[at:to] + data[to:]
    if what == 4:
        return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]
    if what == 5:
        return data[:at]
    if what == 6:
        lines = data.split(b"\r\n")
        one, other = random.randrange(len(lines)), random.randrange(len(lines))
        lines[one], lines[other] = lines[other], lines[one]
        return b"\r\n".join(lines)
    if what == 7:
        lines = data.split(b"\r\n")
        lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
        return b"\r\n".join(lines)
    lines = data.split(b"\r\n")
    injected = random.choice((*CODINGS, *BAD_HEADERS, *(f"Content-Length: {size}" for size in (0, 1, 5, 999999))))
    lines.insert(random.randrange(1, len(lines) + 1), injected.encode("latin-1"))
    return b"\r\n".join(lines)


def _body(random: Random, mark: str, limit: int = 100_000) -> bytes:
    size = min(limit, random.choice((0, 1, 12, 100, 900, 1500, 5000, 70_000 if random.random() < 0.2 else 40)))
    filler = f"<{mark}>".encode() * (size // 6 + 1)
    return filler[:size]


def chunked(random: Random, body: bytes, evil: float) -> bytes:
    pieces = []
    at = 0
    while at < len(body):
        size = random.choice((1, 3, 16, 100, 4096, 70_000))
        piece = body[at : at + size]
        written = f"{len(piece):x}" if random.random() < 0.8 else f"{len(piece):05X}"
        if random.random() < 0.1:
            written += random.choice((";a=b", ";a", ';a="b c"', "; x=y"))
        if random.random() < evil / 4:
            written = random.choice((written + random.choice(_SIZES), random.choice(_SIZES) + written))
        end = b"\r\n"
        if random.random() < evil / 4:
            end = random.choice((b"\n", b"\r", b"", b"X\r\n", b"\r\n\r\n", b" \r\n"))
        pieces.append(written.encode("latin-1") + random.choice((b"\r\n",) * 20 + (b"\n",) * (evil > 0)) + piece + end)
        at += len(piece)
    last = b"0\r\n"
    if random.random() < evil / 2:
        last = random.choice((b"0\n", b"00\r\n", b"0;a\r\n", b"0 \r\n", b"-0\r\n", b"", b"0\r\n0\r\n", b"0x0\r\n"))
    trailers = b""
    if random.random() < 0.1:
        trailers = random.choice((b"X-T: 1\r\n", b"X-T: 1\r\nX-U: 2\r\n"))
    if random.random() < evil / 2:
        trailers = random.choice((
            b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: evil\r\n", b"X-Auth-Token: theirs\r\n", b"X T: 1\r\n", b"X-T: a\nb\r\n",
            b"X-T: " + b"t" * 17000 + b"\r\n", b"GET /code/smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
        ))  # fmt: skip
    return (
        b"".join(pieces)
        + last
        + trailers
        + (b"\r\n" if random.random() > evil / 8 else random.choice((b"", b"\n", b"\r")))
    )


def _pick(random: Random, good: tuple[str, ...], bad: tuple[str, ...], evil: float) -> str:
    return random.choice(bad) if random.random() < evil else random.choice(good)


def _target(random: Random, mark: str, evil: float) -> str:
    route = random.choice(ROUTES)
    path = route + "/" + mark
    if random.random() < evil:
        path += random.choice(_BAD_TAILS)
        if random.random() < 0.2:
            path = random.choice(
                (
                    "*",
                    "fuzz.example:80",
                    mark,
                    "/",
                    "//code",
                    "/codex",
                    "/CODE",
                    "/%63ode/" + mark,
                    "/code%2f" + mark,
                    "http://",
                    "/open/../code",
                    "//evil/code",
                )
            )
    elif evil or route != "/sig":
        path += random.choice(_TAILS)
    if random.random() < 0.1:
        path = random.choice(("http://fuzz.example", "HTTP://other.example:81", "https://u")) + path
        if random.random() < evil:
            path = path.replace("//", random.choice(("///", "//a@", "//a b", "//[", "//\xe9")), 1)
    return path


def request(random: Random, number: int, part: int, evil: float, *, last: bool) -> bytes:
    """A request with this share of things wrong in it; 0 for none."""
    mark = tag(number, part)
    method = _pick(random, _METHODS, _ODD_METHODS, evil / 2)
    target = _target(random, mark, evil)
    version = _pick(random, ("HTTP/1.1",), _VERSIONS, 0.1 if evil else 0.0)
    if not evil and last and random.random() < 0.1:
        version = "HTTP/1.0"
    lines = []
    host = _pick(random, HOSTS, _BAD_HOSTS, evil / 2)
    if host:
        lines.append(host)
    lines += [_pick(random, HEADERS, BAD_HEADERS, evil / 4) for _ in range(random.choice((0, 1, 2, 4, 8)))]
    if random.random() < 0.4:
        name = random.choice(CREDENTIAL_NAMES)
        name = random.choice(
            (name, name.lower(), name.upper(), name.replace("-", "_"), name.replace("-", "_", 1), name.swapcase())
        )
        lines.append(
            f"{name}: {random.choice(('theirs', 'Bearer theirs', 'SDK-HMAC-SHA256 Access=a, SignedHeaders=b, Signature=c'))}"
        )
    if evil and random.random() < 0.25:
        lines.append("Connection: " + random.choice(_CONNECTIONS))
    if evil and random.random() < 0.25:
        lines.append(random.choice(_EXTRA))
    if evil and random.random() < 0.03:
        lines.append("X-Fill: " + "f" * (HEAD_BYTES - len("\r\n".join(lines)) - len(target) - random.randrange(40)))
    body = b""
    if method in {"POST", "PUT", "PATCH"} or random.random() < evil / 4:
        payload = _body(random, mark, OPEN_BODY_BYTES if not evil and "/open" in target else 100_000)
        if random.random() < evil / 3:  # a request inside a body is nothing but bytes
            payload = b"GET /code/smuggled HTTP/1.1\r\nHost: x\r\n\r\n" + payload
        how = random.random()
        chunked_ok = not version.endswith("1.0")
        if how < 0.4 and chunked_ok:
            lines.append(_pick(random, CODINGS[:4], CODINGS, evil))
            body = chunked(random, payload, evil)
        elif how < 0.9 or not evil:
            lines.append(f"Content-Length: {len(payload)}")
            body = payload
        if random.random() < evil / 3:
            size = len(payload)
            lines.append(random.choice((
                f"Content-Length: {size}", f"Content-Length: +{size}", f"Content-Length: {size}, {size}", f"Content-Length: {size + 9}", "Content-Length: -1",
                "Content-Length: 0x5", "Content-Length:", "Content-Length: 1 0", f"Content_Length: {size}", "Content-Length: " + "9" * 30, "Content-Length: \xb2",
                f"Content-Length : {size}", f"Content-Length: 0{size}", random.choice(CODINGS),
            )))  # fmt: skip
        if random.random() < evil / 6:
            body = body[: random.randrange(len(body) + 1)]
    random.shuffle(lines)
    end = "\r\n" if random.random() > evil / 8 else random.choice(("\n", "\r", "\r\r\n", "\n\r"))
    lead = random.choice(("", "", "", "\r\n", "\r\n\r\n", "\n", "\r", " ")) if random.random() < evil / 3 else ""
    gap = " " if random.random() > evil / 8 else random.choice(("  ", "\t", "", "\x0b", "\xa0"))
    head = lead + end.join(
        [
            f"{method}{gap}{target} {version}".rstrip() if not version else f"{method}{gap}{target} {version}",
            *lines,
            "",
            "",
        ]
    )
    return head.encode("latin-1") + body


_STATUSES = (200, 200, 200, 201, 204, 206, 301, 304, 400, 401, 403, 404, 413, 429, 500, 502, 503, 504)
_ANSWER_HEADERS = (
    "Content-Type: text/plain", "X-B: 1", "X-B: 2", "Set-Cookie: a=b", "Set-Cookie: c=d; Secure", "Server: fuzz", "Date: Thu, 01 Jan 2026 00:00:00 GMT",
    "X-Request-Id: upstream-1", "Proxy-Status: forged; error=x", "X-Gateway-Request-Id: forged", "Keep-Alive: timeout=1", "Connection: keep-alive, X-B",
    "Connection: close", "Access-Control-Allow-Origin: *", "Vary: Origin", "Trailer: X-T", "X-Under_Score: 1", "X-High: \xe9", "X-Empty:", "Location: http://evil/",
    "Upgrade: h2c", "WWW-Authenticate: Basic", "Content-Encoding: gzip", "ETag: \"a\"", "X-Long: " + "w" * 500, "Content_Length: 3", "Retry-After: 1", "Alt-Svc: h3=\":443\"",
)  # fmt: skip
_STATUS_LINES = (
    "HTTP/1.0 200 OK", "HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1  200 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 20 OK", "HTTP/1.1 099 OK", "HTTP/1.1 600 OK", "HTTP/2.0 200 OK",
    "HTTP/1.1 abc", "ICY 200 OK", "http/1.1 200 OK", "HTTP/1.1 200 O\x00K", "HTTP/1.1 200 O\rK", "HTTP/1.1 200 O\nK", "\r\nHTTP/1.1 200 OK", "GET / HTTP/1.1", "HTTP/1.1 101 Switching Protocols",
    "HTTP/1.1 200 \xe9\xff", "HTTP/1.1\t200 OK", "HTTP/1.2 200 OK", "", "HTTP/1.1 205 Reset Content", "HTTP/1.1 +20 OK", "HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK",
)  # fmt: skip
_INTERIMS = (
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 103 A\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 103 A\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 199 B\r\nX-Gateway-Request-Id: forged\r\nProxy-Status: x\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"HTTP/1.0 100 Continue\r\n\r\n",
)  # fmt: skip


def answer(random: Random, number: int, part: int, evil: float, *, last: bool, to_head: bool) -> Answer:
    """An answer with this share of things wrong in it; 0 for none."""
    mark = tag(number, part)
    status = random.choice(_STATUSES)
    if not evil and status == 401:
        status = 400
    first = f"HTTP/1.1 {status} Fuzz"
    if random.random() < evil / 2:
        first = random.choice(_STATUS_LINES)
    lines = [f"X-Answer: <{mark}>"]
    lines += [_pick(random, _ANSWER_HEADERS, BAD_HEADERS, evil / 4) for _ in range(random.choice((0, 1, 2, 5)))]
    payload = _body(random, mark)
    if status >= 400 and random.random() < 0.3:
        payload = (
            f'{{"error_code": "APIG.0301", "error_msg": "Incorrect IAM authentication information: <{mark}>"}}'.encode()
        )
    bodiless = status in {204, 304}
    then = "keep"
    how = random.random()
    if bodiless and random.random() > evil:
        payload = b""
    elif how < 0.35:
        lines.append(_pick(random, CODINGS[:4], CODINGS, evil))
        payload = chunked(random, payload, evil)
    elif how < 0.85:
        lines.append(f"Content-Length: {len(payload)}")
    else:
        then = "close"  # only the end of the connection ends it
        if not evil:
            lines.append("Connection: close")  # or the next request may meet the end of it
    if random.random() < evil / 3:
        size = len(payload)
        lines.append(random.choice((
            f"Content-Length: {size}", f"Content-Length: {max(0, size - 1)}", f"Content-Length: {size + 1}", f"Content-Length: +{size}", "Content-Length: 1, 2", "Content-Length: -1",
            f"Content-Length : {size}", "Content-Length:", *CODINGS,
        )))  # fmt: skip
    random.shuffle(lines)
    end = "\r\n" if random.random() > evil / 8 else random.choice(("\n", "\r", "\r\r\n"))
    data = end.join([first, *lines, "", ""]).encode("latin-1") + payload
    if to_head and not evil:
        data = data[: data.index(b"\r\n\r\n") + 4]
    if random.random() < 0.15:
        data = b"".join(random.choice(_INTERIMS[: 9 if evil else 3]) for _ in range(random.choice((1, 1, 2)))) + data
    if random.random() < evil / 4:
        data = data[: random.randrange(len(data) + 1)]
    if random.random() < evil / 4:
        data += random.choice(
            (
                b"\r\n",
                b"stray",
                f"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad<{mark}>".encode(),
                b"\0",
                b"0\r\n\r\n",
            )
        )
    if random.random() < evil / 2:
        then = random.choice(("keep", "close", "half-close", "reset"))
    steps = split(random, data)
    if evil and len(steps) > 1 and random.random() < 0.2:
        steps[-1].wait_ms = random.randrange(1, 6)
    later = b""
    if last and random.random() < evil / 4:
        later = random.choice((b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", b"\r\n", b"x"))
    return Answer(steps, "head" if random.random() < evil / 4 else "body", then, later)
