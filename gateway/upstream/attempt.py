"""One attempt: an outbound request on one connection, uploaded while its answer may already be coming."""

from collections.abc import Callable

from gateway.exchange import Exchange, Phase
from gateway.inbound import Answer
from gateway.outbound import Outbound
from gateway.upstream.connection import UpstreamConnection
from gateway.wire.chunks import LAST_CHUNK, chunk
from gateway.wire.response_head import ResponseHead

# Methods that announce an empty body (RFC 9110 section 8.6).
_ANNOUNCE_EMPTY = frozenset({"POST", "PUT", "PATCH"})

_joined = b": ".join


class Attempt:
    """The upload and the answer of one request; after ``headed`` the answer is read with ``take`` until ``ended``.

    Upload and answer share one coroutine: whoever waits calls ``pump`` first, so an upstream that answers early, a
    slow upload and back-pressure in both directions need no second task.
    """

    __slots__ = ("_body", "_chunked", "_exchange", "_uploaded", "clock", "connection", "released")

    def __init__(
        self, connection: UpstreamConnection, outbound: Outbound, exchange: Exchange, clock: Callable[[], float]
    ) -> None:
        self.connection = connection
        self._body = outbound.body
        self._exchange = exchange
        self._uploaded = False
        self._chunked = False
        self.released = False
        self.clock = clock

    def begin(self, outbound: Outbound) -> None:
        """Send the head, with as much of the body as is there: in one write when all of it is.

        Raises:
            BodyTooLarge, BadRequest: what the body itself says.
        """
        body, exchange, outline = self._body, self._exchange, outbound.outline
        lines = [outline.beginning, *map(_joined, outbound.fields)]
        whole = body.whole
        length = body.length if whole is None else len(whole)
        if outline.upgrade:
            lines.append(b"Connection: Upgrade\r\nUpgrade: websocket")
        elif length is None:
            self._chunked = True
            lines.append(b"Transfer-Encoding: chunked")
        elif length or outline.method in _ANNOUNCE_EMPTY or body.announced:
            lines.append(b"Content-Length: %d" % length)
        lines.append(b"\r\n")
        if whole is not None:
            first, self._uploaded = whole, True
        else:
            first = body.take()
            if first and self._chunked:
                first = chunk(first)
            if body.ended:
                self._uploaded = True
                if self._chunked:
                    first += LAST_CHUNK
        exchange.phase = Phase.WAITING if self._uploaded else Phase.SENDING
        exchange.sent_at = self.clock()
        self.connection.start(exchange.moment, head_request=outline.method == "HEAD", upgrade=outline.upgrade)
        data = b"\r\n".join(lines) + first
        if self._uploaded:
            self.connection.write_whole(data)
        else:
            self.connection.write(data)

    async def headed(self, answer: Answer) -> ResponseHead:
        """Upload until the response head is there; informational ones are passed to ``answer``.

        Raises:
            UpstreamFailed: the connection or the answer broke.
            BodyTooLarge, BadRequest: the caller's body did.
        """
        connection = self.connection
        while True:
            if connection.interims:
                for interim in connection.interims:
                    answer.interim(interim.status, interim.reason, interim.fields.lines)
                connection.interims.clear()
            if connection.head is not None:
                exchange = self._exchange
                exchange.phase = Phase.ANSWERING
                exchange.first_byte_seconds = self.clock() - exchange.sent_at
                return connection.head
            if connection.fault is not None:
                raise connection.fault
            self.pump()
            await self._exchange.moment.wait()

    def pump(self) -> None:
        """Send on what has arrived from the caller, as far as the upstream takes it."""
        if self._uploaded:
            return
        connection, body, exchange = self.connection, self._body, self._exchange
        while connection.writable and not connection.closed:
            data = body.take()
            if data:
                exchange.moved = True
                connection.write(chunk(data) if self._chunked else data)
            if body.ended:
                self._uploaded = True
                exchange.waits_for_caller = False
                if self._chunked:
                    connection.write(LAST_CHUNK)
                if exchange.phase == Phase.SENDING:
                    exchange.phase = Phase.WAITING
                    exchange.sent_at = self.clock()
                return
            if not data:
                exchange.waits_for_caller = True
                body.invite()
                return
        exchange.waits_for_caller = False

    def take(self) -> bytes:
        return self.connection.take()

    @property
    def ended(self) -> bool:
        return self.connection.drained

    @property
    def met_stale(self) -> bool:
        return self.connection.stale

    def release(self) -> UpstreamConnection | None:
        """End the attempt: the connection when another request may follow on it, else None and it is closed."""
        if self.released:
            return None
        self.released = True
        connection = self.connection
        if self._uploaded and connection.reusable:
            connection.rest()
            return connection
        if connection.tunnel:
            connection.close()  # after what was written last: a WebSocket's close frame
        else:
            connection.abort()
        return None
