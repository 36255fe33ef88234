"""The configuration file of a running gateway: loaded again when asked to and when its content changes."""

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gateway import credentials
from gateway.config import Config, ConfigProblems, load

log = logging.getLogger(__name__)

# Files are read again this often, and compared by content: a mounted ConfigMap or Secret changes by a symlink that no
# watch of the file itself sees twice.
READ_AGAIN_SECONDS = 2.0
# No file descriptor left: that says nothing about the file.
_OURS = {errno.EMFILE, errno.ENFILE}


def read(path: Path | str) -> bytes | None:
    """What the file holds now; None when it cannot be read, which ``load`` then explains."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in _OURS:
            raise
        return None


class ConfigFile:
    """The configuration that serves, and how its last reload went; all or nothing.

    ``apply`` makes a loaded configuration serve, given its text as well, and returns the problems that keep it from that.
    """

    def __init__(
        self,
        config: Config,
        content: bytes | None,
        apply: Callable[[Config, bytes], Awaitable[tuple[str, ...]]],
    ) -> None:
        self.config = config
        self.content = content or b""
        self.problems: tuple[str, ...] = ()
        self.successful = True
        self.loaded_at = time.time()
        self._apply = apply
        self._seen = content
        self._one_at_a_time = asyncio.Lock()
        self._next: asyncio.Task[bool] | None = None

    async def reload(self) -> bool:
        """Take the file as it is now; false when it was refused. Whoever asks while one is under way shares the next."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._in_turn(), name="reload")
        return await asyncio.shield(self._next)

    async def look(self) -> None:
        """Reload if the file has changed since it was last looked at. Raises OSError when it cannot be looked at now."""
        content = await asyncio.to_thread(read, self.config.path)
        if content != self._seen:
            self._seen = content
            await self.reload()

    def gauges(self) -> dict[str, Any]:
        """What a metrics snapshot says about it."""
        return {"reload_successful": self.successful, "reload_success_timestamp": self.loaded_at}

    async def _in_turn(self) -> bool:
        async with self._one_at_a_time:
            self._next = None
            return await self._load()

    async def _load(self) -> bool:
        content: bytes | None = None
        try:
            with contextlib.suppress(OSError):  # load says why
                self._seen = content = await asyncio.to_thread(read, self.config.path)
            config = await asyncio.to_thread(
                load, self.config.path, credentials.kinds(), previous=self.config.secrets, content=content
            )
            problems = needs_restart(self.config, config) or await self._apply(config, content or b"")
        except ConfigProblems as error:
            problems = tuple(str(problem) for problem in error.problems)
        self.problems = problems
        self.successful = not problems
        if problems:
            for problem in problems:
                log.error("configuration not loaded, the old one keeps serving: %s", problem)
            return False
        self.config, self.content, self.loaded_at = config, content or b"", time.time()
        for warning in config.warnings:
            log.warning("%s", warning)
        log.info("configuration loaded: %d routes, %d credentials", len(config.routes), len(config.credentials))
        return True


def needs_restart(old: Config, new: Config) -> tuple[str, ...]:
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
