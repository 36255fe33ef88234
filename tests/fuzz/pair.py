"""A gateway between a scripted caller and a scripted upstream, all on loopback in one event loop."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import yaml

from gateway.app import Gateway
from gateway.config import load
from gateway.credentials import kinds
from tests.fuzz.case import Answer, Case, Step
from tests.fuzz.places import SECRETS, document
from tests.fuzz.strict import Read, read_answer, read_requests
from tests.fuzz.upstream import Seen, UpstreamLink, reset

# Nothing has happened for so long: nothing will. Where something must come, a busy machine is given time.
_QUIET_SECONDS = 0.05
_PATIENT_SECONDS = 3.0
_POLL_SECONDS = 0.005
_IDLE_SECONDS = 5.0


@dataclass
class Observation:
    """What left on either side in one case."""

    sent: bytes
    received: bytes
    ended: str  # eof, reset: the gateway's doing; left: the caller's
    seen: list[Seen]
    problems: list[str]
    raced: bool = False  # an upstream spoke unasked while the next request may have been on its way


class CallerLink(asyncio.Protocol):
    """The caller's connection."""

    def __init__(self, lane: "Lane") -> None:
        self.lane = lane
        self.transport: asyncio.Transport | None = None
        self.received = bytearray()
        self.ended = ""
        self.left = False
        self.over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.lane.activity += 1
        self.over.set()

    def eof_received(self) -> bool:
        self.ended = self.ended or ("left" if self.left else "eof")
        self.over.set()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.ended = self.ended or ("left" if self.left else "reset" if error is not None else "eof")
        self.over.set()


