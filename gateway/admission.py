"""Whether there is room for a request now: how many are in flight, how fast they come, and whether the upstream is known to be down.

Everything is of one process and decided on the spot: a request goes on or is refused, nothing queues here.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from gateway.errors import CircuitOpen, DeadlineExceeded, Overloaded, RateLimited, UpstreamFailed
from gateway.routes import Breaker as BreakerSettings
from gateway.routes import Rate, Route

if TYPE_CHECKING:
    from gateway.config import Caller

# How long requests in flight take nobody knows; a second spreads those who try again without keeping them away.
_OVERLOAD_RETRY_SECONDS = 1.0
# Second attempts at a failing upstream stay below a tenth of its route's requests: more would keep it from getting up
# again. So many requests earn one, and where there are few requests, a handful of second attempts may run ahead.
_REQUESTS_PER_RETRY = 10
_EARNED_AT_MOST = 10 * _REQUESTS_PER_RETRY
# While a probe is under way its outcome decides; nobody knows when that is.
_PROBE_RETRY_SECONDS = 1.0

Clock = Callable[[], float]

# Tickets are never given twice, so that one of a breaker that a reload replaced means nothing to the new one.
_tickets = itertools.count(1)


class TokenBucket:
    """``rate.per_second`` requests on average and ``rate.burst`` at once. ``monotonic`` is the event loop's clock."""

    __slots__ = ("_at", "_burst", "_monotonic", "_per_second", "_tokens", "rate")

    def __init__(self, rate: Rate, monotonic: Clock) -> None:
        self.rate = rate
        self._monotonic = monotonic
        self._per_second = rate.per_second
        self._burst = float(max(1, rate.burst))
        self._tokens = self._burst
        self._at = monotonic()

    def take(self) -> float:
        """Take one token. 0 when there was one; else nothing is taken, and there will be one after this many seconds."""
        now = self._monotonic()
        tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        # What rounding keeps from a whole token would otherwise turn away who waited exactly as long as told.
        if tokens >= 1.0 - 1e-9:
            self._tokens = max(0.0, tokens - 1.0)
            return 0.0
        self._tokens = tokens
        return (1.0 - tokens) / self._per_second

    def give_back(self) -> None:
        """The request that took a token was refused for another reason."""
        self._tokens = min(self._burst, self._tokens + 1.0)


class BreakerState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Stops sending after ``failures`` in a row, and after ``open_seconds`` lets exactly one probe find out.

    ``admit`` hands out a ticket and ``record`` takes it back with the verdict. A ticket is of the state it was given in: once
    that has changed, the verdict of a request from before no longer says anything.
    """

    __slots__ = ("_failures", "_monotonic", "_opened_at", "_probing", "_ticket", "settings", "state")

    def __init__(self, settings: BreakerSettings, monotonic: Clock) -> None:
        self.settings = settings
        self.state = BreakerState.CLOSED
        self._monotonic = monotonic
        self._failures = 0
        self._opened_at = 0.0
        self._probing = False
        self._ticket = next(_tickets)

    def wait_seconds(self) -> float:
        """0 when a request may go on now, else when it is worth asking again. Takes nothing."""
        if self.state is BreakerState.CLOSED:
            return 0.0
        if self._probing:
            return _PROBE_RETRY_SECONDS
        return max(0.0, self._opened_at + self.settings.open_seconds - self._monotonic())

    def admit(self) -> int:
        """A ticket for one request; only after ``wait_seconds`` gave 0. Out of an open breaker it is the probe's."""
        if self.state is not BreakerState.CLOSED:
            self._enter(BreakerState.HALF_OPEN)
            self._probing = True
        return self._ticket

    def record(self, ticket: int, succeeded: bool | None) -> None:
        """What became of the request: None when it says nothing about the upstream. The first verdict counts."""
        if ticket != self._ticket:
            return
        if self.state is BreakerState.CLOSED:
            if succeeded is not None:
                self._failures = 0 if succeeded else self._failures + 1
                if self._failures >= self.settings.failures:
                    self._open()
        elif self._probing:
            if succeeded is None:
                self._probing = False  # the next request is the probe
                self._ticket = next(_tickets)
            elif succeeded:
                self._failures = 0
                self._enter(BreakerState.CLOSED)
            else:
                self._open()

    def _open(self) -> None:
        self._opened_at = self._monotonic()
        self._enter(BreakerState.OPEN)

    def _enter(self, state: BreakerState) -> None:
        self.state = state
        self._probing = False
        self._ticket = next(_tickets)


