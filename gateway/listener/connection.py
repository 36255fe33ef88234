"""One caller's connection, from its first byte to its last."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from gateway import tcp
from gateway.errors import (
    REASONS,
    BadRequest,
    Draining,
    GatewayError,
    HeadersTooLarge,
    RequestTimeout,
    UriTooLong,
    error_body,
    error_fields,
)
from gateway.headers import TOKEN, field_line
from gateway.inbound import Answer, Inbound, Peer
from gateway.listener.answer import CallerAnswer, CallerTunnel
from gateway.listener.bounds import Bounds
from gateway.listener.request import CONTINUE, CallerInbound
from gateway.story import Stories, Story
from gateway.wire.request_head import RequestHead, parse_request

Telling = Callable[[Inbound, Answer], Coroutine[Any, Any, None]]  # how a request is answered
Refused = Callable[[GatewayError, str], str]  # told of what never became a request, and by whom; gives the request id


class Owner(Protocol):
    """The listener, as a connection needs it."""

    stories: Stories
    answer: Telling
    refused: Refused
    bounds: Bounds
    connections: "set[CallerConnection]"
    draining: bool  # answers say Connection: close
    refusing: bool  # new requests on kept connections get 503


# Bytes of further requests held while one is being answered (RFC 9112 section 9.3.2 allows pipelining).
_PIPELINE_BYTES = 64 * 1024
# After an answer that leaves an upload unread, the rest is read and dropped for this long, so that the caller reads the
# answer instead of a reset (RFC 9112 section 9.6).
_LINGER_SECONDS = 2.0
# Once listening has ended, a connection that brought no request yet is closed after this long.
_FIRST_REQUEST_SECONDS = 0.5
# An answer that is complete here but not yet read by its caller is kept as long as some of it leaves within this.
_UNSENT_SECONDS = 30.0
# A caller that closed its sending side may only be done sending. After this long without an answer it is asked.
_HALF_CLOSED_SECONDS = 0.3


class CallerConnection(asyncio.Protocol):
    """One caller's connection: idle, reading a head, in a request, lingering, or a tunnel."""

    def __init__(self, listener: Owner) -> None:
        self._listener = listener
        self.transport: asyncio.Transport | None = None
        self._peer = Peer("")
        self._buffer = b""
        self._scanned = 0
        self.paused = False
        self._inbound: CallerInbound | None = None
        self._answer: CallerAnswer | None = None
        self._story: Story | None = None
        self._tunnel: CallerTunnel | None = None
        self._half_closed_at: float | None = None
        self._asked = False
        self._closing_at: float | None = None  # lingering: read and drop until then
        self._since = time.monotonic()  # of the current idle time or head
        self._head_began = False
        self._requests = 0
        self._held: list[bytes] = []  # pieces to be written at the end of the turn
        self._unsent = 0  # bytes of a complete answer that wait for the caller, when last looked at
        self.writable = True
        self.minor = 1
        self.keep_alive = True

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclasses
        self._tls = transport.get_extra_info("sslcontext") is not None
        self._peer = _peer(transport)
        self._listener.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self._listener.connections.discard(self)
        self._closing_at = None
        if self._story is not None:
            self._story.cancel()

    def data_received(self, data: bytes) -> None:
        if self._closing_at is not None:
            return
        inbound = self._inbound
        if self._tunnel is not None:
            self._tunnel.arrived.append(data)
            self._pause_reading()  # until taken
            self._wake()
        elif inbound is None:
            if not self._head_began:
                self._head_began = True
                if self._requests:  # a new connection owes its first head from its beginning
                    self._since = time.monotonic()
            self._buffer = self._buffer + data if self._buffer else data
            self._next_request()
        elif not inbound.received:
            self._feed(inbound, data)
        else:
            self._buffer += data
            if len(self._buffer) > _PIPELINE_BYTES:
                self._pause_reading()

    def eof_received(self) -> bool:
        if self._tunnel is not None:
            self._tunnel.closed = True
            self._wake()
            return True
        if self._inbound is None or self._closing_at is not None:
            return False
        if not self._inbound.received or (self._answer is not None and self._answer.started):
            # An upload that was cut off: nothing of it may look complete upstream. Or a caller that hears the beginning
            # of its answer and then closes: those that are only done sending say so right behind their request.
            self._leave()
            return False
        if self._tls:
            self._leave()  # asyncio's TLS has no half-closed connections
            return False
        self._half_closed_at = time.monotonic()
        return True  # keep our side open: the caller may be waiting for its answer

    def _leave(self) -> None:
        """The caller has gone: end the story; an answer under way must not look whole to whoever still reads."""
        if self._story is not None:
            self._story.cancel()
        if self._answer is not None and self._answer.started and not self._answer.framed and self.transport is not None:
            tcp.reset(self.transport)

    def pause_writing(self) -> None:
        self.writable = False
        if self._answer is not None:
            self._answer.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self._answer is not None:
            self._answer.writable = True
        self._wake()
        if self._inbound is None and self._closing_at is None:
            self._go_on()

    # What a request's parts ask for

    def write(self, data: bytes) -> None:
        if self._held:
            self._write_held()
        if self.transport is not None:
            self.transport.write(data)

    def write_soon(self, pieces: list[bytes]) -> None:
        """Write them behind the other stories of this turn, and before anything else here."""
        self._held += pieces
        self._listener.stories.at_end(self._write_held)

    def _write_held(self) -> None:
        held = self._held
        if held and self.transport is not None:
            self._held = []
            self.transport.write(b"".join(held))

    def may_keep_alive(self) -> bool:
        """Another request may follow: nobody said close, and this one's body has arrived whole."""
        inbound = self._inbound
        return (
            self.keep_alive
            and not self._listener.draining
            and inbound is not None
            and inbound.received
            and inbound.fault is None
            and (self._half_closed_at is None or bool(self._buffer))
        )

    def answered(self) -> None:
        """The response has been written whole."""
        received = self._inbound is None or self._inbound.received
        keep = self.keep_alive and received  # as the answer's head has said
        self._inbound = self._answer = self._story = None
        if self.transport is None:
            return
        if not keep:
            self._finish(linger=not received or bool(self._buffer))  # what comes behind could turn the end into a reset
            return
        self._since = time.monotonic()
        self._head_began = False
        if self.writable:
            self._go_on()
        else:
            self._pause_reading()  # whoever does not read its answers gets no further ones

    def _go_on(self) -> None:
        """To the next request, of which something may have been read already."""
        if self.paused:
            self.resume_reading()
        if self._buffer:
            self._head_began = True
            self._next_request()

    def cut(self, *, hard: bool) -> None:
        """End a response that is not whole; ``hard`` where only a reset shows it (no length, no chunks)."""
        self._inbound = self._answer = self._story = None
        self._write_held()
        if self.transport is None:
            return
        if hard:
            tcp.reset(self.transport)
        else:
            self._finish(linger=False)

    def open_tunnel(self, head: bytes) -> CallerTunnel:
        tunnel = self._tunnel = CallerTunnel(self)
        if self._buffer:
            tunnel.arrived.append(self._buffer)
            self._buffer = b""
        self.keep_alive = False
        self.write(head)
        return tunnel

    # Reading

    def _next_request(self) -> None:
        """Find the next head in what has been read, and begin its story."""
        buffer, bounds = self._buffer, self._listener.bounds
        if buffer.startswith(b"\r\n"):
            buffer = _without_empty_lines(buffer)
        end = buffer.find(b"\r\n\r\n", self._scanned)
        if end < 0 or (bounds.head_bytes is not None and end > bounds.head_bytes):
            self._buffer = buffer
            self._check_partial(buffer, bounds.head_bytes)
            if self._half_closed_at is not None:
                self._finish(linger=False)  # the rest of it will not come
            return
        self._scanned = 0
        self._buffer = b""
        try:
            head = parse_request(buffer[:end])
        except GatewayError as error:
            self._refuse(error, buffer)
            return
        self._begin(head, buffer[end + 4 :])

    def _check_partial(self, buffer: bytes, limit_bytes: int | None) -> None:
        """A head that is not whole yet: refuse what cannot become one, and what is too long."""
        if limit_bytes is not None and len(buffer) > limit_bytes + 3:  # the end may be there but for its last byte
            if b"\r\n" not in buffer[:limit_bytes]:
                self._refuse(
                    UriTooLong("The request line is too long (process.head_bytes).", setting="process.head_bytes"),
                    buffer,
                )
            else:
                self._refuse(
                    HeadersTooLarge(
                        "The request head is too large (process.head_bytes).", setting="process.head_bytes"
                    ),
                    buffer,
                )
            return
        self._scanned = max(0, len(buffer) - 3)
        if not buffer:
            return
        # Only a method can begin a request: a TLS hello or other noise is answered at once.
        if TOKEN.match(buffer) is None and buffer != b"\r":
            self._refuse(BadRequest("This is not an HTTP request (HTTPS on a plain port?)."))
        elif buffer.count(b"\n") != buffer.count(b"\r\n"):
            self._refuse(BadRequest("A line of the request head does not end in CR LF (RFC 9112 section 2.2)."), buffer)

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        """Start the story, once everything that was read has been looked at: a small body is then already there."""
        self.minor = head.minor
        self.keep_alive = head.keep_alive
        self._requests += 1
        story = Story(self._listener.stories)
        inbound = self._inbound = CallerInbound(self, head, self._peer, time.monotonic(), story)
        if self._listener.refusing and self._requests > 1:
            inbound.refusal = Draining(
                "The gateway is stopping; send the request again, on a new connection.", retry_after_seconds=1
            )
        self._answer = answer = CallerAnswer(self)
        if rest:
            self._buffer = rest if inbound.received else inbound.feed(rest)
            if inbound.full or len(self._buffer) > _PIPELINE_BYTES:
                self._pause_reading()
        if self._half_closed_at is not None and not inbound.received:
            self._inbound = self._answer = None
            self._finish(linger=False)  # the rest of the body will not come
            return
        self._story = story
        story.begin(self._listener.answer(inbound, answer), self.abort)

    def _feed(self, inbound: CallerInbound, data: bytes) -> None:
        rest = inbound.feed(data)
        if rest:
            self._buffer = rest
        if inbound.full or (inbound.received and len(self._buffer) > _PIPELINE_BYTES):
            self._pause_reading()
        inbound.moment.wake()

    def _wake(self) -> None:
        if self._inbound is not None:
            self._inbound.moment.wake()

    def _pause_reading(self) -> None:
        if not self.paused and self.transport is not None:
            self.paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.paused and self.transport is not None:
            self.paused = False
            self.transport.resume_reading()

    # Ending

    def _refuse(self, error: GatewayError, head: bytes = b"") -> None:
        """Answer what never became a request, of which ``head`` is the beginning, and close."""
        request_id = self._listener.refused(error, self._peer.address)
        self.keep_alive = False
        body = error_body(error, request_id)
        lines = [field_line(*field) for field in error_fields(error, request_id)]
        answer = CallerAnswer(self)
        reason = REASONS[error.status].encode()
        answer.head(error.status, reason, lines, len(body), bodiless=head.startswith(b"HEAD "))
        answer.chunk(body)
        answer.flush()
        self._finish(linger=True)

    def _finish(self, *, linger: bool) -> None:
        """Close after what was written has left; ``linger`` while the caller may still be sending."""
        transport = self.transport
        if transport is None or self._closing_at is not None:
            return
        self._write_held()
        self._closing_at = time.monotonic() + _LINGER_SECONDS
        self._buffer = b""
        if linger and self._half_closed_at is None and transport.can_write_eof():
            self.resume_reading()
            with contextlib.suppress(OSError):  # a caller that has gone meanwhile
                transport.write_eof()
        else:
            transport.close()

    def sweep(self, now: float) -> None:
        """Ten times a second or less: everything about a connection that only time decides."""
        bounds = self._listener.bounds
        if self._closing_at is not None:
            if now > self._closing_at and self.transport is not None:
                unsent = self.transport.get_write_buffer_size()
                if unsent and unsent != self._unsent:
                    self._unsent, self._closing_at = unsent, now + _UNSENT_SECONDS
                else:
                    self.transport.abort()
        elif self._inbound is None:
            self._sweep_idle(now, bounds)
        elif self._half_closed_at is not None:
            self._sweep_half_closed(now)
        elif self.paused and self.transport is not None:
            self._look_at_paused(self.transport, now)

    def _sweep_idle(self, now: float, bounds: Bounds) -> None:
        waited = now - self._since
        if not self.writable:
            if waited > _UNSENT_SECONDS:
                self.abort()  # it has not read its last answer, and wants more
        # A new connection owes a head from its start; a kept one from the head's first byte.
        elif self._listener.refusing and not self._buffer and waited > _FIRST_REQUEST_SECONDS:
            self._finish(linger=False)
        elif self._head_began or not self._requests:
            if bounds.head_seconds is not None and waited > bounds.head_seconds:
                if self._buffer:
                    self._refuse(
                        RequestTimeout(
                            "The request head did not arrive in time (process.head).", setting="process.head"
                        )
                    )
                else:
                    self._finish(linger=False)
        elif bounds.keep_alive_seconds is not None and waited > bounds.keep_alive_seconds:
            self._finish(linger=False)

    def _sweep_half_closed(self, now: float) -> None:
        """Find out whether a caller that stopped sending has gone altogether.

        The end of its stream says only that it will not send more. A further ``100 Continue``, which every client must
        ignore (RFC 9110 section 15.2), is answered by a reset when nobody is there.
        """
        transport, asked_after = self.transport, self._half_closed_at
        if transport is None or asked_after is None:
            return
        if tcp.state(transport) == tcp.CLOSE:
            transport.abort()
        elif now - asked_after > _HALF_CLOSED_SECONDS and not self._asked and self._may_ask():
            self._asked = True
            self.write(CONTINUE)

    def _may_ask(self) -> bool:
        """Of an answer that has begun every further byte asks the same."""
        return self._answer is not None and not self._answer.started and self.minor == 1

    def _look_at_paused(self, transport: asyncio.Transport, now: float) -> None:
        """Nobody reads a caller whose bytes we hold back, so nobody hears it leave: ask the kernel."""
        state = tcp.state(transport)
        if state == tcp.CLOSE:
            transport.abort()
        elif state == tcp.CLOSE_WAIT:
            if self._answer is not None and self._answer.started:
                self._leave()  # as eof_received() would say
                transport.abort()
            else:
                self._half_closed_at = now

    def close_idle(self) -> None:
        """Listening has ended. A new connection is left a moment: its first request may be on the way."""
        if self._inbound is None and self._requests and not self._buffer:
            self._finish(linger=False)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


def _without_empty_lines(buffer: bytes) -> bytes:
    """Empty lines before a request line are forgiven (RFC 9112 section 2.2); bare CR or LF are left to be refused."""
    count = (len(buffer) - len(buffer.lstrip(b"\r\n"))) // 2
    return buffer[2 * count :] if buffer.startswith(b"\r\n" * count) else buffer


def _peer(transport: asyncio.BaseTransport) -> Peer:
    found = transport.get_extra_info("peername")
    address = str(found[0]) if isinstance(found, tuple) and found else ""
    certificate = transport.get_extra_info("peercert")
    return Peer(address, _certificate_names(certificate) if certificate else ())


def _certificate_names(certificate: dict[str, Any]) -> tuple[str, ...]:  # Any: ssl's own nested tuples
    """URI and DNS names, then the common name, of a certificate that TLS has verified."""
    alternatives = [(str(kind), str(name)) for kind, name in certificate.get("subjectAltName", ())]
    names = [name for kind, name in alternatives if kind == "URI"] + [
        name for kind, name in alternatives if kind == "DNS"
    ]
    for relative in certificate.get("subject", ()):
        names += [str(value) for key, value in relative if key == "commonName"]
    return tuple(names)
