"""Response heads, read to the letter of RFC 9112: what has two readings is no answer."""

import re
from collections.abc import Sequence

from gateway.headers import Names
from gateway.wire.fields import LENGTH_DIGITS, PLAIN_CONNECTIONS, FieldBlock, HeadError, read_fields, remember

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_STATUS_LINES: dict[bytes, tuple[int, bytes, int]] = {}
RESPONSE_NAMES = Names(response=True)


class ResponseHead:
    """A response head that was found whole and unambiguous.

    ``content_length`` is what was announced; ``until_close`` means that only the end of the connection ends the body.
    """

    __slots__ = ("bodiless", "chunked", "content_length", "fields", "keep_alive", "reason", "status", "until_close")

    status: int
    reason: bytes
    fields: FieldBlock
    content_length: int | None
    chunked: bool
    bodiless: bool
    until_close: bool
    keep_alive: bool


def read_response(lines: Sequence[bytes], *, to_head_request: bool) -> ResponseHead:
    """Read a response head, given as the lines that ``split_lines`` made of it.

    Raises:
        HeadError: not HTTP/1.x, malformed, or framed ambiguously.
    """
    response = ResponseHead()
    line = lines[0]
    response.status, response.reason, minor = _STATUS_LINES.get(line) or _read_status_line(line)
    response.fields = fields = read_fields(lines[1:], RESPONSE_NAMES)
    noted = fields.noted
    length, coding = noted.get(b"content-length"), noted.get(b"transfer-encoding")
    response.content_length, response.chunked = None, False
    if coding is not None:
        if length is not None or not minor:
            raise HeadError("Transfer-Encoding beside Content-Length or in HTTP/1.0")
        if coding.lower() != b"chunked":
            raise HeadError("a Transfer-Encoding other than chunked")
        response.chunked = True
    elif length is not None:
        response.content_length = announced_length(length)
    response.bodiless = to_head_request or response.status < 200 or response.status in {204, 304}
    response.until_close = not response.bodiless and not response.chunked and response.content_length is None
    connection = noted.get(b"connection")
    if connection is None:
        response.keep_alive = minor == 1
    elif connection in PLAIN_CONNECTIONS:
        response.keep_alive = PLAIN_CONNECTIONS[connection]
    else:
        tokens = {token.strip() for token in connection.lower().split(b",")}
        response.keep_alive = b"close" not in tokens and (minor == 1 or b"keep-alive" in tokens)
    return response


def announced_length(value: bytes) -> int:
    """What a response's Content-Length says; two fields have been joined with a comma.

    Raises:
        HeadError: it is not one decimal number.
    """
    if not value.isdigit() or len(value) > LENGTH_DIGITS:
        raise HeadError("a Content-Length that is not one decimal number")
    return int(value)


def _read_status_line(line: bytes) -> tuple[int, bytes, int]:
    """Status, reason phrase, minor version."""
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise HeadError("the status line is malformed")
    minor, status, reason = found.groups()
    read = (int(status), reason or b"", int(minor))
    remember(_STATUS_LINES, line, read)
    return read
