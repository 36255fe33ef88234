"""The scripted upstream: it records what reaches it and says what a case tells it to say."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from tests.fuzz.case import Answer
from tests.fuzz.strict import Read, Verdict, read_answer, read_request


@dataclass
class Seen:
    """One request as the upstream saw it, and what it said to it."""

    link: "UpstreamLink"
    begin: int  # offset in the link's bytes
    read: Read = field(default_factory=Read)
    emitted: bytearray = field(default_factory=bytearray)
    stray: bytes = b""  # what it said when the answer was over
    closed: bool = False  # the upstream ended the connection in order behind ``emitted``
    over: bool = False  # it has said everything
    tainted: bool = False  # bytes were on their way that nobody can tell from an answer to this request
    tunnel: bytes | None = None  # what the gateway sent behind a handshake that the upstream accepted
    script: "asyncio.Task[None] | None" = None

    @property
    def request_id(self) -> bytes:
        return self.read.value(b"x-request-id") or b""


class Stage(Protocol):
    """What the connections of an upstream have in common; a lane has one."""

    links: "set[UpstreamLink]"
    accepted: set[tuple[str, int]]
    seen: list[Seen]
    problems: list[str]
    raced: bool
    activity: int
    case_number: int
    progress: asyncio.Event

    def next_answer(self) -> Answer: ...

    def spawn(self, script: Coroutine[Any, Any, None]) -> "asyncio.Task[None]": ...

    def wake_scripts(self) -> None: ...


class UpstreamLink(asyncio.Protocol):
    """One connection that the gateway opened; it may serve several cases."""

    def __init__(self, lane: Stage) -> None:
        self.lane = lane
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.at = 0
        self.current: Seen | None = None
        # The upstream said more than it was asked for: in one write with its answer, or behind it.
        self.strayed = ""
        self.stray_said = b""
        self.finished = False  # half-closed: nothing more will be said
        self.strayed_in = 0  # the case in which it did

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.lane.links.add(self)
        self.lane.accepted.add(transport.get_extra_info("peername"))

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
            seen = self.current
            if seen is None or seen.read.whole:
                self.at = 0 if seen is None else seen.begin + seen.read.end
                if seen is not None and seen.tunnel is not None:
                    seen.tunnel = bytes(self.buffer[self.at :])
                    return
                if self.at >= len(self.buffer):
                    return
                seen = self._begin()
            seen.read = read_request(bytes(self.buffer[seen.begin :]), ours=True)
            self.lane.wake_scripts()
            if not seen.read.whole:
                return

    def _begin(self) -> Seen:
        """The first bytes of a request are there."""
        before, seen = self.current, Seen(self, self.at)
        # The gateway may have asked before it could know that more than an answer came.
        seen.tainted = (before is not None and not before.over) or (
            self.strayed == "behind" and self.strayed_in == self.lane.case_number
        )
        if self.strayed and not seen.tainted:
            self.lane.problems.append(
                "a connection was used again after its upstream said too much: "
                f"{self.strayed} {self.lane.case_number - self.strayed_in} cases ago, {self.stray_said!r}"
            )
        self.current = seen
        self.lane.seen.append(seen)
        seen.script = self.lane.spawn(self._script(seen, self.lane.next_answer()))
        return seen

    async def _script(self, seen: Seen, answer: Answer) -> None:
        while not (seen.read.sound_head and (answer.when == "head" or seen.read.whole)):
            if seen.read.verdict is Verdict.MALFORMED or self.transport is None:
                return
            await self.lane.progress.wait()
        for step in answer.steps:
            await asyncio.sleep(step.wait_ms / 1000)
            if not self._may_speak(seen):
                seen.over = True
                return
            self._say(seen, step.data)
        if self.transport is not None and not self.transport.is_closing():
            self._end(seen, answer.then)
        seen.over = True
        if answer.later and answer.then == "keep":
            await asyncio.sleep(0.002)
            if self._may_speak(seen):
                self._say(seen, answer.later)

    def _may_speak(self, seen: Seen) -> bool:
        """Nothing has ended, and what is said is no answer to the next request."""
        transport = self.transport
        return transport is not None and not transport.is_closing() and not self.finished and self.current is seen

    def _say(self, seen: Seen, data: bytes) -> None:
        assert self.transport is not None
        before = self._heard(seen)
        self.transport.write(data)
        self.lane.activity += 1
        if before.whole and before.status != 101:
            self._stray("behind", data)  # the answer was over
            seen.stray += data
            return
        seen.emitted += data
        said = self._heard(seen)
        if said.status == 101 and said.whole and seen.read.upgrade:
            seen.tunnel = b""
        elif said.verdict is Verdict.MALFORMED or (said.whole and len(seen.emitted) > said.end):
            self._stray("with", b"")

    @staticmethod
    def _heard(seen: Seen) -> Read:
        return read_answer(bytes(seen.emitted), 0, seen.read.method, closed=False, upgrade=seen.read.upgrade)

    def _end(self, seen: Seen, then: str) -> None:
        assert self.transport is not None
        if then == "reset":
            reset(self.transport)
        elif then == "close":
            self.transport.close()
            seen.closed = True
        elif then == "half-close" and not self.finished:
            with contextlib.suppress(OSError):  # the gateway has gone meanwhile
                self.transport.write_eof()
            seen.closed = self.finished = True

    def _stray(self, how: str, more: bytes) -> None:
        if how == "behind":
            self.lane.raced = True
        if not self.strayed:
            self.strayed, self.strayed_in = how, self.lane.case_number
            if self.current is not None:
                self.stray_said = bytes(self.current.read.start + b" -> " + self.current.emitted[-300:]) + b" + " + more


def reset(transport: asyncio.Transport) -> None:
    """End a connection so that the peer sees a reset."""
    found = transport.get_extra_info("socket")
    # A connection that has ended meanwhile has no descriptor; uvloop says so with a ValueError.
    with contextlib.suppress(OSError, ValueError):
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
