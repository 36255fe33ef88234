"""Several workers that are one gateway to everybody outside."""

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, CutOff, ask, request_bytes
from running import StartProcess, document, route

from flows.setups import credentials, environ
from gateway.simulator import Simulator


async def until(condition: Callable[[], Any], seconds: float = 15) -> None:
    """``condition`` is a coroutine function."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


def sockets_of(pid: int) -> int:
    """How many connections a process holds."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += os.readlink(descriptor).startswith("socket:")
    return count


def alive(pid: int) -> bool:
    """It runs, and is more than an entry that nobody has asked after yet."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


async def test_they_share_the_callers_and_the_numbers(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Connections spread over all workers; every number counts all of them, wherever a request went."""
    process = await start_process(document(route("r", fake.url), workers=2))
    pids = await process.workers()
    before = {pid: sockets_of(pid) for pid in pids.values()}

    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(Caller(process.port)) for _ in range(40)]
        for caller in callers:
            await caller.send(request_bytes("POST", "/r", {}, b"12345"))
        replies = [await caller.reply() for caller in callers]
        more = {pid: sockets_of(pid) - before[pid] for pid in pids.values()}
    counted = await process.samples("gateway_requests_total")
    document_of_status = await process.status()
    process.signal(signal.SIGTERM)

    assert sorted(pids) == [0, 1]
    assert {reply.status for reply in replies} == {200}
    assert min(more.values()) >= 5, more  # fewer by chance: once in some hundred thousand times
    assert counted == {'code="200",method="POST",route="r"': 40}
    assert document_of_status["routes"][0]["requests"] == 40
    assert await process.ended() == 0
    assert len(process.access_log()) == 40
    assert len({received.get("Via") for received in fake.received}) == 1


