"""A fault in the work between requests: the process does not go on half alive, it finishes what runs and is replaced."""

import asyncio
from pathlib import Path

import pytest
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, ask, request_bytes
from running import ROOT, StartProcess, document, route

# Loaded by every Python that is started with its folder in front (site, "sitecustomize"), workers included: what one
# process does again and again fails once a file is there, which it takes away.
FAILS_ONCE = """
import os
from gateway.listener import Listener
from gateway.workers.crew import Crew

def failing(trigger, work):
    def fails(*arguments):
        try:
            os.unlink(trigger)
        except FileNotFoundError:
            return work(*arguments)
        raise RuntimeError("planted-words")
    return fails

Listener.sweep = failing({trigger!r}, Listener.sweep)
Crew.end_those_that_hang = failing({trigger!r} + "-above", Crew.end_those_that_hang)
"""


class Held:
    """A behaviour whose answers begin at once and end when ``release`` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
        await self.release.wait()
        await call.send(b"3\r\nend\r\n0\r\n\r\n")


@pytest.fixture
def trigger(tmp_path: Path) -> Path:
    """Create it, and one process's sweep fails."""
    path = tmp_path / "fail"
    (tmp_path / "sitecustomize.py").write_text(FAILS_ONCE.format(trigger=str(path)))
    return path


def environ(trigger: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{trigger.parent}:{ROOT}"}


async def test_a_process_alone_ends(start_process: StartProcess, fake: FakeModelArts, trigger: Path) -> None:
    """It says what broke, is not ready, lets the running request finish, and ends with 1 for whoever restarts it."""
    held = fake.behaviour = Held()
    process = await start_process(
        document(route("r", fake.url), process={"drain_delay": "300ms", "drain": "none"}), environ(trigger)
    )

    async with Caller(process.port) as caller:
        await caller.send(request_bytes("GET", "/r"))
        await caller.head()
        trigger.touch()
        await process.says("draining")
        ready = await ask(process.admin_port, "GET", "/readyz")
        await process.says("no new connections")
        held.release.set()
        rest = b""
        while piece := await caller.receive():
            rest += piece

    assert ready.status == 503
    assert rest.endswith(b"end\r\n0\r\n\r\n")
    assert await process.ended() == 1
    assert "task sweep broke off" in process.stderr
    assert "RuntimeError" in process.stderr
    assert "planted-words" not in process.stderr


async def test_a_worker_is_replaced(start_process: StartProcess, fake: FakeModelArts, trigger: Path) -> None:
    """What it was doing ends whole, what comes meanwhile is served by others, and another one takes its place."""
    held = Held()
    process = await start_process(document(route("r", fake.url), workers=2), environ(trigger))
    before = await process.workers()
    fake.plan = [held] * 8

    callers = [Caller(process.port) for _ in range(8)]
    for caller in callers:
        await caller.__aenter__()
        await caller.send(request_bytes("GET", "/r"))
        await caller.head()
    trigger.touch()
    await process.says("task sweep broke off")
    meanwhile = [(await process.ask("GET", "/r")).status for _ in range(20)]
    held.release.set()
    ends = []
    for caller in callers:
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += await caller.receive()
        ends.append(rest)
        await caller.__aexit__()
    async with asyncio.timeout(10):
        while len(after := await process.workers()) < 2 or after == before:
            await asyncio.sleep(0.05)

    assert set(meanwhile) == {200}
    assert all(rest.endswith(b"end\r\n0\r\n\r\n") for rest in ends)
    assert len(set(before.values()) & set(after.values())) == 1
    assert await process.total("gateway_worker_restarts_total") == 1
    assert await process.total("gateway_requests_total") == 28


async def test_a_supervisor_ends(start_process: StartProcess, fake: FakeModelArts, trigger: Path) -> None:
    """Nobody would look after the workers: all of them drain, and the gateway ends with 1."""
    held = fake.behaviour = Held()
    process = await start_process(document(route("r", fake.url), workers=2), environ(trigger))

    async with Caller(process.port) as caller:
        await caller.send(request_bytes("GET", "/r"))
        await caller.head()
        Path(f"{trigger}-above").touch()
        await process.says("no new connections")
        held.release.set()
        rest = b""
        while piece := await caller.receive():
            rest += piece

    assert rest.endswith(b"end\r\n0\r\n\r\n")
    assert await process.ended() == 1
    assert "task look broke off" in process.stderr
