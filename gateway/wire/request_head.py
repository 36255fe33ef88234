"""Request heads, read to the letter of RFC 9112, and those that come again from memory.

Whatever has two readings is refused: more than one Content-Length or Host, any framing but exactly one of Content-Length
and ``chunked``.
"""

import itertools
import re
from collections.abc import Mapping

from gateway.errors import BadPath, BadRequest, MethodNotAllowed
from gateway.headers import TOKEN, Names
from gateway.wire.fields import (
    LENGTH_DIGITS,
    PLAIN_CONNECTIONS,
    FieldBlock,
    HeadError,
    read_fields,
    remember,
    split_lines,
)

_REQUEST_LINE = re.compile(rb"([!-~]+) ([!-~\x80-\xff]+) HTTP/([0-9])\.([0-9])")
_METHOD = re.compile(rb"[A-Z][A-Z0-9_-]{0,31}")
# RFC 3986 section 3.2.2 and 3.2.3; an empty host is no use to anybody here.
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9\-._~!$&'()*+,;=%]{1,255})(?::[0-9]{0,5})?")
_NAMES = Names(response=False)

_REQUEST_LINES: dict[bytes, tuple[str, int, str, str | None]] = {}
_HOSTS: dict[bytes, bytes] = {}

# Programs send the same head again and again, but for its Content-Length: such heads are read once. Few and small, as
# callers choose them.
_HEADS: "dict[bytes, RequestHead]" = {}
_REMEMBERED_HEADS = 512
_REMEMBERED_HEAD_BYTES = 2048
_numbers = itertools.count(1)  # none is given twice


class RequestHead:
    """A request head that was found whole and unambiguous."""

    __slots__ = (
        "chunked",
        "content_length",
        "expects_continue",
        "fields",
        "keep_alive",
        "method",
        "minor",
        "number",
        "raw_path",
        "raw_query",
        "websocket",
    )

    method: str
    raw_path: str
    raw_query: str | None
    minor: int
    fields: FieldBlock
    number: int  # the same for heads that differ in their length alone; 0 for one that is not remembered
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    websocket: bool

    def with_content_length(self, content_length: int) -> "RequestHead":
        """The same head, of another body."""
        other = RequestHead()
        other.method, other.raw_path, other.raw_query = self.method, self.raw_path, self.raw_query
        other.minor, other.fields, other.chunked = self.minor, self.fields, self.chunked
        other.number = self.number
        other.keep_alive, other.expects_continue = self.keep_alive, self.expects_continue
        other.websocket, other.content_length = self.websocket, content_length
        return other


def parse_request(head: bytes) -> RequestHead:
    """Read a request head, without its final empty line. What it gives may be shared: it is not to be changed.

    Raises:
        BadRequest: malformed or ambiguous (400), a transfer coding or method we do not have (501), not HTTP/1.x (505),
            an expectation we cannot meet (417).
        BadPath: the target is not a path.
        MethodNotAllowed: CONNECT or TRACE.
    """
    # What stands behind the first "ength: " is cut out, so that the place of the cut follows from what is left. Only
    # heads where that is the Content-Length are remembered: any other number in its place makes the same head.
    before, mark, behind = head.partition(b"ength: ")
    if not mark:
        return _HEADS.get(head) or _learn(head, head, _read_request(head))
    length, end, rest = behind.partition(b"\r\n")
    if not length.isdigit() or len(length) > LENGTH_DIGITS:
        return _read_request(head)
    key = b"".join((before, mark, end, rest))
    known = _HEADS.get(key)
    if known is None:
        request = _read_request(head)
        return _learn(key, head, request) if before.lower().endswith(b"\r\ncontent-l") else request
    content_length = int(length)
    return known if content_length == known.content_length else known.with_content_length(content_length)


def _learn(key: bytes, head: bytes, request: RequestHead) -> RequestHead:
    """Remember a head; several requests share it from then on, so its fields cannot be changed any more."""
    fields = request.fields
    # What else depends on the length is rare: 100-continue, and whether it is a WebSocket handshake.
    depends = b"expect" in fields.noted or b"sec-websocket-key" in fields.noted
    if len(head) <= _REMEMBERED_HEAD_BYTES and not depends:
        fields.lines, fields.forwarded = tuple(fields.lines), tuple(fields.forwarded)
        # The head's own content_length is what counts.
        fields.noted = {name: value for name, value in fields.noted.items() if name != b"content-length"}
        if len(_HEADS) >= _REMEMBERED_HEADS:
            _HEADS.clear()
        _HEADS[key] = request
        request.number = next(_numbers)
    return request


