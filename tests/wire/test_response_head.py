"""Response heads read to the letter: what they say, and what is refused because it has two readings."""

import pytest

from gateway.wire.fields import HeadError, split_lines
from gateway.wire.response_head import read_response


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        pytest.param(b"HTTP/1.1 200 OK", 200, b"OK", id="plain"),
        pytest.param(b"HTTP/1.0 404 Not Found", 404, b"Not Found", id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 200 ", 200, b"", id="empty reason"),
        pytest.param(b"HTTP/1.1 200", 200, b"", id="no reason"),
        pytest.param(b"HTTP/1.1 494 \xe8\xaf\xb7\xe6\xb1\x82", 494, b"\xe8\xaf\xb7\xe6\xb1\x82", id="reason in UTF-8"),
    ],
)
def test_status_lines(line: bytes, status: int, reason: bytes) -> None:
    """Status and reason as they were sent."""
    head = read_response(split_lines(line), to_head_request=False)

    assert (head.status, head.reason) == (status, reason)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/2 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/1.1  200 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.1 200OK",
        b"ICY 200 OK",
        b"HTTP/1.1 \xb2\xb2\xb2 OK",
    ],
)
def test_status_lines_that_are_none(line: bytes) -> None:
    """What is not exactly HTTP/1.x with three digits is not an answer."""
    with pytest.raises(HeadError):
        read_response(split_lines(line), to_head_request=False)


@pytest.mark.parametrize(
    ("status", "to_head", "fields", "length", "chunked", "bodiless", "until_close"),
    [
        pytest.param(200, False, [b"Content-Length: 5"], 5, False, False, False, id="length"),
        pytest.param(200, False, [b"Transfer-Encoding: chunked"], None, True, False, False, id="chunked"),
        pytest.param(200, False, [], None, False, False, True, id="until close"),
        pytest.param(200, True, [b"Content-Length: 5"], 5, False, True, False, id="to HEAD"),
        pytest.param(204, False, [], None, False, True, False, id="204"),
        pytest.param(304, False, [b"Content-Length: 5"], 5, False, True, False, id="304"),
        pytest.param(103, False, [], None, False, True, False, id="103"),
    ],
)
def test_framing_of_answers(
    status: int,
    to_head: bool,
    fields: list[bytes],
    length: int | None,
    chunked: bool,
    bodiless: bool,
    until_close: bool,
) -> None:
    """How the body of an answer ends (RFC 9112 section 6.3)."""
    head = read_response(split_lines(b"\r\n".join([b"HTTP/1.1 %d X" % status, *fields])), to_head_request=to_head)

    found = (head.content_length, head.chunked, head.bodiless, head.until_close)
    assert found == (length, chunked, bodiless, until_close)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        pytest.param(b"HTTP/1.1 200 OK", [b"Content-Length: 1", b"Content-Length: 2"], id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK", [b"Content-Length: 1", b"Content-Length: 1"], id="the same length twice"),
        pytest.param(b"HTTP/1.1 200 OK", [b"Content-Length: x"], id="no number"),
        pytest.param(b"HTTP/1.1 200 OK", [b"Content-Length: 1", b"Transfer-Encoding: chunked"], id="both"),
        pytest.param(b"HTTP/1.1 200 OK", [b"Transfer-Encoding: gzip"], id="another coding"),
        pytest.param(b"HTTP/1.1 200 OK", [b"Transfer-Encoding: gzip, chunked"], id="one too many"),
        pytest.param(b"HTTP/1.0 200 OK", [b"Transfer-Encoding: chunked"], id="chunked in HTTP/1.0"),
    ],
)
def test_framing_of_answers_that_is_refused(line: bytes, fields: list[bytes]) -> None:
    """Hostile answers are read as strictly as hostile requests."""
    with pytest.raises(HeadError):
        read_response(split_lines(b"\r\n".join([line, *fields])), to_head_request=False)


@pytest.mark.parametrize(
    ("line", "fields", "keep_alive"),
    [
        pytest.param(b"HTTP/1.1 200 OK", [], True, id="HTTP/1.1"),
        pytest.param(b"HTTP/1.1 200 OK", [b"Connection: Close"], False, id="close"),
        pytest.param(b"HTTP/1.0 200 OK", [], False, id="HTTP/1.0"),
        pytest.param(b"HTTP/1.0 200 OK", [b"Connection: keep-alive"], True, id="HTTP/1.0 kept"),
        pytest.param(b"HTTP/1.0 200 OK", [b"Connection: keep-alive, close"], False, id="both"),
    ],
)
def test_whether_an_upstream_keeps_the_connection(line: bytes, fields: list[bytes], keep_alive: bool) -> None:
    """A connection is only used again when both sides mean it."""
    assert read_response(split_lines(b"\r\n".join([line, *fields])), to_head_request=False).keep_alive is keep_alive


def test_what_crosses_of_an_answer() -> None:
    """Hop-by-hop fields, framing and what only we may say stay behind; the rest passes in order."""
    fields = [
        b"Server: api-gateway",
        b"Connection: x-hop",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=60",
        b"Content-Length: 0",
        b"Proxy-Status: modelarts-gateway; error=forged",
        b"X-Gateway-Request-Id: forged",
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2",
        b"X-Request-Id: theirs",
        b"Access-Control-Allow-Origin: *",
    ]

    head = read_response(split_lines(b"\r\n".join([b"HTTP/1.1 200 OK", *fields])), to_head_request=False)

    assert list(head.fields.lines) == [
        b"Server: api-gateway",
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2",
        b"X-Request-Id: theirs",
    ]
    assert list(head.fields.forwarded) == [b"Access-Control-Allow-Origin: *"]
    assert head.fields.noted[b"x-request-id"] == b"theirs"
