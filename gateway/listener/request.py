"""One caller's request, as its connection fills it and the story reads it."""

from typing import Protocol

from gateway.errors import BadRequest, GatewayError
from gateway.inbound import Peer
from gateway.story import Moment, Story
from gateway.wire.chunks import ChunkedReader
from gateway.wire.heads import HeadError, RequestHead

# Body bytes held for a story that has not taken them; above it, reading stops.
_HIGH_WATER_BYTES = 64 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Door(Protocol):
    """The connection, as a body needs it."""

    paused: bool  # reading is paused

    def write(self, data: bytes) -> None: ...

    def resume_reading(self) -> None: ...


class CallerBody:
    """The request body as it arrives (``inbound.BodySource``)."""

    __slots__ = (
        "_arrived",
        "_arrived_bytes",
        "_chunks",
        "_connection",
        "_invited",
        "_left",
        "chunked",
        "content_length",
        "ended",
        "fault",
        "moment",
        "received",
    )

    def __init__(self, connection: Door, head: RequestHead, moment: Moment) -> None:
        self._connection = connection
        self.moment = moment
        self.content_length = head.content_length
        self.chunked = head.chunked
        self._arrived: list[bytes] = []
        self._arrived_bytes = 0
        self._left = head.content_length or 0
        self._chunks = ChunkedReader() if head.chunked else None
        self._invited = not head.expects_continue
        self.received = not self._left and self._chunks is None  # the whole message has arrived
        self.ended = self.received
        self.fault: GatewayError | None = None

    def feed(self, data: bytes) -> bytes:
        """Take this message's part of what was read; the rest belongs to the next one."""
        if self.fault is not None:
            return b""
        if self._chunks is not None:
            try:
                payload = self._chunks.feed(data)
            except HeadError as error:
                self.fault = BadRequest(f"The request body's framing is broken: {error}.")
                payload = b""
            rest = self._chunks.rest
            self.received = self._chunks.ended
        else:
            payload, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
            self._left -= len(payload)
            self.received = not self._left
        if payload:
            self._invited = True  # it did not wait for 100 Continue
            self._arrived.append(payload)
            self._arrived_bytes += len(payload)
        elif self.received and not self._arrived:
            self.ended = True
        return rest

    @property
    def full(self) -> bool:
        return self._arrived_bytes > _HIGH_WATER_BYTES

    def take(self) -> bytes:
        arrived = self._arrived
        if not arrived:
            if self.fault is not None:
                raise self.fault
            return b""
        data = arrived[0] if len(arrived) == 1 else b"".join(arrived)
        arrived.clear()
        self._arrived_bytes = 0
        if self.received:
            self.ended = True
        if self._connection.paused:
            self._connection.resume_reading()
        return data

    def invite(self) -> None:
        if not self._invited:
            self._invited = True
            self._connection.write(CONTINUE)


class CallerInbound:
    """One request (``inbound.Inbound``)."""

    __slots__ = ("arrived", "body", "head", "peer", "refusal", "story")

    def __init__(self, head: RequestHead, body: CallerBody, peer: Peer, arrived: float, story: Story) -> None:
        self.head = head
        self.body = body
        self.peer = peer
        self.arrived = arrived
        self.story = story
        self.refusal: GatewayError | None = None
