"""HTTP/1.1 read by the letter of RFC 9112, independently of the gateway: what it calls whole has exactly one reading.

Deliberately more lenient than the gateway where leniency is harmless (empty lines before a request line, white space
in chunk extensions, any trailer field), so that everything refused here must be refused there. With ``ours=True``
it reads what the gateway itself wrote, and forgives nothing at all.
"""

import re
from dataclasses import dataclass, field
from enum import Enum

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_NAME = re.compile(_TOKEN)
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-5][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_OUR_STATUS_LINE = re.compile(rb"HTTP/1\.(1) ([1-5][0-9]{2}) ([\t -~\x80-\xff]*)")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*)(?::[0-9]*)?")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_OUR_SIZE_LINE = re.compile(rb"([1-9a-f][0-9a-f]{0,15}|0)")
_BODILESS = frozenset({204, 304})


class Verdict(Enum):
    WHOLE = "whole"  # one message, to its last byte
    SHORT = "short"  # so far nothing is wrong, but the bytes end inside it
    MALFORMED = "malformed"  # it can never become a message with one reading
    NOTHING = "nothing"  # no byte of a message is there


class _Wrong(Exception):
    """Why a message is malformed."""


class _Short(Exception):
    """The bytes end here."""


@dataclass
class Read:
    """What was read of one message. ``lines`` are its field lines as they stand; the head is sound if ``start`` is set."""

    verdict: Verdict = Verdict.SHORT
    why: str = ""
    start: bytes = b""
    lines: list[bytes] = field(default_factory=list)
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    end: int = 0  # offset behind the message

    method: bytes = b""
    target: bytes = b""
    minor: int = 1
    status: int = 0
    reason: bytes = b""
    chunked: bool = False
    length: int | None = None
    until_close: bool = False
    interims: "list[Read]" = field(default_factory=list)

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    def value(self, name: bytes) -> bytes | None:
        found = self.values(name)
        return found[0] if found else None

    @property
    def whole(self) -> bool:
        return self.verdict is Verdict.WHOLE

    @property
    def sound_head(self) -> bool:
        return bool(self.start)

    @property
    def upgrade(self) -> bool:
        return any(b"upgrade" in value.lower() for value in self.values(b"connection"))


def read_request(data: bytes, at: int = 0, *, ours: bool = False) -> Read:
    """The request that begins at ``at``."""
    read = Read(end=len(data))
    try:
        if not ours:
            while data.startswith(b"\r\n", at):
                at += 2
        if at >= len(data):
            read.verdict = Verdict.NOTHING
            return read
        if data.startswith(b"HEAD ", at):
            read.method = b"HEAD"  # decides whether even a refusal may have content
        first, lines, at = _head(data, at)
        found = _REQUEST_LINE.fullmatch(first)
        if found is None:
            raise _Wrong("request line")
        _read_fields(read, lines)
        read.method, read.target, read.minor = found[1], found[2], int(found[3])
        _check_target(read.method, read.target, ours=ours)
        hosts = read.values(b"host")
        if len(hosts) > 1 or (not hosts and read.minor) or any(not _HOST.fullmatch(host) for host in hosts):
            raise _Wrong("host")
        _read_framing(read)
        if ours and (read.minor != 1 or not read.target.startswith(b"/")):
            raise _Wrong("we speak HTTP/1.1 and origin-form")
        read.start = first
        _read_body(read, data, at, ours=ours)
    except _Short:
        pass
    except _Wrong as error:
        read.verdict, read.why = Verdict.MALFORMED, str(error)
    return read


def read_requests(data: bytes, *, ours: bool = False) -> list[Read]:
    """All requests of a connection; only the last may be anything but whole."""
    reads: list[Read] = []
    at = 0
    while True:
        read = read_request(data, at, ours=ours)
        if read.verdict is Verdict.NOTHING:
            return reads
        reads.append(read)
        if not read.whole:
            return reads
        at = read.end


def read_answer(
    data: bytes, at: int, method: bytes, *, closed: bool, upgrade: bool = False, ours: bool = False
) -> Read:
    """The final answer to ``method`` that begins at ``at``, behind its informational ones.

    ``closed``: the connection ended in order behind these bytes, which completes a body without a framing.
    """
    interims: list[Read] = []
    while True:
        read = Read(end=len(data), interims=interims)
        if at >= len(data):
            read.verdict = Verdict.NOTHING
            return read
        try:
            first, lines, at = _head(data, at)
            found = (_OUR_STATUS_LINE if ours else _STATUS_LINE).fullmatch(first)
            if found is None:
                raise _Wrong("status line")
            read.status, read.reason = int(found[2]), found[3] or b""
            read.minor = int(found[1])
            _read_fields(read, lines)
            if read.status == 101 and not upgrade:
                raise _Wrong("101 unasked")
            bodiless = method == b"HEAD" or read.status < 200 or read.status in _BODILESS
            _read_framing(read)
            if ours and (read.status < 200 or read.status == 204) and (read.length is not None or read.chunked):
                raise _Wrong("framing fields on 1xx or 204")
            if 100 <= read.status < 200 and read.status != 101:
                read.start, read.verdict, read.end = first, Verdict.WHOLE, at
                interims.append(read)
                continue
            read.start = first
            if bodiless:
                read.verdict, read.end = Verdict.WHOLE, at
            elif read.chunked or read.length is not None:
                _read_body(read, data, at, ours=ours)
            else:
                read.until_close = True
                read.body = data[at:]
                read.verdict = Verdict.WHOLE if closed else Verdict.SHORT
        except _Short:
            pass
        except _Wrong as error:
            read.verdict, read.why = Verdict.MALFORMED, str(error)
        return read


