"""What one process serves with: callers' connections, the story, credentials, counters, and the work between requests."""

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from gateway import __version__, tracing
from gateway.admission import Admission
from gateway.body import Budget
from gateway.callers import Callers
from gateway.config import Config
from gateway.credentials.base import CredentialState, Services
from gateway.credentials.token import Token
from gateway.errors import Draining, GatewayError
from gateway.exchange import Exchange
from gateway.keyring import Keyring
from gateway.listener import Bounds, Listener
from gateway.logs import AccessLog
from gateway.metrics import Gauges, Metrics, Snapshot
from gateway.proxy import Proxy
from gateway.reload import READ_AGAIN_SECONDS
from gateway.retry import ClockWatch
from gateway.routes import RouteTable
from gateway.site import Place, Site
from gateway.spool import KEPT_BYTES, Spools
from gateway.story import Moment
from gateway.tls import CallerTls
from gateway.upstream import Upstreams

log = logging.getLogger(__name__)

# How often limits of time are looked at; deadlines are that exact.
SWEEP_SECONDS = 0.1
_CONNECTIONS_EVERY = 2  # sweeps; idle times and heads need not be exact to a tenth
_POOLS_EVERY = 10
# What running requests get, at most, when the work between requests has failed: their deadlines may not be kept any more.
FAILED_DRAIN_SECONDS = 45.0

Spread = Callable[[str, str, str], None]
SharedToken = Callable[[str, bytes | None], Awaitable[Token]]


