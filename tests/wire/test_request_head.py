"""Request heads read to the letter: what passes, what it means, and what is refused because it has two readings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadPath, BadRequest, GatewayError, MethodNotAllowed
from gateway.wire.request_head import RequestHead, parse_request


def request(*fields: bytes, line: bytes = b"POST /a HTTP/1.1", host: bytes | None = b"Host: h") -> RequestHead:
    return parse_request(b"\r\n".join([line, *([host] if host is not None else []), *fields]))


@pytest.mark.parametrize(
    ("line", "method", "path", "query", "minor"),
    [
        pytest.param(b"GET / HTTP/1.1", "GET", "/", None, 1, id="plain"),
        pytest.param(b"GET /a HTTP/1.0", "GET", "/a", None, 0, id="HTTP/1.0"),
        pytest.param(b"POST /a?b=c HTTP/1.1", "POST", "/a", "b=c", 1, id="query"),
        pytest.param(b"POST /a? HTTP/1.1", "POST", "/a", "", 1, id="empty query"),
        pytest.param(b"GET /a?b?c HTTP/1.1", "GET", "/a", "b?c", 1, id="second question mark"),
        pytest.param(b"GET //x//y HTTP/1.1", "GET", "//x//y", None, 1, id="empty segments"),
        pytest.param(b"GET http://other:8/a?b HTTP/1.1", "GET", "/a", "b", 1, id="absolute form"),
        pytest.param(b"GET HTTPS://other HTTP/1.1", "GET", "/", None, 1, id="absolute form without a path"),
        pytest.param(b"GET http://other?x HTTP/1.1", "GET", "/", "x", 1, id="absolute form, query alone"),
        pytest.param(b"GET http://[::1]:8/a HTTP/1.1", "GET", "/a", None, 1, id="absolute form, IPv6"),
        pytest.param(b"M-SEARCH /a HTTP/1.1", "M-SEARCH", "/a", None, 1, id="method with a hyphen"),
    ],
)
def test_request_lines(line: bytes, method: str, path: str, query: str | None, minor: int) -> None:
    """Method, raw path and raw query come out as they were sent; an absolute target is its path."""
    head = request(line=line)

    assert (head.method, head.raw_path, head.raw_query, head.minor) == (method, path, query, minor)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param(b"GET /", 400, id="HTTP/0.9"),
        pytest.param(b"GET  / HTTP/1.1", 400, id="two spaces"),
        pytest.param(b" GET / HTTP/1.1", 400, id="leading space"),
        pytest.param(b"GET / HTTP/1.1 ", 400, id="trailing space"),
        pytest.param(b"GET\t/ HTTP/1.1", 400, id="tab"),
        pytest.param(b"GET /a b HTTP/1.1", 400, id="space in the target"),
        pytest.param(b"GET / http/1.1", 400, id="lower-case protocol"),
        pytest.param(b"GET / HTTP/1.10", 400, id="long minor version"),
        pytest.param(b"GET / HTTP/01.1", 400, id="long major version"),
        pytest.param(b"GET / HTTP/2.0", 505, id="HTTP/2"),
        pytest.param(b"GET / HTTP/1.2", 505, id="HTTP/1.2"),
        pytest.param(b"G(T / HTTP/1.1", 400, id="method is no token"),
        pytest.param(b"get / HTTP/1.1", 501, id="lower-case method"),
        pytest.param(b"A" * 33 + b" / HTTP/1.1", 501, id="long method"),
        pytest.param(b"", 400, id="empty"),
    ],
)
def test_request_lines_that_are_refused(line: bytes, status: int) -> None:
    """A request line that another server may read differently is refused."""
    with pytest.raises(BadRequest) as caught:
        request(line=line)

    assert caught.value.status == status


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param(b"GET a HTTP/1.1", BadPath, id="no slash"),
        pytest.param(b"OPTIONS * HTTP/1.1", BadPath, id="asterisk form"),
        pytest.param(b"GET ftp://x/a HTTP/1.1", BadPath, id="another scheme"),
        pytest.param(b"GET http:///a HTTP/1.1", BadPath, id="no authority"),
        pytest.param(b"GET http://u@h/a HTTP/1.1", BadPath, id="user information"),
        pytest.param(b"CONNECT h:443 HTTP/1.1", MethodNotAllowed, id="CONNECT"),
        pytest.param(b"TRACE /a HTTP/1.1", MethodNotAllowed, id="TRACE"),
    ],
)
def test_targets_and_methods_that_are_not_served(line: bytes, error: type[GatewayError]) -> None:
    """What is no path of ours, and the two methods that a gateway must not serve."""
    with pytest.raises(error):
        request(line=line)


def test_values_pass_as_they_are() -> None:
    """Spaces, tabs and bytes above ASCII within a value are the caller's business."""
    lines = [b"X-A:  two  spaces ", b"X-B:\ta\tb", b"X-C: gr\xfc\xdfe \xe8\xaf\x97", b"X-D:", b"x-a: again"]

    assert list(request(*lines).fields.lines) == lines