async def test_one_of_two_is_killed_under_load(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Nothing is lost but what that worker was doing; it is replaced and counted, and no counter goes down."""
    process = await start_process(document(route("r", fake.url), workers=2))
    victim = (await process.workers())[0]
    answered = failed = 0
    over = asyncio.Event()

    async def calls_on() -> None:
        nonlocal answered, failed
        while not over.is_set():
            with contextlib.suppress(ConnectionError):
                async with Caller(process.port) as caller:
                    try:
                        while not over.is_set():
                            await caller.send(request_bytes("POST", "/r", {}, b"x" * 100))
                            assert (await caller.reply()).status == 200
                            answered += 1
                    except (CutOff, ConnectionError):
                        failed += 1

    callers = [asyncio.create_task(calls_on()) for _ in range(16)]
    await fake.until(lambda: answered > 200)
    seen = [await process.total("gateway_requests_total")]
    os.kill(victim, signal.SIGKILL)
    while len(await process.workers()) < 2 or victim in (await process.workers()).values():
        seen.append(await process.total("gateway_requests_total"))
        await asyncio.sleep(0.05)
    at_replacement = answered
    await fake.until(lambda: answered > at_replacement + 200)
    over.set()
    await asyncio.gather(*callers)
    seen.append(await process.total("gateway_requests_total"))

    assert failed <= 16  # one request for each connection at most
    assert seen == sorted(seen)
    assert await process.total("gateway_worker_restarts_total") == 1
    assert (await process.status())["worker_restarts"] == 1
    assert "killed by SIGKILL" in process.stderr
    # What it had counted since it was last asked, half a second ago at most, went with it, and no more.
    assert seen[0] + (answered - 200) * 0.5 < seen[-1] <= answered + failed


async def test_connections_wait_for_nobody(start_process: StartProcess, fake: FakeModelArts) -> None:
    """What the kernel has queued for a worker that dies is accepted by another one."""
    process = await start_process(document(route("r", fake.url), workers=2))
    pids = await process.workers()
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)

    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(Caller(process.port)) for _ in range(20)]
        for caller in callers:
            await caller.send(request_bytes("GET", "/r"))
        os.kill(pids[0], signal.SIGKILL)
        os.kill(pids[1], signal.SIGCONT)
        async with asyncio.timeout(10):
            replies = [await caller.reply() for caller in callers]

    assert {reply.status for reply in replies} == {200}


async def test_one_that_hangs_holds_up_nobody(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Metrics, readiness and status answer without the worker that does not, with what it said last."""
    process = await start_process(document(route("r", fake.url), workers=2))
    for _ in range(10):
        await ask(process.port, "GET", "/r")
    before = await process.total("gateway_requests_total")
    hanging = (await process.workers())[1]

    os.kill(hanging, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):
            ready = await ask(process.admin_port, "GET", "/readyz")
            after = await process.total("gateway_requests_total")
    finally:
        os.kill(hanging, signal.SIGCONT)

    assert (before, after, ready.status) == (10, 10, 200)


async def test_tokens_are_obtained_once(start_process: StartProcess, modelarts: Simulator) -> None:
    """Three workers, one fetch; one more when the token dies, whichever of them hear of it."""
    config = document(
        route("r", modelarts.urls["v1_iam"], "token"),
        credentials={"token": credentials(modelarts)["token"]},
        workers=3,
    )
    process = await start_process(config, environ(modelarts))

    async def ready() -> bool:
        return (await ask(process.admin_port, "GET", "/readyz")).status == 200

    await until(ready)
    first = [(await ask(process.port, "GET", "/r/echo")).status for _ in range(20)]
    fetched = modelarts.counters.tokens_issued
    modelarts.tokens.revoke_all()
    second = [reply.status for reply in await asyncio.gather(*(ask(process.port, "GET", "/r/echo") for _ in range(40)))]

    assert (set(first), set(second)) == ({200}, {200})
    assert (fetched, modelarts.counters.tokens_issued, modelarts.counters.iam_attempts) == (1, 2, 2)
    assert process.stderr.count("a new token was obtained") == 2
    assert await process.samples("gateway_credential_refreshes_total") == {
        'credential="token",result="ok"': 2,
        'credential="token",result="failed"': 0,
    }


async def test_tokens_after_an_outage(start_process: StartProcess, modelarts: Simulator) -> None:
    """When IAM is back, no worker sits out a wait of its own: all of them hear of the new token at once."""
    modelarts.faults.add("status=503", family="iam")
    config = document(
        route("r", modelarts.urls["v1_iam"], "token"),
        credentials={"token": credentials(modelarts)["token"]},
        workers=2,
    )

    async def three_attempts() -> bool:
        return process.stderr.count("next attempt in") >= 3  # the supervisor's; what workers hear of it is no news

    process = await start_process(config, environ(modelarts))
    before = await ask(process.admin_port, "GET", "/readyz")
    refused = [(await ask(process.port, "GET", "/r/echo")).status for _ in range(4)]
    await until(three_attempts)
    modelarts.faults.clear()

    async def issued() -> bool:
        return modelarts.counters.tokens_issued == 1

    await until(issued)
    await asyncio.sleep(0.1)
    replies = [(await ask(process.port, "GET", "/r/echo")).status for _ in range(20)]

    assert (before.status, set(refused)) == (503, {503})
    assert "token" in before.json()["reasons"][0]
    assert set(replies) == {200}


async def test_a_wrong_secret_does_not_lock_the_key(start_process: StartProcess, modelarts: Simulator) -> None:
    """Four refused signatures are enough, whichever workers they came from; then all of them hold the key back."""
    config = document(
        route("r", modelarts.urls["v1_app"], "app"),
        credentials={"app": credentials(modelarts)["app"]},
        workers=3,
    )
    process = await start_process(config, environ(modelarts) | {"APP_SECRET": "5" * 32})

    statuses = []
    for _ in range(30):
        statuses.append((await ask(process.port, "GET", "/r/echo")).status)
        await asyncio.sleep(0.02)
    ready = await ask(process.admin_port, "GET", "/readyz")

    assert statuses == [401] * 4 + [503] * 26
    assert "in a row" in str(ready.json())


class Held:
    """A behaviour whose answers begin at once and end when ``release`` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
        await self.release.wait()
        await call.send(b"3\r\nend\r\n0\r\n\r\n")


async def test_a_signal_drains_all(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Running requests of every worker finish whole; a signal to the whole process group is no second one."""
    held = fake.behaviour = Held()
    process = await start_process(document(route("r", fake.url), workers=2))
    pids = await process.workers()

    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(Caller(process.port)) for _ in range(12)]
        for caller in callers:
            await caller.send(request_bytes("GET", "/r"))
            await caller.head()
        process.signal(signal.SIGTERM)
        for pid in pids.values():
            os.kill(pid, signal.SIGTERM)
        await process.says("no new connections")

        async def refused() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection("127.0.0.1", process.port)
                writer.close()
                return False
            return True

        await until(refused)
        during = await process.status()
        held.release.set()
        ends = []
        for caller in callers:
            rest = b""
            while piece := await caller.receive():
                rest += piece
            ends.append(rest)

    assert all(rest.endswith(b"end\r\n0\r\n\r\n") for rest in ends)
    assert (during["draining"], during["in_flight"]) == (True, 12)
    assert await process.ended() == 0
    assert not any(alive(pid) for pid in pids.values())
    assert [line["outcome"] for line in process.access_log()] == ["complete"] * 12


