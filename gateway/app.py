"""One process's gateway, assembled from a configuration: what is opened here is closed here."""

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway import __version__, credentials
from gateway.admin import AdminListener, Readiness, Verdict, status_document
from gateway.admission import Admission
from gateway.body import Budget
from gateway.callers import Callers
from gateway.config import Address, Config, ConfigProblems, Tls, load
from gateway.credentials.base import Credential, Services
from gateway.errors import Draining, GatewayError
from gateway.exchange import Exchange, Moment
from gateway.listener import Bounds, Listener
from gateway.logs import AccessLog
from gateway.metrics import Gauges, Metrics
from gateway.proxy import Place, Proxy, Site
from gateway.retry import ClockWatch
from gateway.routes import RouteTable
from gateway.upstream import Upstreams

log = logging.getLogger(__name__)

# How often limits of time are looked at; deadlines are that exact.
SWEEP_SECONDS = 0.1
_CONNECTIONS_EVERY = 2  # sweeps; idle times and heads need not be exact to a tenth
_POOLS_EVERY = 10
# Secrets, certificates and the configuration are read again this often: by content, because a mounted Secret or
# ConfigMap changes by a symlink that no watch of the file itself sees twice.
_READ_AGAIN_SECONDS = 2.0
_NO_CREDENTIAL = "none"


class PortInUse(Exception):
    """A listen address that cannot be had; the message names it."""


