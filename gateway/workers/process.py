"""One worker as the supervisor sees it: its process, its link, what it last said."""

import asyncio
import base64
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.metrics import Snapshot
from gateway.workers.link import Answerer, Link, LinkLost, Message

# A worker that is busy answers in milliseconds; one that does not within this is left out of a scrape.
_ANSWER_SECONDS = 1.0
# Loading imports and configuration takes well under a second on an idle machine.
_BEGIN_SECONDS = 60.0


class WorkerFailed(Exception):
    """A worker could not begin to serve; ``problems`` say why."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class WorkerProcess:
    """A running worker, from ``begin`` until ``ended``."""

    def __init__(self, number: int, answers: Mapping[str, Answerer]) -> None:
        self.number = number
        self.serving = False
        self.began_at = time.monotonic()
        self.answered_at = self.began_at
        self.metrics: Snapshot | None = None  # as last told
        self.credentials: Message = {}  # states, as last told
        self._link = Link(answers)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def begin(
        self, sockets: Sequence[socket.socket], own: int, *, path: str, content: bytes, name: str, workers: int
    ) -> None:
        """Start the process and have it accept from socket ``own``; it inherits all of them, to stand in for others.

        A new interpreter instead of a fork: a fork would copy the supervisor's event loop and threads half alive.

        Raises:
            WorkerFailed: it did not come to serve; it still has to be waited for with ``ended``.
        """
        ours, theirs = socket.socketpair()
        descriptors = [theirs.fileno(), *(sock.fileno() for sock in sockets)]
        with theirs, contextlib.ExitStack() as on_failure:
            on_failure.enter_context(ours)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *(f"-W{option}" for option in sys.warnoptions),
                "-P",  # no module comes from whatever folder this was started in
                "-m",
                "gateway.workers.worker",
                str(self.number),
                *map(str, descriptors),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=descriptors,
                env=_environment(),
            )
            on_failure.pop_all()
        await self._link.open(ours)
        try:
            answer = await self._link.ask(
                "begin", _BEGIN_SECONDS, socket=own, name=name, workers=workers, **_file(path, content)
            )
        except LinkLost as error:
            self.kill()
            raise WorkerFailed([str(error)]) from None
        if answer["problems"]:
            self.kill()
            raise WorkerFailed(answer["problems"])

    async def ask(self, question: str, seconds: float | None = _ANSWER_SECONDS, **members: Any) -> Message:
        """Raises LinkLost when there is no answer in time."""
        answer = await self._link.ask(question, seconds, **members)
        self.answered_at = time.monotonic()
        return answer

    async def look(self, what: str) -> None:
        """Have it tell its ``states``, or its ``snapshot`` with everything; without an answer the last ones stand."""
        with contextlib.suppress(LinkLost):
            answer = await self.ask(what)
            self.credentials = answer["credentials"]
            self.metrics = answer.get("metrics", self.metrics)

    async def prepare(self, path: str, content: bytes, seconds: float) -> list[str]:
        """Have it load a configuration without serving it yet; the problems, an answer that does not come being one."""
        try:
            problems: list[str] = (await self.ask("prepare", seconds, **_file(path, content)))["problems"]
        except LinkLost as error:
            problems = [str(error)]
        return [f"worker {self.number}: {problem}" for problem in problems]

    async def ended(self) -> str:
        """Wait for its end; how it ended, in words."""
        assert self._process is not None
        status = await self._process.wait()
        self.serving = False
        await self._link.close()
        return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"

    def kill(self) -> None:
        self.serving = False
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _environment() -> dict[str, str]:
    """Ours. Where the gateway runs from its source folder without being installed, the worker has to find it, too."""
    root = str(Path(__file__).parents[2])
    if root != os.getcwd():
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), root)))}


def _file(path: str, content: bytes) -> Message:
    return {"path": path, "content": base64.b64encode(content).decode("ascii")}
