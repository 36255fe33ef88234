"""A gateway between a scripted caller and a scripted upstream, all on loopback in one event loop."""

import asyncio
import contextlib
import itertools
import os
import re
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import yaml

from gateway.app import Gateway
from gateway.config import load
from gateway.credentials import kinds
from tests.fuzz.case import Answer, Case, Step
from tests.fuzz.strict import Read, Verdict, read_answer, read_request, read_requests

# Our credentials, by the environment names that the configuration refers to.
SECRETS = {
    "APP_CODE": "our-app-code-0f5e",
    "APP_KEY": "our-app-key-77aa",
    "APP_SECRET": "our-app-secret-91cc",
    "MAAS_KEY": "our-maas-key-3b1d",
}
BASE = "/v1/infers/svc"
# Small, so that limits are met by small inputs.
HEAD_BYTES = 4096
OPEN_BODY_BYTES = 1024

# Nothing has happened for so long: nothing will. Clean cases are given time on a busy machine.
_QUIET_SECONDS = 0.05
_QUIET_CLEAN_SECONDS = 3.0
_POLL_SECONDS = 0.005
_IDLE_SECONDS = 5.0


@dataclass
class Seen:
    """One request as the upstream saw it, and what it said to it."""

    link: "UpstreamLink"
    begin: int  # offset in the link's bytes
    read: Read = field(default_factory=Read)
    emitted: bytearray = field(default_factory=bytearray)
    closed: bool = False  # the upstream ended the connection in order behind ``emitted``
    over: bool = False  # it has said everything
    tainted: bool = False  # bytes were on their way that nobody can tell from an answer to this request

    @property
    def request_id(self) -> bytes:
        return self.read.value(b"x-request-id") or b""


@dataclass
class Observation:
    """What left on either side in one case."""

    sent: bytes
    received: bytes
    ended: str  # eof, reset: the gateway's doing; left: the caller's
    seen: list[Seen]
    problems: list[str]


class UpstreamLink(asyncio.Protocol):
    """One connection that the gateway opened; it may serve several cases."""

    def __init__(self, lane: "Lane") -> None:
        self.lane = lane
        self.number = next(lane.link_numbers)
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.at = 0
        self.current: Seen | None = None
        self.answered = asyncio.Event()  # the script of the current request is over
        self.strayed = False  # the upstream said more than it was asked for
        self.reused_after_stray = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.lane.links.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.lane.links.discard(self)
        self.lane.activity += 1

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        self.lane.activity += 1
        self.buffer += data
        while True:
            if self.current is None or self.current.read.whole:
                if self.current is not None:
                    self.at = self.current.begin + self.current.read.end
                if self.at >= len(self.buffer):
                    return
                before = self.current
                self.current = Seen(self, self.at)
                if before is not None and not before.over:
                    self.current.tainted = True
                if self.strayed:
                    self.reused_after_stray = self.current.tainted = True
                self.lane.seen.append(self.current)
                answer = self.lane.next_answer()
                self.lane.spawn(self._script(self.current, answer))
            seen = self.current
            seen.read = read_request(bytes(self.buffer[seen.begin :]), ours=True)
            self.lane.wake_scripts()
            if not seen.read.whole:
                return

    async def _script(self, seen: Seen, answer: Answer) -> None:
        lane = self.lane
        while not (seen.read.sound_head and (answer.when == "head" or seen.read.whole)):
            if seen.read.verdict is Verdict.MALFORMED or self.transport is None:
                return
            await lane.progress.wait()
        complete_at = -1
        for step in answer.steps:
            if step.wait_ms:
                await asyncio.sleep(step.wait_ms / 1000)
            if self.transport is None or self.transport.is_closing():
                return
            if complete_at >= 0:
                self.strayed = True
            if self.current is not seen:
                return  # the next request is there; what is left would be its answer
            self.transport.write(step.data)
            seen.emitted += step.data
            lane.activity += 1
            said = read_answer(
                bytes(seen.emitted), 0, seen.read.method, closed=False, upgrade=seen.read.upgrade
            )
            if said.whole and said.status != 101:
                complete_at = said.end
                if len(seen.emitted) > said.end:
                    self.strayed = True
            elif said.verdict is Verdict.MALFORMED:
                self.strayed = True
            if len(answer.steps) > 1 and not step.wait_ms:
                await asyncio.sleep(0)
        if answer.then == "reset":
            _reset(self.transport)
        elif answer.then == "close":
            self.transport.close()
            seen.closed = True
        elif answer.then == "half-close":
            self.transport.write_eof()
            seen.closed = True
        seen.over = True
        if answer.later and answer.then == "keep":
            await asyncio.sleep(0.002)
            if self.transport is not None and self.current is seen:
                self.transport.write(answer.later)
                self.strayed = True
                lane.activity += 1


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
        self.ended = self.ended or ("left" if self.left else "reset" if error is not None else "eof")
        self.over.set()


