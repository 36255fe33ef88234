"""The chunked transfer coding (RFC 9112 section 7.1), read strictly and written by us alone."""

import re

from gateway.headers import Names
from gateway.wire.fields import HeadError, read_fields, split_lines

# Sixteen hex digits are 2**64; the extension may hold what a field value may.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t -~\x80-\xff]*)?")
_SHORT_BYTES = 2048  # of a chunk whose size line is looked up
_LINE_BYTES = 1024  # size and extension; real ones are a handful of bytes
_TRAILER_BYTES = 16 * 1024
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})
_NAMES = Names(response=False)


class ChunkedReader:
    """Takes the framing off, read by read. After ``ended``, ``rest`` holds the bytes behind the message."""

    __slots__ = ("_left", "_pending", "_state", "ended", "rest")

    def __init__(self) -> None:
        self._state = 0  # 0 size line, 1 data, 2 CR LF after data, 3 trailer section
        self._left = 0
        self._pending = b""
        self.ended = False
        self.rest = b""

    def whole(self, data: bytes) -> int:
        """How long the payload is where these bytes are one chunk and nothing else, as ``chunk`` writes it; else 0.

        Most reads of a stream are. Long ones are not looked at: they cost little for their length anyway.
        """
        if self._state or self._pending or len(data) >= _SHORT_BYTES:
            return 0
        size_line = _SIZE_LINES[len(data)]
        if size_line and data.startswith(size_line) and data.endswith(b"\r\n"):
            return len(data) - len(size_line) - 2
        return 0

    def feed(self, data: bytes) -> bytes:
        """The payload in these bytes, possibly none.

        Raises:
            HeadError: the framing is broken or ambiguous.
        """
        if self._pending:
            data = self._pending + data
            self._pending = b""
        elif length := self.whole(data):
            return data[-2 - length : -2]
        payload: list[bytes] = []
        at, end = 0, len(data)
        while True:
            if self._state == 1:
                upto = min(end, at + self._left)
                if upto > at:
                    payload.append(data[at:upto])
                    self._left -= upto - at
                    at = upto
                if self._left:
                    break
                self._state = 2
            if self._state == 2:
                if end - at < 2:
                    if end > at and data[at] != 0x0D:
                        raise HeadError("a chunk is longer than its size says")
                    break
                if data[at : at + 2] != b"\r\n":
                    raise HeadError("a chunk is longer than its size says")
                at += 2
                self._state = 0
            if self._state == 3:
                at = self._read_trailers(data, at)
                break
            line_end = data.find(b"\r\n", at, at + _LINE_BYTES + 2)
            if line_end < 0:
                if end - at > _LINE_BYTES or b"\n" in data[at:] or b"\r" in data[at : end - 1]:
                    raise HeadError("a chunk size line is too long or has no CR LF")
                break
            found = _SIZE_LINE.fullmatch(data, at, line_end)
            if found is None:
                raise HeadError("a chunk size is not a hexadecimal number")
            at = line_end + 2
            self._left = int(found[1], 16)
            self._state = 1 if self._left else 3
        if not self.ended and at < end:
            self._pending = data[at:]
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _read_trailers(self, data: bytes, at: int) -> int:
        """Check the trailer section and drop it: nobody behind us was promised trailers."""
        if data.startswith(b"\r\n", at):
            self._finish(data[at + 2 :])
            return len(data)
        end = data.find(b"\r\n\r\n", at)
        if (end if end >= 0 else len(data)) - at > _TRAILER_BYTES:
            raise HeadError("the trailer section is too long")
        if end < 0:
            rest = data[at:]
            if rest.count(b"\n") != rest.count(b"\r\n"):
                raise HeadError("a line of the trailer section does not end in CR LF")
            return at
        fields = read_fields(split_lines(data[at:end]), _NAMES)
        if not _FRAMING.isdisjoint(fields.noted):
            raise HeadError("a framing field in the trailer section (RFC 9110 section 6.5.1)")
        self._finish(data[end + 4 :])
        return len(data)

    def _finish(self, rest: bytes) -> None:
        self.ended = True
        self.rest = rest


def chunk(data: bytes) -> bytes:
    """One chunk around ``data``, which must not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _size_line(total_bytes: int) -> bytes:
    """What a chunk of so many bytes, framing included, begins with as ``chunk`` writes it; empty where none is so long."""
    for digits in range(1, 4):
        length = total_bytes - digits - 4
        line = b"%x\r\n" % length if length > 0 else b""
        if len(line) == digits + 2:
            return line
    return b""


_SIZE_LINES = tuple(map(_size_line, range(_SHORT_BYTES)))
LAST_CHUNK = b"0\r\n\r\n"
