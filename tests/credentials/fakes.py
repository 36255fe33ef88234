"""Stand-ins for what a credential meets: a clock that is moved by hand, a body, a request on its way out."""

import asyncio
import hashlib
from typing import Any, cast

from gateway.body import Body
from gateway.credentials.base import Services
from gateway.deadline import Deadline
from gateway.outbound import Outbound, Outline
from gateway.refusals import Refusal, Retry
from gateway.routes import Match, Route, UpstreamUrl
from gateway.wire.request_head import parse_request

START = 1_700_000_000.0
NO_DEADLINE = Deadline(float("inf"))


class Clock:
    """Wall and monotonic time that stand still until ``advance``; sleepers wake in order as it passes."""

    def __init__(self) -> None:
        self.monotonic_now = 1000.0
        self.wall_now = START
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def wall(self) -> float:
        return self.wall_now

    def monotonic(self) -> float:
        return self.monotonic_now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.monotonic_now + seconds, len(self.slept), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that falls due."""
        end = self.monotonic_now + seconds
        await settle()
        while True:
            self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[2].done()]
            due = min((sleeper for sleeper in self._sleepers if sleeper[0] <= end), default=None)
            if due is None:
                break
            self._move_to(max(due[0], self.monotonic_now))
            due[2].set_result(None)
            await settle()
        self._move_to(end)

    def _move_to(self, instant: float) -> None:
        self.wall_now += instant - self.monotonic_now
        self.monotonic_now = instant


async def settle() -> None:
    """Let every task run until it waits for something from outside."""
    for _ in range(12):
        await asyncio.sleep(0)


class FakeBody:
    """A body as credentials see it: bytes, and whether its size was announced."""

    def __init__(self, content: bytes = b"", *, chunked: bool = False, replay_bytes: int = 1024) -> None:
        self.content = content
        self.replay_bytes = replay_bytes
        self.empty = not content and not chunked
        self.length = None if chunked else len(content)
        self.buffered_up_to = -1

    async def fits(self, count: int) -> bool:
        self.buffered_up_to = max(self.buffered_up_to, count)
        return len(self.content) <= count

    def sha256_if_here(self) -> str | None:
        return None

    async def sha256(self) -> str:
        self.buffered_up_to = max(self.buffered_up_to, len(self.content))
        self.length = len(self.content)
        return hashlib.sha256(self.content).hexdigest()


def services(clock: Clock, refreshed: list[tuple[str, str]] | None = None, **more: Any) -> Services:
    record = [] if refreshed is None else refreshed
    return Services(
        wall=clock.wall,
        monotonic=clock.monotonic,
        sleep=clock.sleep,
        refreshed=lambda name, outcome: record.append((name, outcome)),
        **more,
    )


def outbound(
    body: FakeBody | None = None,
    route: str = "poetry",
    path: str = "/v1/infers/S/predict",
    query: str | None = "a=1",
    fields: tuple[bytes, ...] = (),
    clock_skew_seconds: float = 0.0,
) -> Outbound:
    """A request on its way out; ``path`` and ``query`` are the upstream's, ``fields`` are lines of the caller's."""
    target = b"/poetry" if query is None else b"/poetry?" + query.encode()
    head = parse_request(b"\r\n".join([b"POST %b HTTP/1.1" % target, b"Host: h", b"Accept: */*", *fields]))
    url = UpstreamUrl("https", "h.example.com", 443, "h.example.com", "/v1/infers/S")
    match = Match(Route(name=route, prefix="/poetry", upstream=url, credential="c", signed=True), path)
    outline = Outline(head, match, b"1.1 gateway")
    return Outbound(outline, cast(Body, body or FakeBody(b"{}")), "id-1", clock_skew_seconds)


def refusal(refusal_class: str, code: str = "APIG.0301", status: int = 401, *, certain: bool = True) -> Refusal:
    refresh = refusal_class in ("auth_expired", "auth_invalid")
    retry = Retry.AFTER_REFRESH if refresh else Retry.NO
    return Refusal(status, code, refusal_class, refresh, retry, refusal_class, certain)


def added(request: Outbound) -> dict[str, str]:
    """What a credential added to the request's fields."""
    return {name.decode(): value.decode() for name, value in request.fields if name != b"X-Request-Id"}
