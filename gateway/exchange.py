"""One request's record, from its head to its log line."""

import math
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from gateway.errors import GatewayError
    from gateway.story import Moment, Story


class Phase:
    """What an exchange is doing; it decides what a passed limit means. Whole numbers in the order of a request's life."""

    HOLDING: Final = 0  # waiting for memory to hold the caller's body
    CREDENTIAL: Final = 1  # waiting for a credential
    CONNECTING: Final = 2  # waiting for an upstream connection
    SENDING: Final = 3  # request body under way
    WAITING: Final = 4  # request sent, no response head yet
    ANSWERING: Final = 5  # response under way
    TUNNEL: Final = 6  # after a WebSocket handshake


class Ear(Protocol):
    """Listens to an answer's body as it passes by."""

    def hear(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Exchange:
    """What is known of one request; written by the story and what passes by it, read by metrics, logs and the sweep.

    Instants are ``time.monotonic()`` seconds (uvloop's own clock counts milliseconds only); bytes count bodies only, chunk framing left out.
    """

    # Most requests leave most of these as they are, so they stand on the class.
    caller = ""  # name from the configuration
    route = "-"  # name from the configuration; "-" matched none
    status = 0  # of the head that was sent; 499 when the caller left before it
    outcome = ""  # complete | cut | caller_left
    error = ""  # the error_code of our own error
    upstream_status = 0
    upstream_request_id = ""
    upstream_class = ""  # metric_label of the upstream-errors table
    attempts = 0
    body_mode = "none"  # none | streamed | memory | file
    request_bytes = 0
    response_bytes = 0
    first_byte_seconds = -1.0  # request sent to response head; negative: no head came
    first_byte_limit_seconds = math.inf
    connect_by = math.inf  # an instant, while a connection is being opened
    sent_at = 0.0
    head_sent = False
    phase: int = Phase.CREDENTIAL
    deadline = math.inf
    deadline_setting = "limits.deadline"
    idle_seconds = math.inf
    moved = False  # body bytes moved since the sweep last looked
    waits_for_caller = False  # the next thing needed is body bytes from the caller
    waits_for_reader = False  # the next thing needed is that the caller reads its answer
    ear: Ear | None = None  # of an answer from 400 up
    repeated = False  # sent again after an answer that may be tried again once
    expired: "GatewayError | None" = None  # why the sweep ended the story
    story: "Story | None" = None

    def __init__(self, moment: "Moment", arrived: float, request_id: str, method: str, path: str) -> None:
        self.moment = moment
        self.arrived = self.idle_since = arrived  # the request head was complete
        self.request_id = request_id
        self.method = method
        self.path = path  # as sent, no query

    def expire(self, error: "GatewayError") -> None:
        """End the story from outside with ``error``; the first reason stays."""
        if self.expired is None and self.story is not None:
            self.expired = error
            self.story.cancel()
