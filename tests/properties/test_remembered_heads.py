"""Heads that were read before: what is remembered says the same as reading anew."""

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.wire import request_head
from gateway.wire.request_head import RequestHead, parse_request

NUMBERS = st.one_of(
    st.integers(0, 10**6).map(lambda number: b"%d" % number),
    st.sampled_from([b"", b"007", b"-1", b"+1", b"1, 1", b"0x10", b"9" * 18, b"9" * 19, b" 5", b"5 ", b"5\t", b"\xb2"]),
)
# Names whose end looks like a length's, in spellings and spacings that do and do not make one.
NAMES = st.sampled_from(
    [
        b"Content-Length: ",
        b"content-length: ",
        b"CONTENT-LENGTH: ",
        b"Content-Length:",
        b"Content-Length:  ",
        b"Content_Length: ",
        b"X-Content-Length: ",
        b"X-Length: ",
        b"Wavelength: ",
        b" Content-Length: ",
        b"X-A: Content-Length: ",
    ]
)
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k"
OTHERS = st.sampled_from(
    [
        WEBSOCKET,
        b"Host: h",
        b"Origin: http://a",
        b"Expect: 100-continue",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: X-A",
        b"X-A: b",
        b"X-Forwarded-For: 1.2.3.4",
        b"X-Request-Id: 1",
    ]
)
# A line with a number, which the second head has another one for, or a line that stays.
PIECES = st.lists(st.one_of(st.tuples(NAMES, NUMBERS, NUMBERS), OTHERS), max_size=5)
LINES = st.sampled_from(
    [
        b"GET /a HTTP/1.1",
        b"POST /a HTTP/1.1",
        b"GET /a?length: HTTP/1.1",
        b"POST /length:%20 HTTP/1.1",
        b"PUT /b HTTP/1.0",
    ]
)


def verdict(read: RequestHead | GatewayError) -> object:
    if isinstance(read, GatewayError):
        return type(read), str(read), read.status
    fields = read.fields
    noted = {name: value for name, value in fields.noted.items() if name != b"content-length"}
    return (
        *(read.method, read.raw_path, read.raw_query, read.minor, read.content_length, read.chunked, read.keep_alive),
        *(read.expects_continue, read.websocket, list(fields.lines), list(fields.forwarded), noted, fields.repeated),
    )


def remembered(head: bytes) -> object:
    try:
        return verdict(parse_request(head))
    except GatewayError as error:
        return verdict(error)


def anew(head: bytes) -> object:
    request_head._HEADS.clear()
    return remembered(head)


@given(LINES, PIECES)
@example(b"GET /a HTTP/1.1", [WEBSOCKET, (b"Content-Length: ", b"5", b"0")])
def test_remembered_heads_say_what_reading_says(line: bytes, pieces: list[bytes | tuple[bytes, bytes, bytes]]) -> None:
    """Two heads that differ in numbers alone are each read as if there had been no other."""
    first = b"\r\n".join([line, b"Host: h", *(p if isinstance(p, bytes) else p[0] + p[1] for p in pieces)])
    second = b"\r\n".join([line, b"Host: h", *(p if isinstance(p, bytes) else p[0] + p[2] for p in pieces)])
    expected = [anew(first), anew(second)]

    request_head._HEADS.clear()
    assert [remembered(first), remembered(second)] == expected
    assert [remembered(first), remembered(second)] == expected


def test_memory_is_bounded() -> None:
    """Callers choose their heads: neither many nor large ones are kept."""
    request_head._HEADS.clear()
    for number in range(5000):
        parse_request(b"GET /%d HTTP/1.1\r\nHost: h" % number)
        assert len(request_head._HEADS) <= request_head._REMEMBERED_HEADS
    before = len(request_head._HEADS)
    parse_request(b"GET / HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 4096)
    assert len(request_head._HEADS) == before
