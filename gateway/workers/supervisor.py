"""The process above the workers: holds the address, the file and the tokens, and speaks for all of them."""

import asyncio
import base64
import contextlib
import functools
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from gateway import __version__, sockets, tracing
from gateway.admin import AdminListener, Readiness, Verdict, status_document
from gateway.config import Config
from gateway.credentials.base import CredentialState, Services
from gateway.credentials.token import FetchFailed, Token
from gateway.keyring import Keyring
from gateway.metrics import Gauges, Metrics, Snapshot, merge, render
from gateway.reload import ConfigFile
from gateway.serving import pause_before_reading_again, watched
from gateway.workers.crew import Crew
from gateway.workers.link import Answerer, Message

log = logging.getLogger(__name__)

# So old may the counts be that a worker takes with it when it dies.
_LOOK_SECONDS = 0.5


@runtime_checkable
class _Shares(Protocol):
    """A credential that obtains tokens for other processes."""

    async def obtain(self, refused: bytes | None) -> Token: ...


class Supervisor:
    """The running gateway of several processes; also what the admin listener is told (``admin.GatewayView``)."""

    def __init__(self, config: Config, content: bytes) -> None:
        """``content`` is the text that ``config`` was loaded from."""
        self._file = ConfigFile(config, content, self._apply)
        self._started = time.time()
        self._readiness = Readiness()
        # Routes are counted by workers; known here, they have their numbers while there is no worker, too.
        self._metrics = Metrics(__version__, _names(config), config.credentials, gauges=self._gauges)
        services = Services(time.time, time.monotonic, asyncio.sleep, self._refreshed)
        self._tracer = tracing.from_environment()
        if self._tracer is not None:
            services = replace(services, fetched=self._tracer.fetched)
        self._keyring = Keyring(services)
        self._tasks: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()  # it cannot go on, and has to be drained and ended (``serving.watched``)

    @property
    def config(self) -> Config:
        return self._file.config

    async def start(self) -> None:
        """Bind, then start the workers; meanwhile credentials are obtained in the background.

        Raises:
            PortInUse: a listen address is taken or not ours.
            NoWorker: not one worker came to serve.
        """
        config = self.config
        bound = sockets.bind(config.listen, "listen", config.workers)
        self.port = sockets.port_of(bound[0])
        self._crew = Crew(config.workers, bound, str(config.path), self._file.content, self._answers, self.failed)
        self._admin = AdminListener(self)
        try:
            self.admin_port = await self._admin.start(config.admin)
        except sockets.PortInUse:
            await self._crew.close()
            raise
        for sock in bound:
            sock.listen(sockets.BACKLOG)
        self._keyring.update(config)
        self._keyring.start()
        try:
            await self._crew.start()
        except BaseException:
            await self.close()
            raise
        self._tasks = [
            watched(self._look_forever(), "look", self.failed),
            watched(self._look_at_files_forever(), "configuration-file", self.failed),
        ]

    # Work that goes on

    async def _look_forever(self) -> None:
        """Hear from every worker now and then, so that little is lost with one that dies; end those that hang."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._crew.look("snapshot")
            self._verdict()  # so that the moment of becoming ready is not missed
            self._crew.end_those_that_hang()

    async def _look_at_files_forever(self) -> None:
        while True:
            await pause_before_reading_again()
            for warning in await asyncio.to_thread(self.config.secrets.refresh):
                log.warning("%s", warning)
            try:
                await self._file.look()
            except OSError as error:
                log.warning("the configuration file could not be looked at: %s", type(error).__name__)

    # Credentials: what workers ask, and what they are told

    def _answers(self, number: int) -> Mapping[str, Answerer]:
        return {
            "token": self._answer_token,
            "spread": functools.partial(self._spread, number),
            "failing": functools.partial(self._failing, number),
        }

    async def _answer_token(self, asked: Message) -> Message:
        """A worker asks for a token, having been refused one or not."""
        known = self._keyring.get(asked["credential"])
        refused = None if asked["refused"] is None else base64.b64decode(asked["refused"])
        if not isinstance(known, _Shares):
            return {"failed": "the configuration has changed", "retry_after_seconds": None}
        try:
            token = await known.obtain(refused)
        except FetchFailed as failed:
            return {"failed": failed.reason, "retry_after_seconds": failed.retry_after_seconds}
        return {"token": base64.b64encode(token.value).decode("ascii"), "expiry": token.expiry}

    async def _spread(self, number: int, asked: Message) -> Message:
        """What one worker's upstream said of a credential, the other workers hear, too."""
        self._crew.tell("heard", asked, but=number)
        return {}

    async def _failing(self, number: int, _: Message) -> Message:
        """A worker cannot go on (``serving.watched``)."""
        self._crew.retire(number)
        return {}

    def _refreshed(self, credential: str, result: str) -> None:
        self._metrics.refreshed(credential, result)
        if result == "ok":
            self._crew.tell("token", {"credential": credential})

    # The configuration file

    async def reload(self) -> bool:
        """Take the configuration file as it is now, in all workers or in none; false when it was refused."""
        return await self._file.reload()

    async def _apply(self, config: Config, content: bytes) -> tuple[str, ...]:
        def between() -> None:
            # Ours before theirs: a worker asks for the tokens of new credentials as soon as it has them.
            self._keyring.update(config)
            self._metrics.reconfigure(_names(config), config.credentials)

        return await self._crew.change(content, between)

    # admin.GatewayView

    def healthy(self) -> bool:
        return bool(self._crew.serving)

    async def ready(self) -> Verdict:
        await self._crew.look("states")
        return self._verdict()

    async def status(self) -> dict[str, Any]:
        await self._crew.look("snapshot")
        kinds = self._keyring.kinds()
        now = time.monotonic()
        return status_document(
            version=__version__,
            config_path=str(self.config.path),
            started=self._started,
            now=time.time(),
            verdict=self._verdict(),
            draining=self._crew.ending,
            routes=self.config.routes,
            credentials={name: (kinds[name], state) for name, state in self._states().items()},
            snapshot=self._snapshot(),
            reload_problems=self._file.problems,
            workers=[
                {"worker": worker.number, "pid": worker.pid, "uptime_seconds": round(now - worker.began_at, 1)}
                for worker in self._crew.serving
            ],
        )

    async def metrics_text(self) -> tuple[bytes, str]:
        await self._crew.look("snapshot")
        return render(self._snapshot(), [worker.pid for worker in self._crew.serving if worker.pid is not None])

    def _verdict(self) -> Verdict:
        draining = self._crew.ending
        ready, reasons, degraded = self._readiness.judge(self._states(), draining)
        there = {worker.number for worker in self._crew.serving}
        away = [f"worker {number}: being started again" for number in range(self._crew.count) if number not in there]
        if draining:
            return Verdict(ready, reasons, degraded)
        if not there:
            return Verdict(False, [*away, *reasons], degraded)
        return Verdict(ready, reasons, [*degraded, *away])

    def _states(self) -> dict[str, CredentialState]:
        """Of tokens ours is the truth; of what workers find out by themselves (a key that is held), the worst."""
        states = self._keyring.states()
        for name in states:
            if isinstance(self._keyring.get(name), _Shares):
                continue
            told = [worker.credentials[name] for worker in self._crew.serving if name in worker.credentials]
            if told:
                worst = min(told, key=lambda state: (state["usable"], state["last_error"] is None))
                states[name] = CredentialState(**worst)
        return states

    def _snapshot(self) -> Snapshot:
        """The whole gateway's numbers."""
        snapshot = merge([self._metrics.snapshot(), *self._crew.snapshots()])
        usable = {name: {"usable": state.usable, "expiry": state.expiry} for name, state in self._states().items()}
        snapshot["gauges"] = {**snapshot["gauges"], "credentials": usable, **self._file.gauges()}
        return snapshot

    def _gauges(self) -> Gauges:
        return Gauges(worker_restarts=self._crew.restarts)

    # Ending

    async def drain(self) -> None:
        """Stop as a rolling restart wants it; cut short by cancelling."""
        process = self.config.process
        log.info("draining: not ready, still serving for %gs", process.drain_delay_seconds)
        drained = asyncio.ensure_future(self._crew.drain(process.drain_delay_seconds, process.drain_seconds))
        try:
            await asyncio.sleep(process.drain_delay_seconds)
            log.info("draining: no new connections, running requests are finishing")
            await drained
        finally:
            drained.cancel()

    async def close(self) -> int:
        """Cut what is left and close everything that was opened. How many requests were cut in all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._crew.close()
        await self._admin.close()
        await self._keyring.close()
        if self._tracer is not None:
            await self._tracer.close()
        if self.config.listen.unix_path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.config.listen.unix_path)
        return self._crew.cut


def _names(config: Config) -> list[str]:
    return [route.name for route in config.routes]