class Gateway:
    """The running gateway of one process; also what the admin listener is told (``admin.GatewayView``)."""

    def __init__(self, config: Config, *, access_log_fd: int = 1) -> None:
        self.config = config
        self._access_log_fd = access_log_fd
        self._started = time.time()
        self._readiness = Readiness()
        self._credentials: dict[str, Credential] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._draining = False
        self._reload_successful = True
        self._reload_timestamp = time.time()
        self._reload_problems: tuple[str, ...] = ()
        self._file_seen = _digest(str(config.path))

    async def start(self) -> None:
        """Listen first, then obtain credentials in the background.

        Raises:
            PortInUse: a listen address is taken or not ours.
        """
        loop = asyncio.get_running_loop()
        config = self.config
        self._now = time.monotonic
        self._access_log = AccessLog(self._access_log_fd)
        self.metrics = Metrics(__version__, (), (), gauges=self._gauges, wall=time.time, monotonic=time.monotonic)
        self._services = Services(time.time, time.monotonic, asyncio.sleep, self.metrics.refreshed)
        self._nothing = credentials.create(
            "-", credentials.kinds()[_NO_CREDENTIAL].Settings(kind=_NO_CREDENTIAL), self._services
        )
        self._budget = Budget(config.process.body_memory_bytes)
        self._admission = Admission(time.monotonic)
        self._upstreams = Upstreams()
        self.proxy = Proxy(self._site(config), self._admission, self, self._budget, os.urandom(6).hex())
        self._listener = Listener(self.proxy.handle, self._refused, _bounds(config), loop)
        self._tls = _tls_context(config.tls) if config.tls is not None else None
        self._tls_seen = _tls_digest(config.tls)
        sock = _socket(config.listen)
        self.port = 0 if config.listen.unix_path is not None else int(sock.getsockname()[1])
        await self._listener.serve(sock, self._tls)
        self._admin = AdminListener(self)
        try:
            self.admin_port = await self._admin.start(config.admin)
        except OSError as error:
            self._listener.stop_listening()
            raise PortInUse(f"cannot listen on {config.admin} (admin): {error.strerror or 'not available'}") from None
        for credential in self._credentials.values():
            credential.start()
        for name, work in (("sweep", self._sweep_forever()), ("read-again", self._read_again_forever())):
            task = loop.create_task(work, name=name)
            task.add_done_callback(_report)
            self._tasks.append(task)

    # The site: everything that a reload replaces

    def _site(self, config: Config) -> Site:
        self._update_credentials(config)
        self._admission.reconfigure(config.process.in_flight, config.routes, config.callers)
        self.metrics.reconfigure([route.name for route in config.routes], list(config.credentials))
        places = {}
        for route in config.routes:
            upstream = self._upstreams.of(route)
            credential = self._nothing if route.credential is None else self._credentials[route.credential]
            places[route.name] = Place(
                credential, upstream, ClockWatch(upstream, time.time), self._admission.routes[route.name]
            )
        return Site(RouteTable(config.routes), places, Callers(config.callers))

    def _update_credentials(self, config: Config) -> None:
        """Keep those whose settings did not change, with their tokens; begin the new; close the gone later."""
        kept: dict[str, Credential] = {}
        for name, settings in config.credentials.items():
            known = self._credentials.get(name)
            if known is not None and known.settings == settings:
                kept[name] = known
            else:
                kept[name] = credentials.create(name, settings, self._services)
        gone = [known for name, known in self._credentials.items() if kept.get(name) is not known]
        began = [known for name, known in kept.items() if self._credentials.get(name) is not known]
        running = bool(self._tasks)
        self._credentials = kept
        if running:
            for credential in began:
                credential.start()
        for credential in gone:
            task = asyncio.get_running_loop().create_task(credential.close(), name=f"close {credential.name}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def reload(self) -> bool:
        """Take the file as it is now, all or nothing; false when it was refused."""
        try:
            config = await asyncio.to_thread(load, self.config.path, credentials.kinds(), previous=self.config.secrets)
            problems = _needs_restart(self.config, config)
        except ConfigProblems as error:
            problems = tuple(str(problem) for problem in error.problems)
        if problems:
            self._reload_successful = False
            self._reload_problems = problems
            for problem in problems:
                log.error("configuration not loaded, the old one keeps serving: %s", problem)
            return False
        self.proxy.site = self._site(config)
        self._listener.bounds = _bounds(config)
        self._budget.limit_bytes = config.process.body_memory_bytes
        self.config = config
        self._reload_successful, self._reload_timestamp, self._reload_problems = True, time.time(), ()
        for warning in config.warnings:
            log.warning("%s", warning)
        log.info("configuration loaded: %d routes, %d credentials", len(config.routes), len(config.credentials))
        return True

    # proxy.Observer

    def begin(self, exchange: Exchange) -> None:
        exchange.counted = True
        self.metrics.begin(exchange.route)

    def end(self, exchange: Exchange) -> None:
        if exchange.counted:
            self.metrics.end(exchange.route)
        ended = self._now()
        self.metrics.observe(exchange, ended)
        self._access_log.write(exchange, ended, time.time())

    def retried(self, route: str, reason: str) -> None:
        self.metrics.retried(route, reason)

    def _refused(self, error: GatewayError, address: str) -> str:
        """Count and log what never became a request."""
        request_id = self.proxy.request_id({})
        exchange = Exchange(Moment(asyncio.get_running_loop()), self._now(), request_id, "-", "-")
        exchange.status, exchange.error, exchange.outcome = error.status, error.code, "complete"
        self.end(exchange)
        return request_id

    # admin.GatewayView

    def ready(self) -> Verdict:
        return self._readiness.judge(self._states(), self._draining)

    async def status(self) -> dict[str, Any]:
        return status_document(
            version=__version__,
            config_path=str(self.config.path),
            started=self._started,
            now=time.time(),
            verdict=self.ready(),
            draining=self._draining,
            routes=self.config.routes,
            credentials={name: (known.kind, known.state()) for name, known in self._credentials.items()},
            snapshot=self.metrics.snapshot(),
            reload_problems=self._reload_problems,
        )

    async def metrics_text(self) -> tuple[bytes, str]:
        return self.metrics.text()

    def _states(self) -> Mapping[str, Any]:
        return {name: known.state() for name, known in self._credentials.items()}

    def _gauges(self) -> Gauges:
        connections: dict[str, dict[str, int]] = {}
        skews: dict[str, float] = {}
        for upstream in self._upstreams:
            states = connections.setdefault(upstream.label, {"busy": 0, "idle": 0})
            states["busy"] += upstream.busy
            states["idle"] += upstream.idle
            skews[upstream.label] = upstream.clock_skew_seconds
        return Gauges(
            credentials=self._states(),
            clock_skew_seconds=skews,
            upstream_connections=connections,
            breakers={
                name: gate.breaker.state.value
                for name, gate in self._admission.routes.items()
                if gate.breaker is not None
            },
            body_memory_bytes=self._budget.used_bytes,
            reload_successful=self._reload_successful,
            reload_success_timestamp=self._reload_timestamp,
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
            if count % _CONNECTIONS_EVERY == 0:
                self._listener.sweep(now)
            if count % _POOLS_EVERY == 0:
                self._upstreams.sweep(now)
                self._access_log.flush()
                self.ready()  # so that the moment of becoming ready is not missed

    async def _read_again_forever(self) -> None:
        while True:
            await asyncio.sleep(_READ_AGAIN_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311
            try:
                await self._read_again()
            except OSError as error:
                log.warning("files could not be read again: %s", type(error).__name__)

    async def _read_again(self) -> None:
        for warning in await asyncio.to_thread(self.config.secrets.refresh):
            log.warning("%s", warning)
        seen = await asyncio.to_thread(_digest, str(self.config.path))
        if seen != self._file_seen:
            self._file_seen = seen
            await self.reload()
        tls = self.config.tls
        if tls is not None and self._tls is not None:
            seen = await asyncio.to_thread(_tls_digest, tls)
            if seen != self._tls_seen:
                self._tls_seen = seen
                try:
                    _load_tls(self._tls, tls)
                    log.info("the TLS certificate was read again")
                except (OSError, ssl.SSLError):
                    log.warning("the new TLS certificate or key cannot be used; the old one stays (tls)")

    # Ending

    async def drain(self) -> int:
        """Stop as a rolling restart wants it; cut short by cancelling. How many requests had to be cut."""
        process = self.config.process
        self._draining = self._listener.draining = True
        log.info("draining: not ready, still serving for %gs", process.drain_delay_seconds)
        await asyncio.sleep(process.drain_delay_seconds)
        self._listener.stop_listening()
        log.info("draining: no new connections, %d requests are finishing", self.proxy.in_flight)
        until = None if process.drain_seconds is None else self._now() + process.drain_seconds
        while self.proxy.in_flight and (until is None or self._now() < until):  # noqa: ASYNC110 - many ways to end
            await asyncio.sleep(SWEEP_SECONDS)
        return self.proxy.in_flight

    async def close(self) -> None:
        """Cut what is left and close everything that was opened."""
        self._listener.stop_listening()
        self.proxy.cut(Draining("The gateway has stopped; send the request again.", retry_after_seconds=1))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(20):  # the stories that were cut end in the next turns of the loop
            if not self.proxy.in_flight:
                break
            await asyncio.sleep(0.01)
        self._listener.abort()
        await self._admin.close()
        await asyncio.gather(*(known.close() for known in self._credentials.values()), *self._closing)
        self._upstreams.close()
        self._access_log.close()
        if self.config.listen.unix_path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.config.listen.unix_path)


def _bounds(config: Config) -> Bounds:
    process = config.process
    return Bounds(process.head_seconds, process.head_bytes, process.keep_alive_seconds)


def _needs_restart(old: Config, new: Config) -> tuple[str, ...]:
    """What cannot change while serving."""
    changed = [
        name
        for name, before, after in (
            ("listen", old.listen, new.listen),
            ("admin", old.admin, new.admin),
            ("workers", old.workers, new.workers),
            ("tls", old.tls is None, new.tls is None),
        )
        if before != after
    ]
    return tuple(f"{old.path}: {name}: a change of this takes a restart" for name in changed)


def _socket(address: Address) -> socket.socket:
    """A bound socket. Raises PortInUse, naming the address."""
    try:
        if address.unix_path is not None:
            return _unix_socket(address.unix_path)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        host = address.host
        if family == socket.AF_INET and not host.replace(".", "").isdigit():
            family, _, _, _, found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)[0]
            host = str(found[0])
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, address.port))
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise PortInUse(f"cannot listen on {address} (listen): {error.strerror or 'not available'}") from None
    return sock


def _unix_socket(path: str) -> socket.socket:
    """Take over a socket file that nobody listens on any more; never one that somebody does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(path)
        except OSError:
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                sock.bind(path)
                return sock
            finally:
                probe.close()
            raise
    except OSError:
        sock.close()
        raise
    return sock


def _tls_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_tls(context, tls)
    return context


def _load_tls(context: ssl.SSLContext, tls: Tls) -> None:
    """Raises OSError or ssl.SSLError."""
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED


def _digest(*paths: str) -> bytes:
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(Path(path).read_bytes())
        except OSError:
            digest.update(b"?")
    return digest.digest()


def _tls_digest(tls: Tls | None) -> bytes:
    if tls is None:
        return b""
    return _digest(tls.certificate, tls.key, *([tls.client_ca] if tls.client_ca else []))


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("task %s ended: %s", task.get_name(), type(task.exception()).__name__)