def verdict(error: BaseException | None, upstream_status: int) -> bool | None:
    """What an exchange says about its upstream: False for no connection, reset, timeout and 5xx; None for nothing at all.

    A deadline that the caller itself made shorter is no fault of the upstream's, so that nobody can close a route for others;
    nor is what becomes of a tunnel, once the upstream has opened it.
    """
    if upstream_status == 101:
        return True
    if isinstance(error, UpstreamFailed):
        return False
    if isinstance(error, DeadlineExceeded):
        return False if error.setting == "limits.deadline" else None
    if upstream_status:
        return upstream_status < 500
    return None


class Gate:
    """The limits of one route or caller, and how much of them is used. ``in_flight`` counts with and without a limit."""

    __slots__ = ("breaker", "bucket", "guarded", "in_flight", "kind", "limit", "name", "setting", "towards_retries")

    def __init__(self, kind: str, name: str, setting: str) -> None:
        self.kind = kind  # Route | Caller
        self.name = name
        self.setting = setting  # where its limits stand in the configuration: limits | callers
        self.in_flight = 0
        self.towards_retries = _EARNED_AT_MOST  # requests that no second attempt was taken for yet
        self.limit: float = math.inf
        self.bucket: TokenBucket | None = None
        self.breaker: Breaker | None = None
        self.guarded = False

    def configure(
        self, in_flight: int | None, rate: Rate | None, breaker: BreakerSettings | None, monotonic: Clock
    ) -> None:
        """Take new limits; what is in flight, and the state of a bucket or breaker that did not change, stay."""
        self.limit = math.inf if in_flight is None else in_flight
        if rate is None:
            self.bucket = None
        elif self.bucket is None or self.bucket.rate != rate:
            self.bucket = TokenBucket(rate, monotonic)
        if breaker is None:
            self.breaker = None
        elif self.breaker is None or self.breaker.settings != breaker:
            self.breaker = Breaker(breaker, monotonic)
        self.guarded = in_flight is not None or rate is not None or breaker is not None

    def take_retry(self) -> bool:
        """Whether one more second attempt may be made after a failure: they stay below a tenth of the requests."""
        if self.towards_retries < _REQUESTS_PER_RETRY:
            return False
        self.towards_retries -= _REQUESTS_PER_RETRY
        return True

    def check_in_flight(self) -> None:
        """Raises Overloaded at the limit."""
        if self.in_flight >= self.limit:
            raise Overloaded(
                f"{self.kind} '{self.name}' has {self.limit} requests in flight, its limit ({self.setting}.in_flight).",
                setting=f"{self.setting}.in_flight",
                retry_after_seconds=_OVERLOAD_RETRY_SECONDS,
            )

    def check_breaker(self) -> None:
        """Raises CircuitOpen while the breaker is open or its probe is under way."""
        wait_seconds = self.breaker.wait_seconds() if self.breaker is not None else 0.0
        if wait_seconds > 0.0:
            raise CircuitOpen(
                f"{self.kind} '{self.name}' is paused: its upstream failed too often in a row (breaker).",
                setting="breaker",
                retry_after_seconds=wait_seconds,
            )

    def take_rate(self) -> None:
        """Raises RateLimited when no token is left."""
        wait_seconds = self.bucket.take() if self.bucket is not None else 0.0
        if wait_seconds > 0.0:
            raise RateLimited(
                f"{self.kind} '{self.name}' is over its rate ({self.setting}.rate).",
                setting=f"{self.setting}.rate",
                retry_after_seconds=wait_seconds,
            )