@pytest.mark.parametrize(
    "host",
    [
        b"Host: h",
        b"host: h:80",
        b"Host:   h.example.com  ",
        b"Host: [::1]:8080",
        b"Host: 10.0.0.1",
        b"Host: my_service.ns",
        b"Host: h:",
    ],
)
def test_hosts(host: bytes) -> None:
    """One host, with or without a port."""
    assert request(host=host).method == "POST"


@pytest.mark.parametrize(
    "hosts",
    [
        pytest.param([], id="missing"),
        pytest.param([b"Host: a", b"Host: a"], id="repeated"),
        pytest.param([b"Host:"], id="empty"),
        pytest.param([b"Host: a b"], id="space"),
        pytest.param([b"Host: a/b"], id="slash"),
        pytest.param([b"Host: u@a"], id="user information"),
        pytest.param([b"Host: a:b"], id="port is no number"),
        pytest.param([b"Host: ::1"], id="IPv6 without brackets"),
    ],
)
def test_hosts_that_are_refused(hosts: list[bytes]) -> None:
    """RFC 9112 section 3.2: exactly one valid Host."""
    with pytest.raises(BadRequest):
        request(*hosts, host=None)


def test_http_1_0_needs_no_host() -> None:
    """HTTP/1.0 knows no Host and closes unless it asks to be kept."""
    assert request(line=b"GET / HTTP/1.0", host=None).keep_alive is False
    assert request(b"Connection: keep-alive", line=b"GET / HTTP/1.0", host=None).keep_alive is True


@pytest.mark.parametrize(
    ("fields", "length", "chunked"),
    [
        pytest.param([], None, False, id="none"),
        pytest.param([b"Content-Length: 0"], 0, False, id="empty"),
        pytest.param([b"content-length:12 "], 12, False, id="length"),
        pytest.param([b"Content-Length: 007"], 7, False, id="leading zeros"),
        pytest.param([b"Transfer-Encoding: chunked"], None, True, id="chunked"),
        pytest.param([b"Transfer-Encoding: CHUNKED"], None, True, id="case"),
    ],
)
def test_framing(fields: list[bytes], length: int | None, chunked: bool) -> None:
    """Exactly one of Content-Length and chunked, or neither; neither travels as a line of the caller's."""
    head = request(*fields)

    assert (head.content_length, head.chunked, list(head.fields.lines)) == (length, chunked, [])


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param([b"Content-Length: 1", b"Content-Length: 1"], 400, id="the same length twice"),
        pytest.param([b"Content-Length: 1", b"Content-Length: 2"], 400, id="two lengths"),
        pytest.param([b"Content-Length: 1, 1"], 400, id="a list"),
        pytest.param([b"Content-Length: +1"], 400, id="sign"),
        pytest.param([b"Content-Length: -1"], 400, id="negative"),
        pytest.param([b"Content-Length: 0x1"], 400, id="hexadecimal"),
        pytest.param([b"Content-Length: 1_0"], 400, id="underscore"),
        pytest.param([b"Content-Length: "], 400, id="nothing"),
        pytest.param([b"Content-Length: \xb2"], 400, id="superscript digit"),
        pytest.param([b"Content-Length: " + b"9" * 19], 400, id="beyond any number"),
        pytest.param([b"Content-Length: 1", b"Transfer-Encoding: chunked"], 400, id="both"),
        pytest.param([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], 400, id="chunked twice"),
        pytest.param([b"Transfer-Encoding: chunked, chunked"], 400, id="chunked twice in one line"),
        pytest.param([b"Transfer-Encoding: gzip, chunked"], 501, id="a coding we do not have"),
        pytest.param([b"Transfer-Encoding: chunked, gzip"], 400, id="chunked not last"),
        pytest.param([b"Transfer-Encoding: identity"], 400, id="identity"),
        pytest.param([b"Transfer-Encoding: xchunked"], 400, id="alike"),
        pytest.param([b"Transfer-Encoding: \x0bchunked"], 400, id="control byte before"),
        pytest.param([b"Transfer-Encoding: chunked;q=1"], 400, id="parameter"),
        pytest.param([b"Transfer-Encoding:"], 400, id="empty coding"),
    ],
)
def test_framing_that_is_refused(fields: list[bytes], status: int) -> None:
    """Framing that two servers may count differently is how requests are smuggled."""
    with pytest.raises(BadRequest) as caught:
        request(*fields)

    assert caught.value.status == status


def test_http_1_0_has_no_transfer_encoding() -> None:
    """RFC 9112 section 6.1."""
    with pytest.raises(BadRequest):
        request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0")


