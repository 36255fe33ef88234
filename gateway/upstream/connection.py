"""One connection to an upstream, one request at a time; what it says is read strictly or not at all."""

import asyncio
import contextlib
import ssl
from typing import cast

from gateway import tcp
from gateway.errors import UpstreamFailed, UpstreamProtocolError, UpstreamUnreachable
from gateway.inbound import Passage
from gateway.story import Moment
from gateway.wire.alike import ResponseHeads
from gateway.wire.chunks import ChunkedReader
from gateway.wire.fields import HeadError
from gateway.wire.response_head import ResponseHead

# APIG's own bound for all request headers is 128 KB (API Gateway, "Notes and Constraints"); answers get the same.
_HEAD_BYTES = 128 * 1024
# Answer bytes held while the caller is slower than the upstream; above it, reading stops.
_HIGH_WATER_BYTES = 128 * 1024
# Informational answers to one request; Go's client stops at a similar number.
_INTERIMS = 16


class UpstreamConnection(asyncio.Protocol):
    """The transport's other end: collects an answer and wakes the exchange that waits for it, or passes it straight on."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.writable = True
        self.closed = False
        self._tls: ssl.SSLObject | None = None
        self._close_notify = False
        self.opened_at = 0.0
        self.idle_since = 0.0
        self.requests = 0
        self._moment: Moment | None = None
        self._held = b""
        self._heads = ResponseHeads()
        self._reset()

    def _reset(self) -> None:
        self.head: ResponseHead | None = None
        self.fault: UpstreamFailed | None = None
        self._chunks: ChunkedReader | None = None
        self._passage: Passage | None = None
        self.interims: list[ResponseHead] = []
        self._arrived: list[bytes] = []
        self._buffer = b""
        self.ended = self.tunnel = self._stray = self._paused = False
        self._interim_count = self._scanned = self._arrived_bytes = self._left = 0

    # What an attempt does with it

    def start(self, moment: Moment, *, head_request: bool, upgrade: bool) -> None:
        """Begin a request: from now on what comes is its answer."""
        if self.requests:
            self._reset()
        self.requests += 1
        self._moment = moment
        self._head_request = head_request
        self._upgrade = upgrade

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def write_whole(self, data: bytes) -> None:
        """Send a whole request, behind the other stories of this turn."""
        assert self._moment is not None
        self._held = data
        self._moment.at_end(self._write_held)

    def _write_held(self) -> None:
        if self.transport is not None and not self.closed:
            self.transport.write(self._held)
        self._held = b""

    def take(self) -> bytes:
        """Answer bytes that have arrived since the last call, framing removed.

        Raises:
            UpstreamFailed: the body broke off; what came before it has been taken.
        """
        arrived = self._arrived
        if not arrived:
            if self.fault is not None:
                raise self.fault
            return b""
        data = arrived[0] if len(arrived) == 1 else b"".join(arrived)
        arrived.clear()
        self._arrived_bytes = 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return data

    def pass_to(self, passage: Passage) -> None:
        """From now on, for the rest of this request, give body bytes away inside the read, and wake nobody for them.

        What is not taken there is to be taken here as before, and until it has been, nothing is given away: that keeps
        the order. Whatever comes with the body's end is to be taken here, too.
        """
        self._passage = passage

    @property
    def drained(self) -> bool:
        """The answer is complete and taken."""
        return self.ended and not self._arrived

    @property
    def reusable(self) -> bool:
        """Another request may follow on this connection."""
        head = self.head
        return (
            self.ended
            and not self.closed
            and not self._stray
            and self.fault is None
            and not self.tunnel
            and head is not None
            and head.keep_alive
            and not head.until_close
        )

    @property
    def stale(self) -> bool:
        """Kept from an earlier request, and closed by the upstream instead of an answer to this one."""
        return self.requests > 1 and isinstance(self.fault, UpstreamUnreachable)

    def rest(self) -> None:
        """The request is over; what comes now, nobody asked for. Nothing of its caller is kept alive by a kept connection."""
        self._moment = self._passage = None

    def abort(self) -> None:
        """Close at once; what was not sent is dropped."""
        self._moment = None
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    def close(self) -> None:
        self._moment = None
        self.closed = True
        if self.transport is not None:
            self.transport.close()

    def tls_session(self) -> ssl.SSLSession | None:
        """What a further connection may resume; None without TLS or without a ticket."""
        session = None if self._tls is None else self._tls.session
        return session if session is not None and session.has_ticket else None

    @property
    def gone(self) -> bool:
        """Closed, or about to be: an end that was heard is told by ``connection_lost`` only in the loop's next turn."""
        return self.closed or self.transport is None or self.transport.is_closing()

    def alive(self) -> bool:
        """Still established as far as the kernel knows: one system call that spares most stale connections."""
        if self.transport is None or self.gone:
            return False
        return tcp.state(self.transport) in {tcp.ESTABLISHED, None}

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses
        self._tls = transport.get_extra_info("ssl_object")

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.transport = None
        if self._moment is None or self.ended or self.fault is not None:
            self._wake()
            return
        if self.tunnel:
            self.ended = True
        elif self.head is None:
            if self._buffer:
                self.fault = UpstreamProtocolError(
                    "The upstream closed the connection in the middle of its response head.",
                    proxy_status="http_response_incomplete",
                )
            else:
                self.fault = UpstreamUnreachable(
                    "The upstream closed the connection without an answer.",
                    proxy_status="connection_terminated",
                    sent=True,
                )
        elif self.head.until_close and error is None and (self._tls is None or self._close_notify):
            self.ended = True
        else:
            self._broken("The upstream's response body was broken off.", "http_response_incomplete")
        self._wake()

    def eof_received(self) -> bool | None:
        # Without a close_notify, anybody on the way may have ended the stream (RFC 9112 section 9.8). uvloop calls this
        # only after one, asyncio after a bare FIN as well; behind one the TLS object reads as ended, else as waiting.
        if self._tls is not None:
            with contextlib.suppress(ssl.SSLError):
                self._close_notify = self._tls.read(1) == b""
        return None  # close: an upstream that stopped sending has nothing more for us

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self._moment is None:
            self.abort()  # bytes on an idle connection would become the next caller's answer
            return
        try:
            if self.head is None:
                self._read_heads(data)
            elif self.ended:
                self._stray = True
            elif self._read_body(data):
                return
        except HeadError as error:
            self._broken(f"The upstream's response is not valid HTTP: {error}.", "http_protocol_error")
            self.closed = True
            if self.transport is not None:
                self.transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._moment is not None:
            self._moment.wake()

    def _broken(self, message: str, proxy_status: str) -> None:
        if self.fault is None:
            self.fault = UpstreamProtocolError(message, proxy_status=proxy_status)

    def _read_heads(self, data: bytes) -> None:
        """Find the final response head, behind any number of informational ones up to a bound."""
        buffer = self._buffer + data if self._buffer else data
        while True:
            end = buffer.find(b"\r\n\r\n", self._scanned)
            if end < 0 or end > _HEAD_BYTES:
                self._check_partial(buffer)
                return
            head = self._heads.parse(buffer[:end], to_head_request=self._head_request)
            buffer = buffer[end + 4 :]
            if self._scanned:
                self._scanned = 0
            if head.status >= 200 or head.status == 101:
                break
            self._interim_count += 1
            if self._interim_count > _INTERIMS:
                raise HeadError("too many informational responses")
            if head.status != 100:  # 100 Continue is between the upstream and us
                self.interims.append(head)
        self._buffer = b""
        if head.status == 101:
            if not self._upgrade:
                raise HeadError("101 Switching Protocols that nobody asked for")
            self.tunnel = True
        elif head.chunked and not head.bodiless:
            self._chunks = ChunkedReader()
        elif head.bodiless or head.content_length == 0:
            self.head = head
            self.ended = True
            self._stray = bool(buffer)
            return
        elif head.content_length is not None:
            self._left = head.content_length
        self.head = head
        if buffer:
            self._read_body(buffer)

    def _check_partial(self, buffer: bytes) -> None:
        """Hold a head that is not whole yet; refuse what cannot become one."""
        if len(buffer) > _HEAD_BYTES:
            raise HeadError("the response head is over 128 KiB")
        if not b"HTTP/1.".startswith(buffer[:7]):
            raise HeadError("the status line is malformed")
        if buffer.count(b"\n") != buffer.count(b"\r\n"):
            raise HeadError("a line of the head does not end in CR LF")
        self._scanned = max(0, len(buffer) - 3)
        self._buffer = buffer

    def _read_body(self, data: bytes) -> bool:
        """True where all of it has been passed on already."""
        chunks, passage = self._chunks, None if self._arrived else self._passage
        if chunks is not None:
            if passage is not None and passage.chunked:
                length = chunks.whole(data)
                if length and passage.take_framed(data, length):
                    return True
            data = chunks.feed(data)
            if chunks.ended:
                self.ended = True
                self._stray = bool(chunks.rest)
        elif self._left:
            left = self._left - len(data)
            if left <= 0:
                self.ended = True
                if left:
                    data, left = data[: self._left], 0
                    self._stray = True
            self._left = left
        if not data:
            return False
        if passage is not None and not self.ended and passage.take(data):
            return True
        self._arrived.append(data)
        self._arrived_bytes += len(data)
        if (
            self._arrived_bytes > _HIGH_WATER_BYTES
            and not self._paused
            and not self.ended
            and self.transport is not None
        ):
            self._paused = True
            self.transport.pause_reading()
        return False