class Lane:
    """One gateway of its own, with its caller and its upstream, that runs one case after the other.

    Connections to the upstream outlive a case, so what one leaves behind would show in the next.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.link_numbers = itertools.count()
        self.links: set[UpstreamLink] = set()
        self.seen: list[Seen] = []
        self.activity = 0
        self.progress = asyncio.Event()
        self._answers: list[Answer] = []
        self._scripts: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: UpstreamLink(self), "127.0.0.1", 0)
        upstream_port = self._server.sockets[0].getsockname()[1]
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(_document(upstream_port), sort_keys=False))
        self._descriptor = os.open(os.devnull, os.O_WRONLY)
        self.gateway = Gateway(load(path, kinds(), environ=SECRETS), access_log_fd=self._descriptor)
        await self.gateway.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.gateway.close()
        os.close(self._descriptor)
        self._server.close()
        for link in tuple(self.links):
            if link.transport is not None:
                link.transport.abort()
        await asyncio.sleep(0)

    def next_answer(self) -> Answer:
        if len(self.seen) <= len(self._answers):
            return self._answers[len(self.seen) - 1]
        return Answer([Step(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nnothing")])

    def spawn(self, script: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(script, name="fuzz-upstream")
        self._scripts.add(task)
        task.add_done_callback(self._scripts.discard)

    def wake_scripts(self) -> None:
        self.progress.set()
        self.progress = asyncio.Event()

    async def run(self, case: Case) -> Observation:
        """Play the case, and wait until nothing of it is left."""
        loop = asyncio.get_running_loop()
        self._answers = case.answers
        self.seen = []
        problems: list[str] = []
        _, caller = await loop.create_connection(lambda: CallerLink(self), "127.0.0.1", self.gateway.port)
        assert caller.transport is not None
        caller.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = bytearray()
        for step in case.writes:
            await asyncio.sleep(step.wait_ms / 1000)
            if caller.ended or caller.transport.is_closing():
                break
            caller.transport.write(step.data)
            sent += step.data
        if not caller.ended:
            if case.after == "half-close":
                caller.transport.write_eof()
            elif case.after in {"close", "reset"}:
                await asyncio.sleep(0)
                caller.left = True
                _reset(caller.transport) if case.after == "reset" else caller.transport.close()
        if case.after in {"stay", "half-close"}:
            await self._until_over(caller, case)
        if not caller.ended:
            caller.left, caller.ended = True, "left"
        caller.transport.abort()
        if not await self._until_idle():
            problems.append(f"not idle after {_IDLE_SECONDS:g} s: {self._counters()}")
        for script in tuple(self._scripts):
            script.cancel()
        await asyncio.sleep(0)
        counters = self._counters()
        if any(counters.values()):
            problems.append(f"counters did not return to 0: {counters}")
        for seen in self.seen:
            if not seen.read.whole and seen.link.transport is not None:
                problems.append("an upload that was not completed left its connection to the upstream open")
            if seen.link.reused_after_stray and not seen.tainted:
                problems.append("a connection was used again after its upstream said too much")
        return Observation(bytes(sent), bytes(caller.received), caller.ended, self.seen, problems)

    async def _until_over(self, caller: CallerLink, case: Case) -> None:
        """Every answer is there and nothing followed it, or nothing happens any more."""
        loop = asyncio.get_running_loop()
        reads = read_requests(case.request)
        # What is not whole may be answered or not; then only silence tells.
        expected = len(reads) if all(read.whole for read in reads) and case.after == "stay" else -1
        patience = _QUIET_CLEAN_SECONDS if case.clean else _QUIET_SECONDS
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
            if self.activity != activity or any(not script.done() for script in self._scripts_at_work()):
                activity, since = self.activity, loop.time()
            elif loop.time() - since > patience:
                return

    def _scripts_at_work(self) -> list["asyncio.Task[None]"]:
        """Upstream scripts that will still write by themselves; one that waits for a body will not."""
        return [
            script
            for script in self._scripts
            if any(not seen.over and seen.emitted and seen.read.whole for seen in self.seen)
        ]

    async def _until_idle(self) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + _IDLE_SECONDS
        while loop.time() < until:
            busy = any(self._counters().values())
            unfinished = any(not seen.read.whole and seen.link.transport is not None for seen in self.seen)
            later = any(seen.over and not script.done() for seen in self.seen for script in self._scripts)
            if not busy and not unfinished and not later:
                await asyncio.sleep(0)
                return True
            await asyncio.sleep(0.001)
        return False

    def _counters(self) -> dict[str, int]:
        """Everything that counts requests or what they hold; all 0 when there are none."""
        gateway = self.gateway
        return {
            "in flight": gateway.proxy.in_flight,
            "admitted": gateway._admission.in_flight,
            "admitted on routes": sum(gate.in_flight for gate in gateway._admission.routes.values()),
            "counted": sum(counts.in_flight for counts in gateway.metrics._routes.values()),
            "callers": len(gateway._listener.connections),
            "busy upstream": sum(upstream.busy for upstream in gateway._upstreams),
            "body memory": gateway._budget.used_bytes,
        }


def _count_answers(received: bytes, reads: list[Read]) -> int:
    at = 0
    for count, read in enumerate(reads):
        answer = read_answer(received, at, read.method, closed=False, upgrade=read.upgrade)
        if not answer.whole:
            return count
        at = answer.end
    return len(reads)


def _reset(transport: asyncio.Transport) -> None:
    found = transport.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _document(upstream_port: int) -> dict[str, Any]:  # Any: YAML
    base = f"http://127.0.0.1:{upstream_port}{BASE}"

    def route(path: str, credential: str, **more: Any) -> dict[str, Any]:
        name = re.sub(r"\W", "-", path.strip("/"))
        return {"name": name, "path": path, "upstream": base + path, "credential": credential, **more}

    return {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "process": {"drain_delay": "0s", "head_bytes": f"{HEAD_BYTES}B"},
        "credentials": {
            "code": {"kind": "app_code", "app_code": {"env": "APP_CODE"}},
            "sig": {"kind": "app_signature", "app_key": {"env": "APP_KEY"}, "app_secret": {"env": "APP_SECRET"}},
            "maas": {"kind": "api_key", "api_key": {"env": "MAAS_KEY"}},
        },
        "routes": [
            route("/code", "code"),
            route("/code/deep", "maas"),
            route("/sig", "sig", replay="2KiB"),
            route("/key", "maas"),
            route("/open", "none", limits={"body": f"{OPEN_BODY_BYTES}B"}),
            route("/ws", "code", websocket=True),
        ],
    }
