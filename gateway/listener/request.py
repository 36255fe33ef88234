"""One caller's request, as its connection fills it and the story reads it."""

from typing import Protocol

from gateway.errors import BadRequest, GatewayError
from gateway.inbound import Peer
from gateway.story import Story
from gateway.wire.chunks import ChunkedReader
from gateway.wire.fields import HeadError
from gateway.wire.request_head import RequestHead

# Body bytes held for a story that has not taken them; above it, reading stops.
_HIGH_WATER_BYTES = 64 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Door(Protocol):
    """The connection, as a request needs it."""

    paused: bool  # reading is paused

    def write(self, data: bytes) -> None: ...

    def resume_reading(self) -> None: ...


class CallerInbound:
    """One request, its body as it arrives (``inbound.Inbound``)."""

    # Most requests leave most of these as they are, so they stand on the class.
    refusal: GatewayError | None = None
    chunked = False
    received = False  # the whole message has arrived
    ended = False
    fault: GatewayError | None = None
    _chunks: ChunkedReader | None = None
    _left = 0  # bytes of a body of known length that have not arrived
    _arrived_bytes = 0
    _invited = True

    def __init__(self, connection: Door, head: RequestHead, peer: Peer, arrived: float, story: Story) -> None:
        self._connection = connection
        self.head = head
        self.peer = peer
        self.arrived = arrived
        self.moment = story
        self.content_length = head.content_length
        self._arrived: list[bytes] = []
        if head.content_length:
            self._left = head.content_length
        elif head.chunked:
            self.chunked = True
            self._chunks = ChunkedReader()
        else:
            self.received = self.ended = True
        if head.expects_continue:
            self._invited = False

    def feed(self, data: bytes) -> bytes:
        """Take this message's part of what was read; the rest belongs to the next one."""
        rest = b""
        if self._chunks is not None:
            if self.fault is not None:
                return b""
            try:
                data = self._chunks.feed(data)
            except HeadError as error:
                self.fault = BadRequest(f"The request body's framing is broken: {error}.")
                data = b""
            rest = self._chunks.rest
            self.received = self._chunks.ended
        else:
            left = self._left
            if len(data) > left:
                data, rest = data[:left], data[left:]
            self._left = left = left - len(data)
            if not left:
                self.received = True
        if data:
            self._invited = True  # it did not wait for 100 Continue
            self._arrived.append(data)
            self._arrived_bytes += len(data)
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