async def test_a_second_signal_cuts_all(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Twice is at once, whatever runs, and says what it cost."""
    fake.behaviour = Held()
    process = await start_process(document(route("r", fake.url), workers=2))

    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(Caller(process.port)) for _ in range(6)]
        for caller in callers:
            await caller.send(request_bytes("GET", "/r"))
            await caller.head()
        process.signal(signal.SIGTERM)
        await process.says("no new connections")
        process.signal(signal.SIGTERM)

        assert await process.ended(seconds=8) == 0
    assert "6 requests were cut" in process.stderr
    assert [line["outcome"] for line in process.access_log()] == ["cut"] * 6


async def test_nobody_outlives_the_supervisor(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Workers whose supervisor was killed finish what runs, and make room for the next gateway."""
    held = fake.behaviour = Held()
    process = await start_process(document(route("r", fake.url), workers=2))
    pids = await process.workers()

    async with Caller(process.port) as caller:
        await caller.send(request_bytes("GET", "/r"))
        await caller.head()
        process.signal(signal.SIGKILL)
        await process.ended()

        async def one_is_left() -> bool:
            return [alive(pid) for pid in pids.values()].count(True) == 1

        await until(one_is_left)
        with pytest.raises(ConnectionRefusedError):
            await ask(process.port, "GET", "/r")
        held.release.set()
        rest = b""
        while piece := await caller.receive():
            rest += piece

    async def none_is_left() -> bool:
        return not any(alive(pid) for pid in pids.values())

    await until(none_is_left)
    assert rest.endswith(b"end\r\n0\r\n\r\n")


async def test_a_port_that_another_gateway_has(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Sharing a port is for the workers of one gateway: a second one is told that it is in use."""
    first = await start_process(document(route("r", fake.url), workers=2))
    config = document(route("r", fake.url), workers=2) | {"listen": f"127.0.0.1:{first.port}"}

    second = await start_process(config, wait=False)

    assert await second.ended() == 1
    assert f"127.0.0.1:{first.port} (listen)" in second.stderr


async def test_a_unix_socket(start_process: StartProcess, fake: FakeModelArts, tmp_path: Path) -> None:
    """All workers accept from one path; it is gone afterwards."""
    path = tmp_path / "gateway.sock"
    process = await start_process(document(route("r", fake.url), workers=2) | {"listen": f"unix:{path}"})
    victim = (await process.workers())[0]
    os.kill(victim, signal.SIGKILL)

    answers = []
    for _ in range(10):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(request_bytes("GET", "/r", {"Connection": "close"}))
        answers.append((await reader.read())[:15])
        writer.close()
    process.signal(signal.SIGTERM)

    assert set(answers) == {b"HTTP/1.1 200 OK"}
    assert await process.ended() == 0
    assert not path.exists()


async def test_as_many_as_there_are_cores(start_process: StartProcess, fake: FakeModelArts) -> None:
    """``workers: auto`` is one for each core that the process may use."""
    process = await start_process(document(route("r", fake.url), workers="auto"))

    if (cores := len(os.sched_getaffinity(0))) == 1:
        assert await process.workers() == {}  # one process needs no supervisor
    else:
        assert list(await process.workers()) == list(range(cores))
    assert await process.samples("gateway_workers") == {"": cores}


async def test_one_that_dies_again_and_again(start_process: StartProcess, fake: FakeModelArts) -> None:
    """The first replacement comes at once, the next ones later and later; each is counted, and others serve meanwhile."""
    process = await start_process(document(route("r", fake.url), workers=2))

    for deaths in range(1, 4):
        os.kill((await process.workers())[0], signal.SIGKILL)
        assert (await process.ask("GET", "/r")).status == 200

        async def it_is_back(deaths: int = deaths) -> bool:
            return await process.total("gateway_worker_restarts_total") == deaths and len(await process.workers()) == 2

        await until(it_is_back)
    pauses = [float(pause) for pause in re.findall(r"the next one starts in ([0-9.]+)s", process.stderr)]

    assert pauses[0] == 0
    assert 0.3 < pauses[1] <= 0.5 < pauses[2] <= 1


async def test_what_killed_workers_had_counted(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Nobody asked, and both are killed at once: what is older than half a second is still counted."""
    process = await start_process(document(route("r", fake.url), workers=2))
    pids = await process.workers()
    for _ in range(40):
        await process.ask("GET", "/r")
    await asyncio.sleep(0.8)

    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)

    async def others_serve() -> bool:
        return len(workers := await process.workers()) == 2 and not set(workers.values()) & set(pids.values())

    await until(others_serve)
    assert await process.samples("gateway_requests_total") == {'code="200",method="GET",route="r"': 40}


async def test_what_all_processes_use(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Memory, descriptors and CPU time are of supervisor and workers together; CPU time stays when a worker dies."""
    process = await start_process(document(route("r", fake.url), workers=2))
    pids = [process.pid, *(await process.workers()).values()]
    for _ in range(50):
        await process.ask("GET", "/r")

    resident = await process.total("process_resident_memory_bytes")
    descriptors = await process.total("process_open_fds")
    before = await process.total("process_cpu_seconds_total")
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    open_files = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]
    os.kill(pids[1], signal.SIGKILL)

    async def it_is_replaced() -> bool:
        workers = await process.workers()
        return len(workers) == 2 and pids[1] not in workers.values()

    seen = [before]
    async with asyncio.timeout(10):
        while not await it_is_replaced():
            seen.append(await process.total("process_cpu_seconds_total"))

    assert len(pids) == 3
    assert resident == pytest.approx(sum(pages) * os.sysconf("SC_PAGESIZE"), rel=0.05)
    assert descriptors == pytest.approx(sum(open_files), abs=6)
    assert before >= 0.3  # three interpreters have started
    assert seen == sorted(seen)


async def test_limits_are_of_the_gateway(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Workers divide what counts requests: two of them let through what was written, however many callers there are."""
    held = fake.behaviour = Held()
    process = await start_process(document(route("r", fake.url), workers=2, process={"in_flight": 10}))

    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(Caller(process.port)) for _ in range(60)]
        for caller in callers:
            await caller.send(request_bytes("GET", "/r"))
        heads = [await caller.head() for caller in callers]
        held.release.set()

    assert [head.status for head in heads].count(200) == 10
    assert {head.status for head in heads} == {200, 503}


def test_free_ports_are_shared_too() -> None:
    """Port 0 is one port for all of them."""
    from gateway import sockets
    from gateway.config import Address

    bound = sockets.bind(Address("127.0.0.1", 0), "listen", 3)

    assert len({sockets.port_of(sock) for sock in bound}) == 1
    assert all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for sock in bound)
    for sock in bound:
        sock.close()
