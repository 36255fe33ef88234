"""The numbers of one process, added to as requests end."""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from gateway.metrics.families import render
from gateway.metrics.snapshots import BUCKETS_SECONDS, RECENT_ERRORS, Snapshot

if TYPE_CHECKING:
    from gateway.credentials.base import CredentialState
    from gateway.exchange import Exchange

# Anything else is a word of the caller's choosing and counts under "other".
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
NO_ROUTE = "-"
# What `refreshed` is told; both start at 0, so that the first failure is an increase and not a new series.
REFRESH_RESULTS = ("ok", "failed")

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is not counted but looked up when somebody asks; instants are Unix time."""

    in_flight: Mapping[str, int] = field(default_factory=dict)  # requests by route; a route that is not named has none
    credentials: Mapping[str, "CredentialState"] = field(default_factory=dict)
    clock_skew_seconds: Mapping[str, float] = field(default_factory=dict)  # by upstream; positive: it is ahead
    upstream_connections: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by upstream, then state
    breakers: Mapping[str, str] = field(default_factory=dict)  # by route: closed | half-open | open
    body_memory_bytes: int = 0
    reload_successful: bool = True
    reload_success_timestamp: float = 0.0
    access_log_lines_dropped: int = 0  # since the start
    worker_restarts: int = 0  # since the start


class RouteCounts:
    """The numbers of one route since the start."""

    __slots__ = (
        "durations",
        "durations_sum",
        "errors",
        "first_bytes",
        "first_bytes_sum",
        "request_bytes",
        "requests",
        "response_bytes",
        "retries",
        "upstream_errors",
    )

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}
        self.durations = [0] * (len(BUCKETS_SECONDS) + 1)  # one count per bucket, not cumulative; the last is +Inf
        self.durations_sum = 0.0
        self.first_bytes = [0] * (len(BUCKETS_SECONDS) + 1)
        self.first_bytes_sum = 0.0
        self.request_bytes = 0
        self.response_bytes = 0
        self.errors: dict[str, int] = {}
        self.upstream_errors: dict[str, int] = {}
        self.retries: dict[str, int] = {}

    def snapshot(self) -> Snapshot:
        return {
            "requests": {f"{method} {code}": count for (method, code), count in self.requests.items()},
            "durations": list(self.durations),
            "durations_sum": self.durations_sum,
            "first_bytes": list(self.first_bytes),
            "first_bytes_sum": self.first_bytes_sum,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "errors": dict(self.errors),
            "upstream_errors": dict(self.upstream_errors),
            "retries": dict(self.retries),
        }


class Metrics:
    """All counters of one process, and the registry that renders them.

    ``gauges`` is asked at each snapshot. ``wall`` is Unix time and ``monotonic`` the event loop's clock, both in seconds.
    """

    def __init__(
        self,
        version: str,
        routes: Iterable[str] = (),
        credentials: Iterable[str] = (),
        *,
        gauges: Callable[[], Gauges] = Gauges,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.version = version
        self.gauges = gauges
        self._wall = wall
        self._monotonic = monotonic
        self._unmatched = RouteCounts()
        self._routes = {NO_ROUTE: self._unmatched}
        self._refreshes: dict[str, dict[str, int]] = {}
        self._recent: deque[tuple[float, str, str, int, str]] = deque(maxlen=RECENT_ERRORS)
        self.reconfigure(routes, credentials)

    def reconfigure(self, routes: Iterable[str], credentials: Iterable[str]) -> None:
        """Know these names, too. Names that went keep their counts: their last requests may still be running."""
        for name in routes:
            self._routes.setdefault(name, RouteCounts())
        for name in credentials:
            self._refreshes.setdefault(name, dict.fromkeys(REFRESH_RESULTS, 0))

    def route(self, name: str) -> RouteCounts:
        """The counts of a route; those of ``-`` for a name that is not in the configuration."""
        return self._routes.get(name, self._unmatched)

    def retried(self, route: str, reason: str) -> None:
        """Another attempt is made; ``reason`` is of a fixed set (as ``connect``, ``auth_expired``)."""
        _count(self.route(route).retries, reason)

    def refreshed(self, credential: str, result: str) -> None:
        """An attempt to obtain a token ended: ``ok`` or ``failed``."""
        _count(self._refreshes.setdefault(credential, {}), result)

    def observe(self, exchange: "Exchange", ended: float) -> None:
        """Count a finished exchange. ``ended`` is an instant of the event loop's clock."""
        counts = self._routes.get(exchange.route) or self._unmatched
        key = (exchange.method, exchange.status)
        try:
            counts.requests[key] += 1
        except KeyError:
            _count(counts.requests, _request_key(exchange.method, exchange.status))
        seconds = ended - exchange.arrived
        counts.durations[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        counts.durations_sum += seconds
        seconds = exchange.first_byte_seconds
        if seconds >= 0.0:
            counts.first_bytes[bisect_left(BUCKETS_SECONDS, seconds)] += 1
            counts.first_bytes_sum += seconds
        counts.request_bytes += exchange.request_bytes
        counts.response_bytes += exchange.response_bytes
        if exchange.error or exchange.upstream_class:
            self._observe_error(counts, exchange, ended)

    def _observe_error(self, counts: RouteCounts, exchange: "Exchange", ended: float) -> None:
        if exchange.error:
            _count(counts.errors, exchange.error)
        if exchange.upstream_class:
            _count(counts.upstream_errors, exchange.upstream_class)
        what = exchange.error or f"upstream {exchange.upstream_class}"
        self._recent.append((ended, exchange.request_id, exchange.route, exchange.status or 499, what))

    def snapshot(self) -> Snapshot:
        """Everything as JSON-able data: for a page, for another process, and for the scrape."""
        gauges = self.gauges()
        wall_minus_monotonic = self._wall() - self._monotonic()
        return {
            "version": self.version,
            "routes": {name: counts.snapshot() for name, counts in self._routes.items()},
            "refreshes": {name: dict(results) for name, results in self._refreshes.items()},
            "access_log_lines_dropped": gauges.access_log_lines_dropped,
            "worker_restarts": gauges.worker_restarts,
            "recent_errors": [
                {
                    "time": ended + wall_minus_monotonic,
                    "request_id": request_id,
                    "route": route,
                    "code": code,
                    "error": what,
                }
                for ended, request_id, route, code, what in self._recent
            ],
            "gauges": {
                "in_flight": {name: gauges.in_flight.get(name, 0) for name in self._routes},
                "body_memory_bytes": gauges.body_memory_bytes,
                "upstream_connections": {name: dict(states) for name, states in gauges.upstream_connections.items()},
                "clock_skew_seconds": dict(gauges.clock_skew_seconds),
                "breakers": dict(gauges.breakers),
                "credentials": {
                    name: {"usable": state.usable, "expiry": state.expiry} for name, state in gauges.credentials.items()
                },
                "reload_successful": gauges.reload_successful,
                "reload_success_timestamp": gauges.reload_success_timestamp,
            },
        }

    def text(self) -> tuple[bytes, str]:
        """A scrape's answer and its content type, of this process alone."""
        return render(self.snapshot())


def _request_key(method: str, status: int) -> tuple[str, int]:
    return (method if method in METHODS else "other", status or 499)


def _count(counts: dict[_Key, int], key: _Key) -> None:
    counts[key] = counts.get(key, 0) + 1