class Admission:
    """The gates of one process. Whoever enters leaves, with the same gates and the ticket it was given."""

    def __init__(self, monotonic: Clock) -> None:
        self._monotonic = monotonic
        self.in_flight = 0
        self._limit: float = math.inf
        self.routes: Mapping[str, Gate] = {}
        self.callers: Mapping[str, Gate] = {}

    def reconfigure(self, in_flight: int | None, routes: Iterable[Route], callers: Iterable["Caller"] = ()) -> None:
        """Take the limits of a configuration; ``in_flight`` is the process's. Gates of names that stay are kept, with what is in flight."""
        self._limit = math.inf if in_flight is None else in_flight
        gates = {}
        for route in routes:
            gate = gates[route.name] = self.routes.get(route.name) or Gate("Route", route.name, "limits")
            gate.configure(route.limits.in_flight, route.limits.rate, route.breaker, self._monotonic)
        self.routes = gates
        gates = {}
        for caller in callers:
            gate = gates[caller.name] = self.callers.get(caller.name) or Gate("Caller", caller.name, "callers")
            gate.configure(caller.in_flight, caller.rate, None, self._monotonic)
        self.callers = gates

    def enter(self, route: Gate, caller: Gate | None) -> int:
        """Count a request in; the answer is its ticket for the route's breaker (0 without one).

        Raises:
            Overloaded: the process, the caller or the route has its limit in flight.
            CircuitOpen: the route's breaker is open.
            RateLimited: the caller's or the route's rate is used up.
        """
        if self.in_flight >= self._limit:
            raise Overloaded(
                f"The gateway has {self._limit} requests in flight, its limit (process.in_flight).",
                setting="process.in_flight",
                retry_after_seconds=_OVERLOAD_RETRY_SECONDS,
            )
        guarded_caller = caller if caller is not None and caller.guarded else None
        ticket = self._pass(route, guarded_caller) if route.guarded or guarded_caller is not None else 0
        self.in_flight += 1
        route.in_flight += 1
        if route.towards_retries < _EARNED_AT_MOST:
            route.towards_retries += 1
        if caller is not None:
            caller.in_flight += 1
        return ticket

    def leave(self, route: Gate, caller: Gate | None, ticket: int = 0) -> None:
        """Count a request out. A probe that brought no verdict makes room for the next one."""
        self.in_flight -= 1
        route.in_flight -= 1
        if caller is not None:
            caller.in_flight -= 1
        if ticket:
            self.record(route, ticket, None)

    def heard(self, route: Gate, ticket: int, succeeded: bool | None) -> None:
        """The head of an answer is there. A probe's verdict does not wait until a long stream has ended; any other does,
        since the answer may still break off."""
        if ticket and route.breaker is not None and route.breaker.state is BreakerState.HALF_OPEN:
            route.breaker.record(ticket, succeeded)

    def record(self, route: Gate, ticket: int, succeeded: bool | None) -> None:
        """Tell the route's breaker what became of a request; see ``verdict``."""
        if ticket and route.breaker is not None:
            route.breaker.record(ticket, succeeded)

    def _pass(self, route: Gate, caller: Gate | None) -> int:
        """Checks that take nothing come first; then tokens, the caller's before those that all callers share."""
        if caller is not None:
            caller.check_in_flight()
        route.check_in_flight()
        route.check_breaker()
        if caller is not None:
            caller.take_rate()
        try:
            route.take_rate()
        except RateLimited:
            if caller is not None and caller.bucket is not None:
                caller.bucket.give_back()
            raise
        return route.breaker.admit() if route.breaker is not None else 0
