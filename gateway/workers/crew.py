"""All workers of a gateway: started, replaced, covered for, asked and ended."""

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from gateway.metrics import Snapshot, merge, settled
from gateway.serving import FAILED_DRAIN_SECONDS, watched
from gateway.workers.link import Answerer, LinkLost, Message
from gateway.workers.process import WorkerFailed, WorkerProcess

log = logging.getLogger(__name__)

# A worker that says nothing for so long serves nobody, and its callers wait in vain.
_HUNG_SECONDS = 30.0
# Waits before a worker that died is started again: none at first, then doubling while it does not live a minute.
_BACKOFF_SECONDS = (0.5, 30.0)
_HEALTHY_SECONDS = 60.0
# Workers load a configuration in milliseconds; one that hangs holds up the others' reload for so long.
_RELOAD_SECONDS = 20.0
# What workers may take to end beyond what they were given; then they are killed.
_GRACE_SECONDS = 5.0


class NoWorker(Exception):
    """Not one worker came to serve."""


class Crew:
    """``count`` workers on ``sockets``, which stay open here: what waits to be accepted outlives a worker.

    ``answers`` gives what the worker of a number may ask. ``content`` is the configuration that serves, as text.
    ``failed`` is set when workers are no longer replaced.
    """

    def __init__(
        self,
        count: int,
        sockets: Sequence[socket.socket],
        path: str,
        content: bytes,
        answers: Callable[[int], Mapping[str, Answerer]],
        failed: asyncio.Event,
    ) -> None:
        self.count = count
        self.content = content
        self.restarts = 0
        self.cut = 0  # requests, while ending
        self._sockets = sockets
        self._path = path
        self._answers = answers
        self._failed = failed
        self._name = os.urandom(6).hex()  # marks requests, so that a loop through any worker is seen
        self._workers: list[WorkerProcess | None] = [None] * count
        self._stand_ins: dict[int, WorkerProcess] = {}  # who accepts from the socket of a worker that is away
        self._settled: Snapshot | None = None  # what workers that died had counted
        self._changing = asyncio.Lock()  # which configuration serves
        self._ending = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._told: set[asyncio.Task[None]] = set()

    @property
    def serving(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker is not None and worker.serving]

    @property
    def ending(self) -> bool:
        return self._ending.is_set()

    async def start(self) -> None:
        """Start all of them.

        Raises:
            NoWorker: none of them came to serve; the log says why.
        """
        began = [asyncio.Event() for _ in range(self.count)]
        for number, event in enumerate(began):
            self._keepers.append(watched(self._keep(number, event), f"worker-{number}", self._failed))
        await asyncio.gather(*(event.wait() for event in began))
        if not self.serving:
            await self.close()
            raise NoWorker("no worker came to serve; the lines above say why")

    # Their lives

    async def _keep(self, number: int, began: asyncio.Event) -> None:
        """Have a worker with this number: a new one whenever one ends."""
        short_lives = 0
        while True:
            worker = self._workers[number] = WorkerProcess(number, self._answers(number))
            how = await self._live(worker, began)
            self._settle(worker)
            if self.ending:
                await self._cover()
                return
            self.restarts += 1
            short_lives = 0 if time.monotonic() - worker.began_at > _HEALTHY_SECONDS else short_lives + 1
            pause = _pause_seconds(short_lives)
            log.error("worker %d ended (%s); the next one starts in %.1fs", number, how, pause)
            await self._cover()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)
                return

    async def _live(self, worker: WorkerProcess, began: asyncio.Event) -> str:
        """A worker's life from start to end; how it ended, in words."""
        try:
            await self._begin(worker)
            await self._cover()
        except WorkerFailed as failed:
            for problem in failed.problems:
                log.error("worker %d cannot begin: %s", worker.number, problem)  # noqa: TRY400 - all there is to say
        except OSError as error:
            return f"it could not be started: {error.strerror}"
        finally:
            began.set()
        return await worker.ended()

    async def _begin(self, worker: WorkerProcess) -> None:
        """Raises WorkerFailed or OSError."""
        content = self.content
        own = worker.number % len(self._sockets)
        await worker.begin(self._sockets, own, path=self._path, content=content, name=self._name, workers=self.count)
        async with self._changing:
            if content != self.content:  # there was a reload meanwhile
                problems = await worker.prepare(self._path, self.content, _RELOAD_SECONDS)
                if problems:
                    worker.kill()
                    raise WorkerFailed(problems)
                await self._commit(worker)
            worker.serving = True
        if self.ending:
            worker.kill()

    async def _cover(self) -> None:
        """See that somebody accepts from every socket: its own worker, or another one while that is away."""
        serving = self.serving
        if len(self._sockets) == 1 or self._sockets[0].fileno() < 0 or not serving:
            return
        for number, worker in enumerate(self._workers):
            stand_in = self._stand_ins.get(number)
            with contextlib.suppress(LinkLost):  # who does not answer is on the way out, and covered for next
                if worker in serving:
                    if self._stand_ins.pop(number, None) in serving and stand_in is not None:
                        await stand_in.ask("release", socket=number)
                elif stand_in not in serving:
                    chosen = min(serving, key=list(self._stand_ins.values()).count)
                    self._stand_ins[number] = chosen
                    await chosen.ask("listen", socket=number)

    def _settle(self, worker: WorkerProcess) -> None:
        """Keep what it had counted, so that no counter goes down."""
        self._workers[worker.number] = None
        if worker.metrics is not None:
            last = settled(worker.metrics)
            self._settled = last if self._settled is None else merge([self._settled, last])

    def end_those_that_hang(self) -> None:
        for worker in self.serving:
            silent_seconds = time.monotonic() - worker.answered_at
            if silent_seconds > _HUNG_SECONDS:
                log.error("worker %d has not answered for %.0fs and is killed", worker.number, silent_seconds)
                worker.kill()

    def retire(self, number: int) -> None:
        """Have a worker that says it cannot go on finish what is running, while others accept for it; then replace it."""
        worker = self._workers[number]
        if worker is not None and not self.ending:
            self._in_passing(self._retire(worker), f"retire {number}")

    async def _retire(self, worker: WorkerProcess) -> None:
        worker.serving = False
        await self._cover()
        await self._end(worker, "drain", FAILED_DRAIN_SECONDS + _GRACE_SECONDS, delay_seconds=0)
        worker.kill()  # if it is still there

    # What they say and are told

    async def look(self, what: str) -> None:
        """Have all of them tell their ``states``, or a ``snapshot`` of everything; of who hangs, the last one stands."""
        await asyncio.gather(*(worker.look(what) for worker in self.serving))

    def snapshots(self) -> list[Snapshot]:
        """What they last told, and what those told that are gone."""
        told = [worker.metrics for worker in self._workers if worker is not None and worker.metrics is not None]
        return told if self._settled is None else [self._settled, *told]

    def tell(self, question: str, members: Message, *, but: int | None = None) -> None:
        """Let all of them know something, the one of number ``but`` left out; nobody waits for it."""
        for worker in self.serving:
            if worker.number != but:
                self._in_passing(_tell(worker, question, members), f"tell {question}")

    def _in_passing(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do something that nobody waits for."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def change(self, content: bytes, between: Callable[[], None]) -> tuple[str, ...]:
        """Have all of them serve another configuration, or none; the problems that keep them from it.

        Every worker loads it first; only when all of them could, ``between`` is called and all of them serve it. One
        that goes away meanwhile is replaced by one that begins with what serves then.
        """
        async with self._changing:
            serving = self.serving
            told = await asyncio.gather(*(worker.prepare(self._path, content, _RELOAD_SECONDS) for worker in serving))
            problems = [each for worker, said in zip(serving, told, strict=True) for each in said if worker.serving]
            if problems:
                return tuple(problems)
            between()
            self.content = content
            await asyncio.gather(*(self._commit(worker) for worker in serving))
        return ()

    async def _commit(self, worker: WorkerProcess) -> None:
        try:
            await worker.ask("commit", _RELOAD_SECONDS)
        except LinkLost as lost:
            log.error("worker %d did not take the configuration and is replaced: %s", worker.number, lost)  # noqa: TRY400
            worker.kill()

    # Their end

    async def drain(self, delay_seconds: float, drain_seconds: float | None) -> None:
        """Have all of them drain, each by its own clock, and wait for it."""
        self._start_no_more()
        seconds = None if drain_seconds is None else delay_seconds + drain_seconds + _GRACE_SECONDS
        await asyncio.gather(
            *(self._end(worker, "drain", seconds, delay_seconds=delay_seconds) for worker in self.serving)
        )

    async def close(self) -> None:
        """Have them cut what is left and end; who does not is killed."""
        self._start_no_more()
        await asyncio.gather(*(self._end(worker, "cut", _GRACE_SECONDS) for worker in self.serving))
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=_GRACE_SECONDS)
            for worker in self._workers:
                if worker is not None:
                    worker.kill()
            await asyncio.wait(self._keepers, timeout=_GRACE_SECONDS)
        tasks = (*self._keepers, *self._told)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_no_more(self) -> None:
        """From here on they hold their sockets alone: whoever is last to hold one has to be who accepts from it."""
        self._ending.set()
        for sock in self._sockets:
            sock.close()
        for worker in self._workers:
            if worker is not None and not worker.serving:
                worker.kill()

    async def _end(self, worker: WorkerProcess, how: str, seconds: float | None, **members: Any) -> None:
        """Have a worker end, and note what it had to cut."""
        try:
            answer = await worker.ask(how, seconds, **members)
        except LinkLost:
            return
        worker.serving = False
        worker.metrics = answer["metrics"]
        self.cut += int(answer["cut"])


async def _tell(worker: WorkerProcess, question: str, members: Message) -> None:
    with contextlib.suppress(LinkLost):
        await worker.ask(question, **members)


def _pause_seconds(short_lives: int) -> float:
    """None after a long life; else longer each time, so that a worker that cannot live does not keep the machine busy."""
    if short_lives <= 1:
        return 0.0
    first, last = _BACKOFF_SECONDS
    return min(last, first * 2.0 ** min(short_lives - 2, 16)) * random.uniform(0.75, 1.0)  # noqa: S311
