"""HTTP/1.1 messages read by the letter of RFC 9112; what has two readings is an error, on either side of a proxy."""

import re
from dataclasses import dataclass, field

from tests.conformance.wire import Wire

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~\x80-\xff]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) ([\t -~\x80-\xff]*)")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(;[\t -~\x80-\xff]*)?")
_HEAD_BYTES = 1024 * 1024


class Malformed(Exception):
    """What the proxy sent is not one unambiguous HTTP/1.1 message."""


class Ended(Exception):
    """The connection ended where a message should have begun, or inside one."""


@dataclass
class Message:
    """A head and as much of its body as came; ``complete`` when its own framing says so."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    head_bytes: bytes
    body: bytearray = field(default_factory=bytearray)
    body_bytes: int = 0
    complete: bool = False
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def values(self, name: str) -> list[bytes]:
        """Every value of a field, in order."""
        wanted = name.lower().encode()
        return [value for key, value in self.fields if key.lower() == wanted]

    def value(self, name: str) -> bytes | None:
        found = self.values(name)
        return found[0] if found else None

    @property
    def chunked(self) -> bool:
        return bool(self.values("transfer-encoding"))

    @property
    def length(self) -> int | None:
        found = self.value("content-length")
        return None if found is None else int(found)

    def names(self) -> set[bytes]:
        return {name.lower() for name, _ in self.fields}


@dataclass
class Request(Message):
    method: bytes = b""
    target: bytes = b""
    minor: int = 1


@dataclass
class Reply(Message):
    status: int = 0
    until_close: bool = False
    interims: "list[Reply]" = field(default_factory=list)
    arrived_at: float = 0.0

    @property
    def text(self) -> bytes:
        return bytes(self.body)


def read_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Field lines; names are tokens, values hold no control bytes.

    Raises:
        Malformed: they are not.
    """
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _TOKEN.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise Malformed(f"field line {line[:80]!r}")
        fields.append((name, value.strip(b" \t")))
    return fields


def _split(head: bytes) -> list[bytes]:
    lines = head.split(b"\r\n")
    if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        raise Malformed(f"bare CR, LF or NUL in head {head[:120]!r}")
    return lines


def _check_framing(message: Message, what: str) -> None:
    lengths, codings = message.values("content-length"), message.values("transfer-encoding")
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise Malformed(f"{what} with Transfer-Encoding {codings!r}")
    if codings and lengths:
        raise Malformed(f"{what} with Content-Length and Transfer-Encoding")
    if len(lengths) > 1 or (lengths and not lengths[0].isdigit()):
        raise Malformed(f"{what} with Content-Length {lengths!r}")


def parse_request(head: bytes) -> Request:
    lines = _split(head)
    found = _REQUEST_LINE.fullmatch(lines[0])
    if found is None:
        raise Malformed(f"request line {lines[0][:120]!r}")
    request = Request(lines[0], read_fields(lines[1:]), head, method=found[1], target=found[2], minor=int(found[3]))
    if len(request.values("host")) != 1:
        raise Malformed(f"{len(request.values('host'))} Host fields")
    _check_framing(request, "request")
    if request.minor == 0 and request.chunked:
        raise Malformed("HTTP/1.0 request with Transfer-Encoding")
    return request


def parse_reply(head: bytes) -> Reply:
    lines = _split(head)
    found = _STATUS_LINE.fullmatch(lines[0])
    if found is None:
        raise Malformed(f"status line {lines[0][:120]!r}")
    reply = Reply(lines[0], read_fields(lines[1:]), head, status=int(found[1]))
    _check_framing(reply, "answer")
    return reply


async def read_head(wire: Wire, seconds: float) -> bytes:
    """The bytes of the next head, without its empty line.

    Raises:
        Ended: the connection ended first. TimeoutError: nothing whole came in time. Malformed: far too long.
    """
    if not await wire.until(lambda: b"\r\n\r\n" in wire.buffer or wire.eof or len(wire.buffer) > _HEAD_BYTES, seconds):
        raise TimeoutError(f"no head within {seconds} s, but {bytes(wire.buffer[:120])!r}")
    end = wire.buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(wire.buffer) > _HEAD_BYTES:
            raise Malformed("a head over 1 MiB")
        raise Ended(f"ended {'by reset' if wire.was_reset else 'cleanly'} after {bytes(wire.buffer[:120])!r}")
    return wire.take(end + 4)[:-4]


def _keep(message: Message, data: bytes) -> None:
    message.body_bytes += len(data)
    if len(message.body) < _HEAD_BYTES:
        message.body += data


async def _read_counted(wire: Wire, message: Message, count: int, seconds: float) -> None:
    while count:
        if not wire.buffer:
            if not await wire.until(lambda: wire.buffer or wire.eof, seconds):
                raise TimeoutError(f"{count} body bytes missing after {seconds} s")
            if not wire.buffer:
                raise Ended(f"{count} body bytes missing")
        data = wire.take(count)
        count -= len(data)
        _keep(message, data)


async def _read_line(wire: Wire, seconds: float) -> bytes:
    if not await wire.until(lambda: b"\n" in wire.buffer or wire.eof or len(wire.buffer) > 65536, seconds):
        raise TimeoutError(f"no chunk line within {seconds} s")
    end = wire.buffer.find(b"\n")
    if end < 0:
        raise Ended("inside a chunk line")
    line = wire.take(end + 1)
    if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
        raise Malformed(f"chunk line {line[:80]!r}")
    return line[:-2]


async def read_chunked(wire: Wire, message: Message, seconds: float) -> None:
    while True:
        line = await _read_line(wire, seconds)
        found = _SIZE_LINE.fullmatch(line)
        if found is None:
            raise Malformed(f"chunk size {line[:80]!r}")
        size = int(found[1], 16)
        if not size:
            break
        await _read_counted(wire, message, size, seconds)
        if await _read_line(wire, seconds):
            raise Malformed("chunk data longer than its size")
    while line := await _read_line(wire, seconds):
        message.trailers += read_fields([line])
    message.complete = True


async def read_body(wire: Wire, message: Message, seconds: float) -> None:
    """A body with its own framing, to its end.

    Raises:
        Ended: the connection ended inside it. TimeoutError: it stopped. Malformed: its chunks are not RFC 9112 section 7.1.
    """
    if message.complete:
        return
    if message.chunked:
        await read_chunked(wire, message, seconds)
    else:
        await _read_counted(wire, message, message.length or 0, seconds)
        message.complete = True
