"""What the story is handed: the request that came in, and the answer it may give.

Two small protocols. The door that makes them can be replaced without touching the story.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.story import Moment, Story
from gateway.wire.request_head import RequestHead

# Header fields as pairs of name and value, in order, repetitions kept.
Fields = list[tuple[bytes, bytes]]
# Header fields as they stand on the wire, one or several in each piece, without the last CR LF.
Lines = Sequence[bytes]


class Peer(NamedTuple):
    """Who is at the other end of a caller's connection."""

    address: str  # IP address; "" on a Unix socket
    certificate_names: tuple[str, ...] = ()  # verified client certificate: URI and DNS names, then CN


class BodySource(Protocol):
    """The request body as it arrives, chunk framing already removed."""

    content_length: int | None  # declared; None when there is no body or it is chunked
    chunked: bool
    ended: bool  # every byte has been taken and the message was whole

    @property
    def moment(self) -> Moment:
        """Woken when more has arrived or the body ended."""
        ...

    def take(self) -> bytes:
        """What has arrived since the last call, possibly nothing; while nobody takes, reading stops (back-pressure).

        Raises:
            BadRequest: the chunk framing is broken.
        """
        ...

    def invite(self) -> None:
        """Send ``100 Continue`` if the caller still waits for it."""
        ...


class Inbound(BodySource, Protocol):
    """One request as it came in, and its body as it arrives; read-only."""

    head: RequestHead
    peer: Peer
    arrived: float  # the instant at which the head was complete
    refusal: GatewayError | None  # the door's reason not to serve it

    @property
    def moment(self) -> Story:
        """The story it runs in."""
        ...


class Passage(Protocol):
    """Takes an answer's body piece by piece, as it is read from the upstream; false where it cannot take it now."""

    chunked: bool  # whole chunks can be taken as they are

    def take(self, data: bytes) -> bool: ...

    def take_framed(self, framed: bytes, length: int) -> bool:
        """``length`` bytes as they stand on the wire: where the answer is chunked, one chunk as ``wire.chunks.chunk`` writes it."""
        ...


class Answer(Protocol):
    """Where the response goes. After ``head`` there is only ``chunk``, ``flush``, ``passage``, ``end`` and ``cut``."""

    writable: bool  # false while the caller reads slower than we write; the moment wakes on change

    def interim(self, status: int, reason: bytes, lines: Lines) -> None:
        """Send an informational response (RFC 9110 section 15.2); HTTP/1.0 callers are spared it."""
        ...

    def head(self, status: int, reason: bytes, lines: Lines, length: int | None, *, bodiless: bool = False) -> None:
        """Begin the response. ``length`` is the body's size, None when it is not known; a ``bodiless`` response (HEAD,
        204, 304) may still announce one. The bytes leave with the first flush or end."""
        ...

    def chunk(self, data: bytes) -> None: ...

    def flush(self) -> None:
        """Send what is held back: called before the story waits."""
        ...

    def passage(self, exchange: Exchange) -> Passage:
        """What passes chunks on while the story waits, and counts them.

        For a body, so never of a ``bodiless`` response, and from the first flush behind ``head`` until ``end`` or ``cut``.
        It goes behind what was flushed, and would go before what is held back: the story waits only behind a flush.
        """
        ...

    def end(self) -> None:
        """The response is whole."""
        ...

    def cut(self) -> None:
        """Close the connection so that the caller sees a broken response, never a whole one."""
        ...

    def tunnel(self, reason: bytes, lines: Lines) -> "Tunnel":
        """Answer 101: from now on both directions are bytes."""
        ...


class Tunnel(Protocol):
    """A caller's connection after a WebSocket handshake."""

    @property
    def ended(self) -> bool:
        """The caller has closed its side and everything has been taken."""
        ...

    def take(self) -> bytes: ...

    def write(self, data: bytes) -> None: ...
