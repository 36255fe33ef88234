"""gateway.workers: the link between processes, each worker's share, and what the supervisor does when one fails."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import yaml
from fake_modelarts import FakeModelArts
from raw_caller import ask
from running import Document, document, route

from gateway.config import Config, load
from gateway.credentials import kinds
from gateway.workers import crew, supervisor
from gateway.workers.crew import NoWorker
from gateway.workers.link import Answerer, Link, LinkLost, Message
from gateway.workers.share import share
from gateway.workers.supervisor import Supervisor

# The link


async def linked(ours: Mapping[str, Answerer], theirs: Mapping[str, Answerer]) -> tuple[Link, Link]:
    """Both ends of a link, in one process."""
    one, other = socket.socketpair()
    ends = Link(ours), Link(theirs)
    await ends[0].open(one)
    await ends[1].open(other)
    return ends


async def doubles(asked: Message) -> Message:
    return {"twice": asked["number"] * 2}


async def never(_: Message) -> Message:
    await asyncio.Event().wait()
    return {}


async def fails(_: Message) -> Message:
    raise RuntimeError("a text that may quote a token")


async def test_both_ends_may_ask() -> None:
    """Many questions at once, each with its own answer, in both directions."""
    one, other = await linked({"double": doubles}, {"double": doubles})

    answers = await asyncio.gather(
        *(end.ask("double", 5, number=number) for end in (one, other) for number in range(50))
    )

    assert [answer["twice"] for answer in answers] == [2 * number for number in range(50)] * 2
    await one.close()
    await other.close()


async def test_long_answers() -> None:
    """Neither socket buffers nor read sizes are a limit."""

    async def long(_: Message) -> Message:
        return {"text": "x" * 5_000_000}

    one, other = await linked({}, {"long": long})

    assert len((await one.ask("long", 5))["text"]) == 5_000_000
    await one.close()
    await other.close()


async def test_no_answer_in_time() -> None:
    """Whoever asks decides how long to wait; the link goes on."""
    one, other = await linked({}, {"never": never, "double": doubles})

    with pytest.raises(LinkLost, match=r"'never' within 0\.05s"):
        await one.ask("never", 0.05)
    assert await one.ask("double", 5, number=2) == {"twice": 4}
    await one.close()
    await other.close()


async def test_a_question_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asked hears of it at once, and nobody sees the exception's text."""
    one, other = await linked({}, {"fails": fails})
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    with pytest.raises(LinkLost, match="it failed: RuntimeError"):
        await one.ask("fails", 5)
    assert "quote" not in caplog.text
    await one.close()
    await other.close()


async def test_the_other_end_goes() -> None:
    """Questions under way end, later ones fail at once, and the end is noticed."""
    one, other = await linked({}, {"never": never})
    waiting = asyncio.create_task(one.ask("never", None))
    await asyncio.sleep(0.05)

    await other.close()

    with pytest.raises(LinkLost, match="gone"):
        await waiting
    await one.ended
    with pytest.raises(LinkLost, match="gone"):
        await one.ask("never", None)


# Shares


def loaded(tmp_path: Path, config: Document) -> Config:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return load(path, kinds(), environ={"TOKEN": "token-of-a"})


@pytest.mark.parametrize(
    ("workers", "in_flight", "memory", "route_in_flight", "per_second", "burst"),
    [
        pytest.param(1, 1000, 100, 5, 50.0, 10, id="one has it all"),
        pytest.param(2, 500, 50, 3, 25.0, 5, id="halves, rounded up"),
        pytest.param(8, 125, 13, 1, 6.25, 2, id="never nothing"),
    ],
)
def test_shares(
    tmp_path: Path, workers: int, in_flight: int, memory: int, route_in_flight: int, per_second: float, burst: int
) -> None:
    """What counts requests or bytes of all workers is divided among them."""
    limits = {"in_flight": 5, "rate": "50/s burst 10", "deadline": "7s"}
    config = loaded(
        tmp_path,
        document(
            route("r", "http://127.0.0.1:9", limits=limits),
            process={"in_flight": 1000, "body_memory": "100B"},
            callers=[
                {"name": "a", "token": {"env": "TOKEN"}, "routes": ["*"], "in_flight": 5, "rate": "50/s burst 10"}
            ],
        ),
    )

    mine = share(config, workers)

    assert (mine.process.in_flight, mine.process.body_memory_bytes) == (in_flight, memory)
    for limited in (mine.routes[0].limits, mine.callers[0]):
        assert limited.rate is not None
        assert (limited.in_flight, limited.rate.per_second, limited.rate.burst) == (route_in_flight, per_second, burst)
    assert mine.routes[0].limits.deadline_seconds == 7
    assert mine.process.drain_seconds == config.process.drain_seconds


def test_what_is_unlimited_stays_so(tmp_path: Path) -> None:
    """None is no number to divide."""
    mine = share(
        loaded(
            tmp_path, document(route("r", "http://127.0.0.1:9"), process={"in_flight": "none", "body_memory": "none"})
        ),
        4,
    )

    assert (mine.process.in_flight, mine.process.body_memory_bytes) == (None, None)
    assert (mine.routes[0].limits.in_flight, mine.routes[0].limits.rate) == (None, None)


