"""The whole gateway in one process: what serves, the admin listener, and the configuration file."""

import asyncio
import contextlib
import logging
import os
import time
from typing import Any

from gateway import __version__, sockets
from gateway.admin import AdminListener, Readiness, Verdict, status_document
from gateway.config import Config
from gateway.metrics import Snapshot, render
from gateway.reload import ConfigFile, read
from gateway.serving import Serving, pause_before_reading_again, watched
from gateway.sockets import PortInUse

log = logging.getLogger(__name__)

# Often enough that the moment of becoming ready is not missed.
_LOOK_AT_READINESS_SECONDS = 1.0


class Gateway:
    """The running gateway of one process; also what the admin listener is told (``admin.GatewayView``)."""

    def __init__(self, config: Config, content: bytes | None = None, *, access_log_fd: int = 1) -> None:
        """``content`` is the text that ``config`` was loaded from; without it the file is read once more."""
        self._access_log_fd = access_log_fd
        self._started = time.time()
        self._readiness = Readiness()
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self.file = ConfigFile(config, read(config.path) if content is None else content, self._apply)

    @property
    def config(self) -> Config:
        return self.file.config

    @property
    def failed(self) -> asyncio.Event:
        """It cannot go on, and has to be drained and ended (``serving.watched``)."""
        return self.serving.failed

    async def start(self) -> None:
        """Listen first, then obtain credentials in the background.

        Raises:
            PortInUse: a listen address is taken or not ours.
        """
        (sock,) = sockets.bind(self.config.listen, "listen")
        self.serving = Serving(self.config, access_log_fd=self._access_log_fd)
        self.port = sockets.port_of(sock)
        await self.serving.listen(sock)
        self._admin = AdminListener(self)
        try:
            self.admin_port = await self._admin.start(self.config.admin)
        except PortInUse:
            await self.serving.close()
            raise
        self.serving.start()
        self._tasks = [
            watched(self._look_at_the_file(), "configuration-file", self.failed),
            watched(self._look_at_readiness(), "readiness", self.failed),
        ]

    async def _apply(self, config: Config, content: bytes) -> tuple[str, ...]:
        self.serving.apply(config)
        return ()

    async def reload(self) -> bool:
        """Take the configuration file as it is now; false when it was refused."""
        return await self.file.reload()

    # admin.GatewayView

    def healthy(self) -> bool:
        return True

    async def ready(self) -> Verdict:
        return self._verdict()

    async def status(self) -> dict[str, Any]:
        states, kinds = self.serving.states(), self.serving.keyring.kinds()
        return status_document(
            version=__version__,
            config_path=str(self.config.path),
            started=self._started,
            now=time.time(),
            verdict=self._verdict(),
            draining=self._draining,
            routes=self.config.routes,
            credentials={name: (kinds[name], state) for name, state in states.items()},
            snapshot=self._snapshot(),
            reload_problems=self.file.problems,
        )

    async def metrics_text(self) -> tuple[bytes, str]:
        return render(self._snapshot())

    def _verdict(self) -> Verdict:
        return self._readiness.judge(self.serving.states(), self._draining)

    def _snapshot(self) -> Snapshot:
        snapshot = self.serving.snapshot()
        snapshot["gauges"] |= self.file.gauges()
        return snapshot

    # Work that goes on

    async def _look_at_the_file(self) -> None:
        while True:
            await pause_before_reading_again()
            try:
                await self.file.look()
            except OSError as error:
                log.warning("the configuration file could not be looked at: %s", type(error).__name__)

    async def _look_at_readiness(self) -> None:
        while True:
            self._verdict()
            await asyncio.sleep(_LOOK_AT_READINESS_SECONDS)

    # Ending

    async def drain(self) -> None:
        """Stop as a rolling restart wants it; cut short by cancelling."""
        seconds = self.config.process.drain_delay_seconds
        self._draining = True
        self.serving.begin_drain()
        log.info("draining: not ready, still serving for %gs", seconds)
        await asyncio.sleep(seconds)
        log.info("draining: no new connections, %d requests are finishing", self.serving.proxy.in_flight)
        await self.serving.finish()

    async def close(self) -> int:
        """Cut what is left and close everything that was opened. How many requests were cut."""
        left = self.serving.proxy.in_flight
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.serving.close()
        await self._admin.close()
        if self.config.listen.unix_path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.config.listen.unix_path)
        return left


__all__ = ["Gateway", "PortInUse"]
