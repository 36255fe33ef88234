"""Answers that are alike: what is read of them says the same as reading each in full."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.wire.alike import ResponseHeads
from gateway.wire.fields import HeadError, split_lines
from gateway.wire.response_head import ResponseHead, read_response
from tests.properties.bounds import bounded

# What answers say as a rule, and what one of them may suddenly say instead; some of it breaks a head.
USUAL = {
    b"Date": b"Mon, 01 Jan 2024 00:00:0%d GMT",
    b"Server": b"s/%d",
    b"X-Request-Id": b"id-%d",
    b"X_Request_Id": b"id-%d",
    b"Content-Type": b"text/%d",
    b"Content-Length": b"1%d",
    b"Keep-Alive": b"timeout=5, max=%d",
    b"Transfer-Encoding": b"chunked",
    b"Connection": b"keep-alive, X-%d",
    b"Access-Control-Allow-Origin": b"http://a%d",
    b"Set-Cookie": b"a=%d",
    b"Alt-Svc": b"h3=%d",
    b"X-A": b"%d",
}
BROKEN = [b"-1", b"0x10", b"1, 1", b"9" * 19, b"a\rb", b"a\nb", b"a\x00b", b"gzip", b"identity"]
SOUND = [b"", b" ", b" 5 ", b"\t5", b"007", b"a: b", b"\xe9", b"a\r\nX-A: 9", b"close", b"Close", b"X-A", b"chunked"]
SUDDEN = st.sampled_from([*BROKEN, *SOUND])
FIELDS = st.lists(
    st.tuples(st.sampled_from(sorted(USUAL)), st.booleans()),  # a name, and whether its value varies
    max_size=6,
)
STATUSES = st.sampled_from(
    [b"HTTP/1.1 200 OK"] * 6
    + [b"HTTP/1.1 404 X", b"HTTP/1.1 204 X", b"HTTP/1.1 304 X", b"HTTP/1.0 200 OK", b"HTTP/1.1"]
)
# What is special about an answer: its status, to HEAD, values, and a line that is gone, or comes twice or last.
SPECIAL = st.tuples(
    STATUSES,
    st.booleans(),
    st.dictionaries(st.integers(0, 5), SUDDEN, max_size=2),
    st.none() | st.tuples(st.integers(0, 5), st.sampled_from(["gone", "twice", "last", "lower"])),
)


def head_of(
    fields: list[tuple[bytes, bool]],
    number: int,
    status: bytes = b"HTTP/1.1 200 OK",
    sudden: dict[int, bytes] | None = None,
    moved: tuple[int, str] | None = None,
) -> bytes:
    lines = []
    for at, (name, varies) in enumerate(fields):
        usual = USUAL[name]
        if b"%d" in usual:
            usual %= number if varies else 0
        elif varies and number % 2:
            usual = usual.upper()
        value = (sudden or {}).get(at, usual)
        lines.append(name + b": " + value)
    if moved is not None and moved[0] < len(lines):
        line = lines.pop(moved[0])
        again = {"gone": [], "twice": [line, line], "last": [line], "lower": [line.lower()]}[moved[1]]
        lines += again
    return b"\r\n".join([status, *lines])


def verdict(read: ResponseHead | HeadError) -> object:
    if isinstance(read, HeadError):
        return str(read)
    fields = read.fields
    return (
        *(
            read.status,
            read.reason,
            read.content_length,
            read.chunked,
            read.bodiless,
            read.until_close,
            read.keep_alive,
        ),
        *(b"\r\n".join(fields.lines), list(fields.forwarded), dict(fields.noted), fields.repeated),
    )


def said(read: ResponseHeads | None, head: bytes, to_head_request: bool) -> object:
    try:
        if read is None:
            return verdict(read_response(split_lines(head), to_head_request=to_head_request))
        return verdict(read.parse(head, to_head_request=to_head_request))
    except HeadError as error:
        return verdict(error)


@settings(bounded, max_examples=1500)
@given(FIELDS, st.integers(2, 4), st.lists(SPECIAL, min_size=1, max_size=3))
@example([(b"Connection", True)], 3, [(b"HTTP/1.1 200 OK", False, {0: b"close"}, None)])
@example([(b"Transfer-Encoding", True)], 3, [(b"HTTP/1.1 200 OK", False, {0: b"gzip"}, None)])
@example([(b"X-A", True), (b"Content-Length", True)], 3, [(b"HTTP/1.1 200 OK", True, {}, None)])
def test_reading_what_varies_says_what_reading_all_says(
    fields: list[tuple[bytes, bool]],
    ordinary: int,
    special: list[tuple[bytes, bool, dict[int, bytes], tuple[int, str] | None]],
) -> None:
    """However the answers of a connection follow each other, each is read as if it were the first."""
    heads = ResponseHeads()
    asked = [(head_of(fields, number), False) for number in range(ordinary)]
    for number, (status, to_head_request, sudden, moved) in enumerate(special):
        asked.append((head_of(fields, ordinary + number, status, sudden, moved), to_head_request))
        asked.append((head_of(fields, number), False))

    for head, to_head_request in asked:
        assert said(heads, head, to_head_request) == said(None, head, to_head_request)


def alike(number: int, *more: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Server: s", b"X-Request-Id: %d" % number, b"X-A: a", b"X-B: b", *more])


def test_only_what_varies_is_looked_at() -> None:
    """From the third answer on, neighbouring lines that never vary cross as one piece."""
    heads = ResponseHeads()
    pieces = [list(heads.parse(alike(number), to_head_request=False).fields.lines) for number in range(4)]

    assert [len(lines) for lines in pieces] == [4, 4, 3, 3]
    assert pieces[3] == [b"Server: s", b"X-Request-Id: 3", b"X-A: a\r\nX-B: b"]


def test_what_varied_once_may_vary() -> None:
    """A value that stood still for two answers does not count as one that never varies."""
    heads = ResponseHeads()
    for date, number in ((b"a", 1), (b"b", 1), (b"b", 2)):
        heads.parse(alike(number, b"Date: " + date), to_head_request=False)

    heads.parse(alike(3, b"Date: c"), to_head_request=False)
    assert heads._tries == ResponseHeads()._tries - 3


def test_answers_never_share_what_may_change() -> None:
    """What one answer noted is not what another one did, and none is changed by the next."""
    heads = ResponseHeads()
    read = [heads.parse(alike(number), to_head_request=False) for number in range(6)]

    assert [response.fields.noted[b"x-request-id"] for response in read] == [b"%d" % number for number in range(6)]


def test_a_connection_stops_looking() -> None:
    """Answers that are never alike cost no more than to read them, after a few."""
    heads = ResponseHeads()
    for number in range(200):
        heads.parse(alike(number, b"X-%d: c" % number), to_head_request=False)

    assert heads._tries == 0
    assert heads.parse(alike(1), to_head_request=False).fields.noted[b"x-request-id"] == b"1"