# The supervisor, with real workers


class Started:
    """A supervisor of two workers in the test's loop, and its file."""

    def __init__(self, path: Path, gateway: Supervisor, config: Document) -> None:
        self.path = path
        self.gateway = gateway
        self.config = config

    def write(self, *routes: Document) -> None:
        self.path.write_text(yaml.safe_dump(self.config | {"routes": list(routes)}))

    async def pids(self) -> dict[int, int]:
        return {worker["worker"]: worker["pid"] for worker in (await self.gateway.status())["workers"]}

    async def until_replaced(self, pid: int) -> None:
        async with asyncio.timeout(20):
            while len(pids := await self.pids()) < 2 or pid in pids.values():
                await asyncio.sleep(0.05)

    async def answers(self, target: str) -> set[int]:
        """What sixteen connections get, enough to have met both workers."""
        replies = await asyncio.gather(*(ask(self.gateway.port, "GET", target) for _ in range(16)))
        return {reply.status for reply in replies}


@pytest.fixture
async def started(tmp_path: Path, fake: FakeModelArts) -> AsyncIterator[Started]:
    config = document(route("old", fake.url), workers=2)
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    gateway = Supervisor(load(path, kinds()), path.read_bytes())
    await gateway.start()
    yield Started(path, gateway, config)
    await gateway.close()


async def test_reload_reaches_all(started: Started, fake: FakeModelArts) -> None:
    """After a reload every worker knows the new route, and none the old one."""
    started.write(route("new", fake.url))

    assert await started.gateway.reload()
    assert (await started.answers("/new"), await started.answers("/old")) == ({200}, {404})


async def test_all_or_none(started: Started, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that cannot say that it could load the file keeps all of them on the old one."""
    monkeypatch.setattr(crew, "_RELOAD_SECONDS", 0.5)
    started.write(route("new", fake.url))
    pids = await started.pids()
    os.kill(pids[1], signal.SIGSTOP)

    refused = await started.gateway.reload()
    os.kill(pids[1], signal.SIGCONT)
    status = await started.gateway.status()
    old = await started.answers("/old"), await started.answers("/new")
    monkeypatch.setattr(crew, "_RELOAD_SECONDS", 20.0)
    taken = await started.gateway.reload()

    assert (refused, taken) == (False, True)
    assert status["reload"]["problems"] == ["worker 1: it did not answer 'prepare' within 0.5s"]
    assert old == ({200}, {404})
    assert (await started.answers("/new"), await started.answers("/old")) == ({200}, {404})


async def test_a_new_worker_begins_with_what_serves(started: Started, fake: FakeModelArts) -> None:
    """The file on the disk may have turned bad meanwhile; a worker that is replaced serves what the others serve."""
    started.path.write_text("routes: [nothing that makes sense]")
    assert not await started.gateway.reload()
    pids = await started.pids()

    os.kill(pids[0], signal.SIGKILL)
    await started.until_replaced(pids[0])

    assert await started.answers("/old") == {200}


async def test_one_that_dies_again_and_again(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first replacement comes at once, further ones later and later; the other worker serves for both meanwhile."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pids = await started.pids()

    os.kill(pids[0], signal.SIGKILL)
    async with asyncio.timeout(10):
        while (await started.gateway.status())["worker_restarts"] < 3:
            await asyncio.sleep(0.05)
    verdict = await started.gateway.ready()

    assert verdict.ready
    assert verdict.degraded == ["worker 0: being started again"]
    assert await started.answers("/old") == {200}
    assert [crew._pause_seconds(lives) for lives in (0, 1)] == [0, 0]
    assert 0 < crew._pause_seconds(2) <= 0.5 < crew._pause_seconds(5) <= crew._pause_seconds(20) * 1.4
    assert crew._pause_seconds(1000) <= 30


async def test_one_that_hangs_is_replaced(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that says nothing for long serves nobody: it is killed, and another one begins."""
    monkeypatch.setattr(crew, "_HUNG_SECONDS", 1.0)
    monkeypatch.setattr(supervisor, "_LOOK_SECONDS", 0.2)
    pids = await started.pids()

    os.kill(pids[0], signal.SIGSTOP)
    await started.until_replaced(pids[0])

    assert await started.answers("/old") == {200}


async def test_no_worker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway without workers is none: the start fails."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    config = loaded(tmp_path, document(route("r", "http://127.0.0.1:9"), workers=2))

    with pytest.raises(NoWorker):
        await Supervisor(config, config.path.read_bytes()).start()


async def test_without_workers_it_is_not_healthy(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody is left to serve, health and readiness say so, and status and metrics go on."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    for pid in (await started.pids()).values():
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while started.gateway.healthy():
            await asyncio.sleep(0.05)

    ready, reasons, _ = await started.gateway.ready()
    told = await started.gateway.status()
    scrape, _ = await started.gateway.metrics_text()

    assert not ready
    assert reasons == ["worker 0: being started again", "worker 1: being started again"]
    assert [route["in_flight"] for route in told["routes"]] == [0]
    assert b"gateway_workers 0.0\n" in scrape
