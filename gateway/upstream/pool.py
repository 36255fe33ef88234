"""Kept connections, per upstream: used last first, closed when idle long, when old, or when they spoke unasked."""

import math
import time
from collections import deque
from collections.abc import Callable

from gateway.errors import UpstreamUnreachable
from gateway.exchange import Exchange, Phase
from gateway.outbound import Outbound
from gateway.routes import Connection, Route, UpstreamUrl
from gateway.upstream.attempt import Attempt
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.dial import dial, tls_context

# Shorter than the 60 s after which nginx, and so API Gateway, closes an idle connection: the side that closes first
# decides the race between a close and a request.
_IDLE_SECONDS = 30.0
# A connection in constant use is still replaced, so that a changed DNS answer is followed.
_LIFE_SECONDS = 300.0
# Idle connections kept at most; how many can be busy is bounded by the process's and the route's in_flight.
_IDLE_CONNECTIONS = 512
# Below this the kernel has hardly had time to hear a FIN that the event loop has not.
_CHECK_AFTER_SECONDS = 0.05
# One that closed a kept connection instead of answering may do so behind every answer, without saying it in the answer:
# for so long all its connections are looked at. That costs 2 microseconds each, and spares nearly all of the failures.
_WARY_SECONDS = 60.0


class Upstream:
    """One place to send to: a URL's origin and how it is reached."""

    def __init__(self, url: UpstreamUrl, connection: Connection) -> None:
        self.url = url
        self.label = f"{url.scheme}://{url.authority}"
        self.clock_skew_seconds = 0.0
        self.busy = 0
        self._connection = connection
        self._context = tls_context(connection) if url.scheme == "https" else None
        self._idle: deque[UpstreamConnection] = deque()
        self._wary_until = float("-inf")
        self._clock: Callable[[], float] = time.monotonic

    @property
    def idle(self) -> int:
        return len(self._idle)

    async def connect(self, route: Route, exchange: Exchange) -> UpstreamConnection:
        """A new connection, given to nobody if it was closed as soon as it was open; fails as ``dial`` does."""
        exchange.phase = Phase.CONNECTING
        seconds = route.limits.connect_seconds
        exchange.connect_by = math.inf if seconds is None else self._clock() + seconds
        try:
            connection = await dial(self.url, self._connection, self._context)
        finally:
            exchange.connect_by = math.inf
        if not connection.alive():  # closed at once, by whoever stands before an upstream that is not there
            connection.abort()
            raise UpstreamUnreachable(
                "The upstream closed the connection as soon as it was open.",
                proxy_status="connection_terminated",
                sent=False,
            )
        return connection

    def send(self, connection: UpstreamConnection, outbound: Outbound, exchange: Exchange) -> Attempt:
        """Begin an attempt on a connection of ``take_idle`` or ``connect``; its answer comes from ``headed``, and it is
        given back with ``release``.

        Raises:
            BodyTooLarge, BadRequest: the caller's body is at fault.
        """
        self.busy += 1
        attempt = Attempt(connection, outbound, exchange, self._clock)
        try:
            attempt.begin(outbound)
        except BaseException:
            self.release(attempt)
            raise
        return attempt

    def release(self, attempt: Attempt) -> None:
        """The attempt is over, however it ended: its connection is kept if another request may follow.

        Releasing it once more changes nothing.
        """
        if attempt.released:
            return
        self.busy -= 1
        connection = attempt.release()
        now = self._clock()
        if connection is None:
            if attempt.met_stale:
                self._wary_until = now + _WARY_SECONDS
            return
        if now - connection.opened_at > _LIFE_SECONDS:
            connection.close()
            return
        if self._context is not None and connection.requests == 1:
            self._context.session = connection.tls_session()  # TLS 1.3 sends it behind the handshake
        connection.idle_since = now
        self._idle.append(connection)
        if len(self._idle) > _IDLE_CONNECTIONS:
            self._idle.popleft().close()

    def sweep(self, now: float) -> None:
        """Close what has been idle for long, and forget what the upstream has closed, so that ``idle`` is true."""
        idle = self._idle
        while idle and now - idle[0].idle_since > _IDLE_SECONDS:  # the oldest stand first
            idle.popleft().close()
        if any(connection.closed for connection in idle):
            self._idle = deque(connection for connection in idle if not connection.closed)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def take_idle(self) -> UpstreamConnection | None:
        """A kept connection that is still there, the latest used."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.gone:
                continue
            now = self._clock()
            fresh = now - connection.idle_since < _CHECK_AFTER_SECONDS and now >= self._wary_until
            if fresh or connection.alive():
                return connection
            connection.close()
        return None


class Upstreams:
    """All upstreams of a configuration; routes with the same origin and connection share one."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, int, str, Connection], Upstream] = {}

    def of(self, route: Route) -> Upstream:
        url = route.upstream
        key = (url.scheme, url.host, url.port, url.authority, route.connection)
        upstream = self._known.get(key)
        if upstream is None:
            upstream = self._known[key] = Upstream(url, route.connection)
        return upstream

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._known.values())

    def sweep(self, now: float) -> None:
        for upstream in self._known.values():
            upstream.sweep(now)

    def close(self) -> None:
        for upstream in self._known.values():
            upstream.close()
