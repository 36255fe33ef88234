"""One request's record, from its head to its log line, and the one thing it waits on."""

import asyncio
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.errors import GatewayError


class Moment:
    """The single wake-up of an exchange: whoever changes something it may be waiting for calls ``wake()``.

    The exchange re-checks its conditions in a loop (``while not ready: await moment.wait()``), so one wait
    serves the upload, an early answer, back-pressure and a caller that left. Nothing is lost between a check
    and the wait, because nothing else runs in between.
    """

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)

    async def wait(self) -> None:
        self._future = self._loop.create_future()
        try:
            await self._future
        finally:
            self._future = None


class Phase(enum.IntEnum):
    """What an exchange is doing; it decides what a passed limit means."""

    RECEIVING = 0  # reading the caller's body, nothing sent yet
    CREDENTIAL = 1  # waiting for a credential
    CONNECTING = 2  # waiting for an upstream connection
    SENDING = 3  # request body under way
    WAITING = 4  # request sent, no response head yet
    ANSWERING = 5  # response under way
    TUNNEL = 6  # after a WebSocket handshake


class Exchange:
    """What is known of one request; written by the story, read by metrics, logs and the sweep.

    Instants are ``time.monotonic()`` seconds (uvloop's own clock counts milliseconds only); bytes count bodies only, chunk framing left out.
    """

    __slots__ = (
        "arrived",
        "attempts",
        "body_mode",
        "caller",
        "counted",
        "deadline",
        "deadline_setting",
        "error",
        "expired",
        "first_byte_limit_seconds",
        "first_byte_seconds",
        "head_sent",
        "idle_seconds",
        "idle_since",
        "method",
        "moment",
        "moved",
        "outcome",
        "path",
        "phase",
        "request_bytes",
        "request_id",
        "response_bytes",
        "route",
        "sent_at",
        "status",
        "story",
        "upstream_class",
        "upstream_request_id",
        "upstream_status",
        "waits_for_caller",
    )

    def __init__(self, moment: Moment, arrived: float, request_id: str, method: str, path: str) -> None:
        self.moment = moment
        self.arrived = arrived  # the request head was complete
        self.request_id = request_id
        self.method = method
        self.path = path  # as sent, no query
        self.caller = ""  # name from the configuration
        self.route = "-"  # name from the configuration; "-" matched none
        self.status = 0  # of the head that was sent; 499 when the caller left before it
        self.outcome = ""  # complete | cut | caller_left
        self.error = ""  # the error_code of our own error
        self.upstream_status = 0
        self.upstream_request_id = ""
        self.upstream_class = ""  # metric_label of the upstream-errors table
        self.attempts = 0
        self.body_mode = "none"  # none | streamed | memory | file
        self.request_bytes = 0
        self.response_bytes = 0
        self.first_byte_seconds = -1.0  # request sent to response head; negative: no head came
        self.sent_at = 0.0
        self.head_sent = False
        self.phase = Phase.RECEIVING
        self.deadline = float("inf")
        self.deadline_setting = "limits.deadline"
        self.first_byte_limit_seconds = float("inf")
        self.idle_seconds = float("inf")
        self.idle_since = arrived
        self.moved = False  # body bytes moved since the last sweep
        self.waits_for_caller = False  # the next thing needed is body bytes from the caller
        self.counted = False  # in_flight counted
        self.expired: GatewayError | None = None  # why the sweep ended the story
        self.story: asyncio.Task[None] | None = None

    def expire(self, error: "GatewayError") -> None:
        """End the story from outside with ``error``; the first reason stays."""
        if self.expired is None and self.story is not None:
            self.expired = error
            self.story.cancel()