def _read_request(head: bytes) -> RequestHead:
    try:
        lines = split_lines(head)
        request = RequestHead()
        request.number = 0
        line = lines.pop(0)
        request.method, request.minor, request.raw_path, request.raw_query = _REQUEST_LINES.get(
            line
        ) or _read_request_line(line)
        request.fields = fields = read_fields(lines, _NAMES)
    except HeadError as error:
        raise BadRequest(f"The request is malformed: {error}.") from None
    noted = fields.noted
    host = noted.get(b"host")
    if host is None:
        if request.minor:
            raise BadRequest("The request has no Host field (RFC 9112 section 3.2).")
    elif host not in _HOSTS and not _is_host(host):
        raise BadRequest("The request's Host field is repeated or is not a host (RFC 9112 section 3.2).")
    _read_framing(request, noted)
    _read_connection(request, noted)
    return request


def _is_host(host: bytes) -> bool:
    if _AUTHORITY.fullmatch(host) is None:
        return False
    remember(_HOSTS, host, host)
    return True


def _read_request_line(line: bytes) -> tuple[str, int, str, str | None]:
    """Method, minor version, raw path, raw query."""
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise HeadError("the first line is not 'METHOD target HTTP/1.1' (RFC 9112 section 3)")
    method, target, major, minor = found.groups()
    if major != b"1" or minor not in b"01":
        raise BadRequest("This gateway speaks HTTP/1.1 and HTTP/1.0.", status=505)
    if _METHOD.fullmatch(method) is None:
        if TOKEN.fullmatch(method) is None:
            raise HeadError("the method is not a token (RFC 9110 section 9.1)")
        raise BadRequest("Methods are upper case and at most 32 characters.", status=501)
    if method in {b"CONNECT", b"TRACE"}:
        raise MethodNotAllowed("CONNECT and TRACE are not available here: this is a gateway to configured upstreams.")
    if target[0] != 0x2F:
        target = _path_of_absolute(target)
    path, mark, query = target.decode("latin-1").partition("?")
    read = (method.decode("ascii"), 1 if minor == b"1" else 0, path, query if mark else None)
    remember(_REQUEST_LINES, line, read)
    return read


def _path_of_absolute(target: bytes) -> bytes:
    """The origin form of an absolute-form target (RFC 9112 section 3.2.2); its authority has no say here."""
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in {b"http", b"https"}:
        raise BadPath("The request target must be a path that starts with '/', or an http URL.")
    end = min((at for at in (rest.find(b"/"), rest.find(b"?"), rest.find(b"#")) if at >= 0), default=len(rest))
    if _AUTHORITY.fullmatch(rest[:end]) is None:
        raise BadPath("The request target's host is not a host.")
    path = rest[end:]
    return path if path.startswith(b"/") else b"/" + path


def _read_framing(request: RequestHead, noted: Mapping[bytes, bytes]) -> None:
    """Exactly one of Content-Length and ``Transfer-Encoding: chunked``, or neither (RFC 9112 section 6)."""
    length, coding = noted.get(b"content-length"), noted.get(b"transfer-encoding")
    request.content_length, request.chunked = None, False
    if coding is not None:
        if length is not None:
            raise BadRequest("Content-Length and Transfer-Encoding together are ambiguous (RFC 9112 section 6.1).")
        if not request.minor:
            raise BadRequest("HTTP/1.0 has no Transfer-Encoding (RFC 9112 section 6.1).")
        if coding.lower() != b"chunked":
            codings = [part.strip().lower() for part in coding.split(b",")]
            final_only = codings[-1] == b"chunked" and codings.count(b"chunked") == 1
            raise BadRequest(
                "The only Transfer-Encoding taken here is 'chunked', once; encode the content with Content-Encoding.",
                status=501 if final_only else 400,
            )
        request.chunked = True
    elif length is not None:
        # isdigit() of bytes knows ASCII digits only; two fields have been joined with a comma
        if not length.isdigit() or len(length) > LENGTH_DIGITS:
            raise BadRequest("Content-Length must be one decimal number (RFC 9112 section 6.2).")
        request.content_length = int(length)


def _read_connection(request: RequestHead, noted: Mapping[bytes, bytes]) -> None:
    connection = noted.get(b"connection")
    request.websocket = False
    if connection is None:
        request.keep_alive = request.minor == 1
    elif connection in PLAIN_CONNECTIONS:
        request.keep_alive = PLAIN_CONNECTIONS[connection]
    else:
        tokens = {token.strip() for token in connection.lower().split(b",")}
        request.keep_alive = b"close" not in tokens and (request.minor == 1 or b"keep-alive" in tokens)
        if b"upgrade" in tokens and request.method == "GET" and request.minor:
            request.websocket = (
                noted.get(b"upgrade", b"").lower() == b"websocket"
                and noted.get(b"sec-websocket-version") == b"13"
                and b"sec-websocket-key" in noted
                and not request.chunked
                and not request.content_length
            )
    expect = noted.get(b"expect")
    request.expects_continue = False
    if expect is not None and request.minor:
        if expect.lower() != b"100-continue":
            raise BadRequest("The only expectation met here is 100-continue (RFC 9110 section 10.1.1).", status=417)
        request.expects_continue = request.chunked or bool(request.content_length)