def _head(data: bytes, at: int) -> tuple[bytes, list[bytes], int]:
    """First line, field lines, offset behind the empty line."""
    end = data.find(b"\r\n\r\n", at)
    head = data[at:] if end < 0 else data[at:end]
    for line in head.split(b"\r\n"):
        lone = line[:-1] if end < 0 and line.endswith(b"\r") and head.endswith(line) else line
        if b"\n" in lone or b"\r" in lone or b"\0" in lone:
            raise _Wrong("bare CR, LF or NUL in a head")
    if end < 0:
        raise _Short
    first, *lines = head.split(b"\r\n")
    return first, lines, end + 4


def _read_fields(read: Read, lines: list[bytes]) -> None:
    read.lines = lines
    read.fields = _fields(lines)


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Lower-case names and values."""
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise _Wrong("field line")
        fields.append((name.lower(), value.strip(b" \t")))
    return fields


def _check_target(method: bytes, target: bytes, *, ours: bool) -> None:
    """Origin, absolute, authority or asterisk form (RFC 9112 section 3.2).

    Octets outside ASCII have no place there either, but leave no doubt where a message ends; the path's rules refuse them.
    """
    if ours and any(octet >= 0x80 for octet in target):
        raise _Wrong("target outside ASCII")
    if method == b"CONNECT":
        if not re.fullmatch(rb"[^/?#@]+:[0-9]+", target):
            raise _Wrong("authority form")
    elif target == b"*":
        if method != b"OPTIONS":
            raise _Wrong("asterisk form")
    elif not target.startswith(b"/") and not re.match(rb"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]", target):
        raise _Wrong("target form")


def _read_framing(read: Read) -> None:
    lengths, codings = read.values(b"content-length"), read.values(b"transfer-encoding")
    if codings:
        if lengths:
            raise _Wrong("Content-Length and Transfer-Encoding")
        if not read.minor:
            raise _Wrong("Transfer-Encoding in HTTP/1.0")
        names = [name.strip(b" \t").lower() for value in codings for name in value.split(b",")]
        if names[-1] != b"chunked" or names.count(b"chunked") != 1 or not all(map(_NAME.fullmatch, names)):
            raise _Wrong("Transfer-Encoding")
        read.chunked = True
    elif lengths:
        if len(lengths) > 1 or re.fullmatch(rb"[0-9]+", lengths[0]) is None:
            raise _Wrong("Content-Length")
        read.length = int(lengths[0])


def _read_body(read: Read, data: bytes, at: int, *, ours: bool) -> None:
    if read.chunked:
        _read_chunks(read, data, at, ours=ours)
        return
    length = read.length or 0
    read.body = data[at : at + length]
    if len(read.body) < length:
        raise _Short
    read.verdict, read.end = Verdict.WHOLE, at + length


def _read_chunks(read: Read, data: bytes, at: int, *, ours: bool) -> None:
    pattern = _OUR_SIZE_LINE if ours else _SIZE_LINE
    while True:
        line, at = _line(data, at)
        found = pattern.fullmatch(line)
        if found is None:
            raise _Wrong("chunk size line")
        size = int(found[1], 16)
        if not size:
            break
        read.body += data[at : at + size]
        if len(data) < at + size:
            raise _Short
        at += size
        if data[at : at + 2] != b"\r\n":
            if b"\r\n".startswith(data[at : at + 2]):
                raise _Short
            raise _Wrong("chunk longer than its size")
        at += 2
    trailers = []
    while True:
        line, at = _line(data, at)
        if not line:
            break
        trailers.append(line)
    _fields(trailers)
    if ours and trailers:
        raise _Wrong("we promise no trailers")
    read.verdict, read.end = Verdict.WHOLE, at


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\n", at)
    line = data[at:] if end < 0 else data[at:end]
    inner = line[:-1] if line.endswith(b"\r") else line
    if b"\r" in inner or b"\0" in inner or (end >= 0 and not line.endswith(b"\r")):
        raise _Wrong("bare CR, LF or NUL in a chunk line")
    if end < 0:
        raise _Short
    return inner, end + 1
