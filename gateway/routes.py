"""Routes as the configuration describes them, and which of them a request matches."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway import paths
from gateway.errors import MethodNotAllowed, RouteNotFound

# Distinct raw paths whose verdict is remembered. Callers choose paths, so the memory is bounded and emptied when full.
_REMEMBERED_PATHS = 4096
_REMEMBERED_PATH_BYTES = 512


@dataclass(frozen=True, slots=True)
class UpstreamUrl:
    """Where a route sends: taken apart once. ``authority`` is the Host that is sent and signed, as the URL wrote it."""

    scheme: str  # http | https
    host: str  # without brackets
    port: int
    authority: str
    base_path: str  # "" or "/v1/infers/…", never ending in "/"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one route; ``None`` switches one off."""

    body_bytes: int | None = 12 * 1024 * 1024
    connect_seconds: float | None = 5.0  # DNS, TCP, TLS and a proxy's CONNECT together
    first_byte_seconds: float | None = None  # request sent to response head
    idle_seconds: float | None = 60.0  # longest silence while a body flows, either way
    deadline_seconds: float | None = 40.0  # request head received to last byte answered
    in_flight: int | None = None
    rate: "Rate | None" = None


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: ``per_second`` requests on average, ``burst`` at once."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Retry:
    attempts: int = 2  # in all
    idempotent: bool = False  # the request may be sent twice


@dataclass(frozen=True, slots=True)
class Breaker:
    """After ``failures`` in a row the route answers 503 for ``open_seconds``, then lets one probe through."""

    failures: int
    open_seconds: float


@dataclass(frozen=True, slots=True)
class Cors:
    origins: tuple[str, ...]  # "*" opens the route
    headers: tuple[str, ...] = ("*",)
    credentials: bool = False
    max_age_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Connection:
    """How an upstream (or IAM) is reached, when not straight by its URL."""

    address: tuple[str, int] | None = None  # dial this, keep the URL's name for TLS and Host
    ca: str | None = None  # PEM file that replaces the system's roots
    proxy: tuple[str, int] | None = None  # forward proxy, by CONNECT


@dataclass(frozen=True, slots=True)
class Route:
    """One route, compiled at load. ``prefix`` is "" for the route of everything, else starts with "/" and does not end in it."""

    name: str
    prefix: str
    upstream: UpstreamUrl
    credential: str | None  # name; None where the upstream takes none
    signed: bool = False  # the credential signs: path and query leave in canonical form
    methods: tuple[str, ...] = ()  # empty: any
    limits: Limits = field(default_factory=Limits)
    replay_bytes: int = 1024 * 1024
    retry: Retry = field(default_factory=Retry)
    websocket: bool = False
    breaker: Breaker | None = None
    cors: Cors | None = None
    connection: Connection = field(default_factory=Connection)
    forwarded: bool = False  # pass Forwarded and X-Forwarded-* on


class Match(NamedTuple):
    """A route and the raw path that leaves, base path included."""

    route: Route
    upstream_path: str


def check_method(route: Route, method: str) -> None:
    """Raises MethodNotAllowed, with what is allowed, when the route does not take ``method``."""
    if route.methods and method not in route.methods:
        raise MethodNotAllowed(
            f"Route '{route.name}' takes {', '.join(route.methods)}, not {method} (methods).",
            setting="methods",
            allow=route.methods,
        )


class RouteTable:
    """Finds the route of a raw path: longest prefix on segment boundaries."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(sorted(routes, key=lambda route: len(route.prefix), reverse=True))
        self._remembered: dict[str, Match] = {}

    def match(self, raw_path: str) -> Match:
        """The route of a raw path, and the path that leaves.

        Raises:
            BadPath: the path has more than one reading (refused, never cleaned).
            RouteNotFound: no prefix matches.
        """
        match = self._remembered.get(raw_path)
        if match is None:
            match = self._find(raw_path)
            if len(raw_path) <= _REMEMBERED_PATH_BYTES:
                if len(self._remembered) >= _REMEMBERED_PATHS:
                    self._remembered.clear()
                self._remembered[raw_path] = match
        return match

    def _find(self, raw_path: str) -> Match:
        paths.refuse_ambiguous_path(raw_path)
        for route in self.routes:
            prefix = route.prefix
            if raw_path.startswith(prefix) and (len(raw_path) == len(prefix) or raw_path[len(prefix)] == "/"):
                upstream_path = route.upstream.base_path + raw_path[len(prefix) :]
                if route.signed:
                    upstream_path = paths.canonical_path(upstream_path)
                return Match(route, upstream_path or "/")
        raise RouteNotFound("No route matches this path. GET /status on the admin listener lists the routes.")