@pytest.mark.parametrize("look_alike", [b"Content_Length: 5", b"Transfer_Encoding: chunked", b"content_length: x"])
def test_look_alikes_frame_nothing(look_alike: bytes) -> None:
    """A name with ``_`` for ``-`` is not read as the real one, and does not travel to a server that would."""
    head = request(look_alike)

    assert (head.content_length, head.chunked, list(head.fields.lines)) == (None, False, [])


@pytest.mark.parametrize(
    ("fields", "kept", "keep_alive"),
    [
        pytest.param([], [b"X-A: 1", b"X-B: 2"], True, id="none"),
        pytest.param([b"Connection: close"], [b"X-A: 1", b"X-B: 2"], False, id="close"),
        pytest.param([b"Connection: x-a"], [b"X-B: 2"], True, id="named"),
        pytest.param([b"Connection: X-A , close", b"connection: x-b"], [], False, id="named in two lines"),
        pytest.param([b"Connection: x_a"], [b"X-B: 2"], True, id="named with an underscore"),
        pytest.param([b"Connection: , ,"], [b"X-A: 1", b"X-B: 2"], True, id="empty members"),
    ],
)
def test_connection(fields: list[bytes], kept: list[bytes], keep_alive: bool) -> None:
    """What Connection names is hop-by-hop (RFC 9110 section 7.6.1)."""
    head = request(*fields, b"X-A: 1", b"X-B: 2")

    assert (list(head.fields.lines), head.keep_alive) == (kept, keep_alive)


WEBSOCKET = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: k"]


@pytest.mark.parametrize(
    ("line", "fields", "websocket"),
    [
        pytest.param(b"GET /a HTTP/1.1", WEBSOCKET, True, id="handshake"),
        pytest.param(
            b"GET /a HTTP/1.1", [*WEBSOCKET[1:], b"Connection: keep-alive, upgrade"], True, id="Firefox's Connection"
        ),
        pytest.param(b"POST /a HTTP/1.1", WEBSOCKET, False, id="POST"),
        pytest.param(b"GET /a HTTP/1.0", WEBSOCKET, False, id="HTTP/1.0"),
        pytest.param(b"GET /a HTTP/1.1", WEBSOCKET[1:], False, id="no Connection"),
        pytest.param(b"GET /a HTTP/1.1", WEBSOCKET[:-1], False, id="no key"),
        pytest.param(b"GET /a HTTP/1.1", [*WEBSOCKET, b"Content-Length: 4"], False, id="with a body"),
        pytest.param(b"GET /a HTTP/1.1", [WEBSOCKET[0], b"Upgrade: h2c", *WEBSOCKET[2:]], False, id="h2c"),
    ],
)
def test_websocket_handshakes(line: bytes, fields: list[bytes], websocket: bool) -> None:
    """Only a whole handshake is one; Upgrade itself never travels as the caller's line."""
    head = request(*fields, line=line)

    assert head.websocket is websocket
    assert not [field for field in list(head.fields.lines) if field.lower().startswith((b"upgrade", b"connection"))]


@pytest.mark.parametrize(
    ("fields", "expects"),
    [
        pytest.param([b"Expect: 100-continue", b"Content-Length: 1"], True, id="with a body"),
        pytest.param([b"expect: 100-Continue", b"Transfer-Encoding: chunked"], True, id="chunked"),
        pytest.param([b"Expect: 100-continue"], False, id="without a body"),
        pytest.param([b"Expect: 100-continue", b"Content-Length: 0"], False, id="with an empty body"),
    ],
)
def test_expectations(fields: list[bytes], expects: bool) -> None:
    """100-continue counts where something would be uploaded."""
    assert request(*fields).expects_continue is expects


def test_expectations_we_cannot_meet() -> None:
    """RFC 9110 section 10.1.1."""
    with pytest.raises(BadRequest) as caught:
        request(b"Expect: a-miracle")

    assert caught.value.status == 417


def test_heads_are_independent() -> None:
    """What was read once may be remembered, but never mixes with the next head."""
    first, second = request(b"X-A: 1", b"Origin: a"), request(b"X-A: 2", b"Origin: b")
    with pytest.raises(AttributeError):
        first.fields.lines.append(b"X-Injected: 1")  # type: ignore[attr-defined]

    third = request(b"X-A: 1", b"Origin: a")
    assert second.fields.noted[b"origin"] == b"b"
    assert third.fields.lines == (b"X-A: 1", b"Origin: a")


NAMES = st.from_regex(r"\A[A-Za-z][A-Za-z0-9-]{0,12}\Z")
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_lines_that_cross_are_a_part_of_those_that_came(fields: list[tuple[str, str]]) -> None:
    """Whatever well-formed fields come: lines leave unchanged and in order, or not at all; nothing is made up."""
    lines = [f"{name}: {value}".encode("latin-1") for name, value in fields]
    try:
        head = request(*lines)
    except GatewayError:
        return  # framing or Connection that has two readings
    position = 0
    for line in list(head.fields.lines):
        position = lines.index(line, position) + 1