class Serving:
    """Everything that answers callers in this process; also who is told of exchanges (``proxy.Observer``).

    The last three are the gateway's where this is one of its several workers: the mark that its requests bear, where
    tokens come from, and how other workers hear of refusals (``credentials.base.Services``).
    """

    def __init__(
        self,
        config: Config,
        *,
        access_log_fd: int = 1,
        name: str | None = None,
        shared_token: SharedToken | None = None,
        spread: Spread | None = None,
    ) -> None:
        self.config = config
        self._alone = shared_token is None
        self._tracer = tracing.from_environment()
        self._access_log = AccessLog(access_log_fd, shared=not self._alone)
        self.metrics = Metrics(__version__, (), (), gauges=self._gauges, wall=time.time, monotonic=time.monotonic)
        # Where tokens come from another process, that one counts how often they were obtained.
        refreshed = self.metrics.refreshed if self._alone else _nobody
        services = Services(time.time, time.monotonic, asyncio.sleep, refreshed, shared_token)
        if self._alone and self._tracer is not None:
            services = replace(services, fetched=self._tracer.fetched)
        self.keyring = Keyring(services if spread is None else replace(services, spread=spread))
        self._spools = Spools(KEPT_BYTES)
        self._budget = Budget(config.process.body_memory_bytes, self._spools)
        self._admission = Admission(time.monotonic)
        self._upstreams = Upstreams()
        self._now = time.monotonic
        self._name = name or os.urandom(6).hex()
        self.proxy = Proxy(self._site(config), self._admission, self, self._budget, self._tracer)
        self.listener = Listener(self.proxy.handle, self._refused, _bounds(config), asyncio.get_running_loop())
        self._tls = CallerTls(config.tls) if config.tls is not None else None
        self._tasks: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()  # work that has to go on has ended: let running requests finish, and end

    def start(self) -> None:
        """Obtain credentials in the background, and keep time."""
        self.keyring.start()
        for name, work in (("sweep", self._sweep_forever()), ("read-again", self._read_again_forever())):
            self._tasks.append(watched(work, name, self.failed))

    async def listen(self, sock: socket.socket) -> asyncio.AbstractServer:
        """Accept callers on a bound socket, which is ours from then on; ``listener.stop`` ends it."""
        return await self.listener.serve(sock, None if self._tls is None else self._tls.context)

    def apply(self, config: Config) -> None:
        """Serve this configuration from the next request on; requests that run end as they began."""
        self.proxy.site = self._site(config)
        self.listener.bounds = _bounds(config)
        self._budget.limit_bytes = config.process.body_memory_bytes
        self.config = config

    def _site(self, config: Config) -> Site:
        self.keyring.update(config)
        self._admission.reconfigure(config.process.in_flight, config.routes, config.callers)
        self.metrics.reconfigure([route.name for route in config.routes], list(config.credentials))
        places = {}
        for route in config.routes:
            upstream = self._upstreams.of(route)
            places[route.name] = Place(
                self.keyring.of(route.credential),
                upstream,
                ClockWatch(upstream, time.time),
                self._admission.routes[route.name],
            )
        return Site(
            RouteTable(config.routes),
            places,
            Callers(config.callers),
            self._name,
            without=() if self._tracer is None else self._tracer.writes,
        )

    # proxy.Observer

    def end(self, exchange: Exchange) -> None:
        ended = self._now()
        self.metrics.observe(exchange, ended)
        self._access_log.write(exchange, ended, time.time())
        if self._tracer is not None:
            self._tracer.end(exchange, ended)

    def retried(self, route: str, reason: str) -> None:
        self.metrics.retried(route, reason)

    def _refused(self, error: GatewayError, address: str) -> str:
        """Count and log what never became a request."""
        request_id = self.proxy.request_id({})
        exchange = Exchange(Moment(asyncio.get_running_loop()), self._now(), request_id, "-", "-")
        exchange.status, exchange.error, exchange.outcome = error.status, error.code, "complete"
        self.end(exchange)
        return request_id

    # What is told of it

    def states(self) -> Mapping[str, CredentialState]:
        return self.keyring.states()

    def snapshot(self) -> Snapshot:
        return self.metrics.snapshot()

    def _gauges(self) -> Gauges:
        connections: dict[str, dict[str, int]] = {}
        skews: dict[str, float] = {}
        for upstream in self._upstreams:
            states = connections.setdefault(upstream.label, {"busy": 0, "idle": 0})
            states["busy"] += upstream.busy
            states["idle"] += upstream.idle
            skews[upstream.label] = upstream.clock_skew_seconds
        return Gauges(
            in_flight=self.proxy.in_flight_by_route(),
            credentials=self.states(),
            clock_skew_seconds=skews,
            upstream_connections=connections,
            breakers={
                name: gate.breaker.state.value
                for name, gate in self._admission.routes.items()
                if gate.breaker is not None
            },
            body_memory_bytes=self._budget.used_bytes,
            access_log_lines_dropped=self._access_log.dropped_lines,
        )

    # Work that goes on

    async def _sweep_forever(self) -> None:
        """The one timer of the process."""
        count = 0
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            count += 1
            now = self._now()
            self.proxy.sweep(now)
            self._spools.sweep()
            if count % _CONNECTIONS_EVERY == 0:
                self.listener.sweep(now)
            if count % _POOLS_EVERY == 0:
                self._upstreams.sweep(now)
                self._access_log.flush()

    async def _read_again_forever(self) -> None:
        """Secrets and certificates. Of several workers' warnings the supervisor's is enough."""
        while True:
            await pause_before_reading_again()
            for warning in await asyncio.to_thread(self.config.secrets.refresh):
                log.log(logging.WARNING if self._alone else logging.DEBUG, "%s", warning)
            if self._tls is not None and self.config.tls is not None:
                await asyncio.to_thread(self._tls.read_again, self.config.tls)

    # Ending

    def begin_drain(self) -> None:
        """Answers say from now on that they are their connection's last."""
        self.listener.draining = True

    async def finish(self) -> int:
        """Take no new connections, and let running requests end: how many are left when ``drain`` has passed."""
        self.listener.stop_listening()
        seconds = self.config.process.drain_seconds
        if self.failed.is_set():
            seconds = FAILED_DRAIN_SECONDS if seconds is None else min(seconds, FAILED_DRAIN_SECONDS)
            # If it was the sweep, it may do for those that end; if it breaks off again, the time above ends them.
            self._tasks.append(watched(self._sweep_forever(), "sweep", self.failed))
        until = None if seconds is None else self._now() + seconds
        # Connections outlive their last request where the caller is slow to read the answer.
        while (self.listener.busy or self.proxy.in_flight) and (until is None or self._now() < until):  # noqa: ASYNC110 - many ways to end
            await asyncio.sleep(SWEEP_SECONDS)
        return self.proxy.in_flight

    async def close(self) -> None:
        """Cut what is left and close everything that was opened."""
        self.listener.stop_listening()
        self.proxy.cut(Draining("The gateway has stopped; send the request again.", retry_after_seconds=1))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(20):  # the stories that were cut end in the next turns of the loop
            if not self.proxy.in_flight:
                break
            await asyncio.sleep(0.01)
        self.listener.abort()
        self._spools.close()
        await self.keyring.close()
        self._upstreams.close()
        self._access_log.close()
        if self._tracer is not None:
            await self._tracer.close()


async def pause_before_reading_again() -> None:
    """Not always the same, so that several gateways on one machine do not read all at once."""
    await asyncio.sleep(READ_AGAIN_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311


def watched(work: Coroutine[Any, Any, None], name: str, failed: asyncio.Event) -> "asyncio.Task[None]":
    """A task that has to go on; if it breaks off, the log says so and ``failed`` is set.

    Whoever waits for that ends the process: one that goes on without keeping deadlines, or without hearing of new secrets,
    looks well and is not, and its successor begins with nothing of what broke it.
    """

    def report(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            log.critical("task %s broke off, so this process ends", name, exc_info=task.exception())
            failed.set()

    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(report)
    return task


def _bounds(config: Config) -> Bounds:
    process = config.process
    return Bounds(process.head_seconds, process.head_bytes, process.keep_alive_seconds)


def _nobody(credential: str, outcome: str) -> None:
    """Told of what somebody else counts."""
