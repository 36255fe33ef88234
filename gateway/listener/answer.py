"""One response to a caller, framed by us alone; after a 101, the tunnel."""

from typing import Protocol

from gateway.exchange import Exchange
from gateway.inbound import Lines, Passage
from gateway.wire.chunks import LAST_CHUNK, chunk

_STATUS_LINES: dict[tuple[int, bytes], bytes] = {}


class Door(Protocol):
    """The connection, as an answer needs it."""

    writable: bool
    minor: int
    keep_alive: bool

    def write(self, data: bytes) -> None: ...

    def write_soon(self, pieces: list[bytes]) -> None: ...

    def may_keep_alive(self) -> bool: ...

    def answered(self) -> None: ...

    def cut(self, *, hard: bool) -> None: ...

    def open_tunnel(self, head: bytes) -> "CallerTunnel": ...

    def resume_reading(self) -> None: ...


class CallerAnswer:
    """One response (``inbound.Answer``), and after a 101 the tunnel (``inbound.Tunnel``)."""

    # Most answers leave these as they are, so they stand on the class.
    _chunked = False
    _bodiless = False
    _sized = False  # its length is announced
    started = False  # bytes of the head have left

    def __init__(self, connection: Door) -> None:
        self._connection = connection
        self._pending: list[bytes] = []
        self.writable = connection.writable

    def interim(self, status: int, reason: bytes, lines: Lines) -> None:
        if self._connection.minor and not self.started:
            self._connection.write(b"\r\n".join([b"HTTP/1.1 %d %b" % (status, reason), *lines, b"\r\n"]))

    def head(self, status: int, reason: bytes, lines: Lines, length: int | None, *, bodiless: bool = False) -> None:
        connection = self._connection
        first = _STATUS_LINES.get((status, reason))
        if first is None:
            first = b"HTTP/1.1 %d %b" % (status, reason)
            if len(_STATUS_LINES) < 256:
                _STATUS_LINES[status, reason] = first
        pending = [first, *lines]
        self._bodiless = bodiless
        self._chunked = self._sized = False
        if status == 204:
            length = None  # RFC 9110 section 8.6: a 204 announces no length, whatever the upstream said
        if length is not None:
            pending.append(b"Content-Length: %d" % length)
            self._sized = True
        elif not bodiless:
            if connection.minor:
                self._chunked = True
                pending.append(b"Transfer-Encoding: chunked")
            else:
                connection.keep_alive = False  # HTTP/1.0: only the end of the connection ends the body
        if not connection.may_keep_alive():
            connection.keep_alive = False  # and it stays so, even if the upload completes meanwhile
            pending.append(b"Connection: close")
        elif not connection.minor:
            pending.append(b"Connection: keep-alive")
        pending.append(b"\r\n")
        self._pending = [b"\r\n".join(pending)]

    def chunk(self, data: bytes) -> None:
        if data and not self._bodiless:
            self._pending.append(chunk(data) if self._chunked else data)

    def flush(self) -> None:
        if self._pending:
            self.started = True
            self._connection.write_soon(self._pending)
            self._pending = []

    def passage(self, exchange: Exchange) -> Passage:
        return CallerPassage(self._connection, exchange, chunked=self._chunked)

    def end(self) -> None:
        pending = self._pending
        if self._chunked:
            pending.append(LAST_CHUNK)
        if pending:
            self.started = True
            self._connection.write_soon(pending)
        self._connection.answered()

    @property
    def framed(self) -> bool:
        """The response says by itself where it ends; if not, only the end of the connection does."""
        return self._chunked or self._sized or self._bodiless

    def cut(self) -> None:
        self._pending.clear()
        self._connection.cut(hard=not self.framed)

    def tunnel(self, reason: bytes, lines: Lines) -> "CallerTunnel":
        head = [b"HTTP/1.1 101 " + reason, *lines, b"Connection: Upgrade", b"Upgrade: websocket", b"\r\n"]
        self.started = True
        return self._connection.open_tunnel(b"\r\n".join(head))


class CallerPassage:
    """Past the story, and counted (``inbound.Passage``)."""

    __slots__ = ("_connection", "_exchange", "chunked")

    def __init__(self, connection: Door, exchange: Exchange, *, chunked: bool) -> None:
        self._connection = connection
        self._exchange = exchange
        self.chunked = chunked

    def take(self, data: bytes) -> bool:
        return self.take_framed(chunk(data) if self.chunked else data, len(data))

    def take_framed(self, framed: bytes, length: int) -> bool:
        connection = self._connection
        if not connection.writable:
            return False
        connection.write(framed)
        exchange = self._exchange
        exchange.moved = True
        exchange.response_bytes += length
        return True


class CallerTunnel:
    """Bytes both ways (``inbound.Tunnel``)."""

    __slots__ = ("_connection", "arrived", "closed")

    def __init__(self, connection: Door) -> None:
        self._connection = connection
        self.arrived: list[bytes] = []
        self.closed = False  # the caller will send no more

    @property
    def ended(self) -> bool:
        return self.closed and not self.arrived

    def take(self) -> bytes:
        data = b"".join(self.arrived)
        self.arrived.clear()
        self._connection.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        self._connection.write(data)