class Lane:
    """One gateway of its own, with its caller and its upstream, that runs one case after the other.

    Connections to the upstream outlive a case, so what one leaves behind would show in the next.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.links: set[UpstreamLink] = set()
        self.accepted: set[tuple[str, int]] = set()  # where the connections of this case came from
        self.seen: list[Seen] = []
        self.activity = 0
        self.case_number = 0
        self.problems: list[str] = []
        self.raced = False
        self.progress = asyncio.Event()
        self._answers: list[Answer] = []
        self._scripts: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._descriptor = os.open(os.devnull, os.O_WRONLY)
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()
        os.close(self._descriptor)

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: UpstreamLink(self), "127.0.0.1", 0)
        self._upstream_port = self._server.sockets[0].getsockname()[1]
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(document(self._upstream_port), sort_keys=False))
        self.gateway = Gateway(load(path, kinds(), environ=SECRETS), access_log_fd=self._descriptor)
        await self.gateway.start()

    async def _stop(self) -> None:
        await self.gateway.close()
        self._server.close()
        for link in tuple(self.links):
            if link.transport is not None:
                link.transport.abort()
        await asyncio.sleep(0)

    def next_answer(self) -> Answer:
        if len(self.seen) <= len(self._answers):
            return self._answers[len(self.seen) - 1]
        return Answer([Step(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nnothing")])

    def spawn(self, script: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(script, name="fuzz-upstream")
        self._scripts.add(task)
        task.add_done_callback(self._scripts.discard)
        return task

    def wake_scripts(self) -> None:
        self.progress.set()
        self.progress = asyncio.Event()

    async def run(self, case: Case) -> Observation:
        """Play the case, and wait until nothing of it is left. A gateway that has broken a promise is replaced."""
        seen = await self._play(case)
        if seen.problems:
            await self.renew()
        return seen

    async def renew(self) -> None:
        """A fresh gateway: without what it has learned of its upstream's clock and refusals."""
        await self._stop()
        await self._start()

    async def _play(self, case: Case) -> Observation:
        self._answers = case.answers
        self.seen = []
        self.case_number += 1
        self.accepted.clear()
        self.raced = False
        problems = self.problems = []
        if case.fresh:
            for upstream in self.gateway.serving._upstreams:
                upstream.close()
        caller, sent = await self._send(case)
        await self._leave(caller, case)
        # Nobody can see that a caller whose side is closed already has gone (HTTP/1.1 ones can be asked by a 100
        # Continue while their answer has not begun), so the upstream ends what hangs.
        unseen = case.after == "half-close" or (case.after == "close" and b"HTTP/1.0" in case.request)
        if not await self._until_idle(end_what_hangs=unseen):
            problems.append(f"not idle after {_IDLE_SECONDS:g} s: {self._counters()}")
        if case.after != "stay":
            await self._all_accepted()
        for script in tuple(self._scripts):
            script.cancel()
        await asyncio.sleep(0)
        counters = self._counters()
        if any(counters.values()):
            problems.append(f"counters did not return to 0: {counters}")
        if any(not seen.read.whole and seen.link.transport is not None for seen in self.seen):
            problems.append("an upload that was not completed left its connection to the upstream open")
        return Observation(sent, bytes(caller.received), caller.ended, self.seen, problems, self.raced)

    async def _send(self, case: Case) -> tuple[CallerLink, bytes]:
        """Connect and write; the bytes that were written before the gateway ended the connection, if it did."""
        loop = asyncio.get_running_loop()
        _, caller = await loop.create_connection(lambda: CallerLink(self), "127.0.0.1", self.gateway.port)
        assert caller.transport is not None
        caller.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = bytearray()
        for step in case.writes:
            await asyncio.sleep(step.wait_ms / 1000)
            if caller.transport is None or caller.transport.is_closing():
                break
            caller.transport.write(step.data)
            sent += step.data
        return caller, bytes(sent)

    async def _leave(self, caller: CallerLink, case: Case) -> None:
        """End the caller's side as the case says."""
        if case.after == "half-close" and caller.transport is not None and not caller.ended:
            with contextlib.suppress(OSError):  # the gateway has gone meanwhile
                caller.transport.write_eof()
        elif case.after in {"close", "reset"}:
            await asyncio.sleep(0)
            caller.left = True
        if not caller.left:
            await self._until_over(caller, case)
        if not caller.ended:
            caller.left, caller.ended = True, "left"
        if caller.transport is not None:
            caller.transport.close() if case.after == "close" else reset(caller.transport)

    async def _until_over(self, caller: CallerLink, case: Case) -> None:
        """Every answer is there and nothing followed it, or nothing happens any more."""
        loop = asyncio.get_running_loop()
        reads = read_requests(case.request)
        # What is not whole may be answered or not; then only silence tells.
        expected = len(reads) if all(read.whole for read in reads) and case.after == "stay" else -1
        patience = _PATIENT_SECONDS if case.clean or case.patient else _QUIET_SECONDS
        activity, since = self.activity, loop.time()
        checked = -1
        while not caller.ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(caller.over.wait(), _POLL_SECONDS)
            caller.over.clear()
            if caller.ended:
                return
            if expected >= 0 and len(caller.received) != checked:
                checked = len(caller.received)
                if _count_answers(bytes(caller.received), reads) >= expected:
                    await asyncio.sleep(0.002)
                    if len(caller.received) == checked:
                        return
            if self.activity != activity or any(_at_work(seen) for seen in self.seen):
                activity, since = self.activity, loop.time()
            elif loop.time() - since > patience:
                return

    async def _all_accepted(self) -> None:
        """Connections are accepted in order: once ours is, all that the gateway has opened and left are here, too."""
        transport, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol, "127.0.0.1", self._upstream_port
        )
        name = transport.get_extra_info("sockname")
        while name not in self.accepted:
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        transport.abort()

    async def _until_idle(self, *, end_what_hangs: bool) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + _IDLE_SECONDS
        calm = 0
        while loop.time() < until:
            busy = any(self._counters().values())
            unfinished = any(not seen.read.whole and seen.link.transport is not None for seen in self.seen)
            if busy and end_what_hangs:
                self._end_what_hangs()
            calm = calm + 1 if not busy and not unfinished and not any(_at_work(seen) for seen in self.seen) else 0
            if calm == 3:  # what is still in the kernel arrives in a turn or two
                return True
            await asyncio.sleep(0.001)
        return False

    def _end_what_hangs(self) -> None:
        for seen in self.seen:
            if (
                seen is seen.link.current
                and seen.link.transport is not None
                and not _at_work(seen)
                and not _complete(seen)
            ):
                reset(seen.link.transport)

    def _counters(self) -> dict[str, int]:
        """Everything that counts requests or what they hold; all 0 when there are none."""
        serving = self.gateway.serving
        admission = serving._admission
        return {
            "in flight": serving.proxy.in_flight,
            "admitted": admission.in_flight,
            "admitted on routes": sum(gate.in_flight for gate in admission.routes.values()),
            "callers": len(serving.listener.connections),
            "busy upstream": sum(upstream.busy for upstream in serving._upstreams),
            "body memory": serving._budget.used_bytes,
        }


def _complete(seen: Seen) -> bool:
    said = read_answer(bytes(seen.emitted), 0, seen.read.method, closed=False)
    return seen.read.whole and said.whole


def _at_work(seen: Seen) -> bool:
    """The upstream will still write by itself; one that waits for the rest of a request will not."""
    return seen.script is not None and not seen.script.done() and bool(seen.emitted or seen.read.whole)


def _count_answers(received: bytes, reads: list[Read]) -> int:
    at = 0
    for count, read in enumerate(reads):
        answer = read_answer(received, at, read.method, closed=False, upgrade=read.upgrade)
        if not answer.whole:
            return count
        at = answer.end
    return len(reads)
