"""More than there is room for: what is refused, and that it ends when the load does."""

import asyncio
import contextlib
import re

import pytest
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, CutOff, ask, request_bytes
from running import Process, StartProcess, document, route

# Runs the gateway with few file descriptors, on the event loop of its choice.
FEW_DESCRIPTORS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
sys.modules.update({modules})
from gateway.server import run
raise SystemExit(run(sys.argv[1]))
"""


@pytest.mark.parametrize("modules", ["{}", "{'uvloop': None}"], ids=["uvloop", "asyncio"])
async def test_no_file_descriptor_left(start_process: StartProcess, fake: FakeModelArts, modules: str) -> None:
    """More connections than the process may open: it lives, logs little, and serves again when some have gone."""
    program = FEW_DESCRIPTORS.format(limit=64, modules=modules)
    process = await start_process(document(route("r", fake.url)), program=("-c", program))
    await ask(process.port, "GET", "/r")

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(100):
            with contextlib.suppress(OSError):
                caller = await stack.enter_async_context(Caller(process.port))
                await caller.send(b"GET")
        await asyncio.sleep(1.5)
        lines = len(process.stderr.splitlines())
    statuses = []
    async with asyncio.timeout(15):
        while statuses[-3:] != [200] * 3:
            with contextlib.suppress(OSError, TimeoutError, CutOff):
                async with asyncio.timeout(3):
                    statuses.append((await ask(process.port, "GET", "/r")).status)

    assert lines < 20, process.stderr
    assert (await ask(process.admin_port, "GET", "/healthz")).status == 200


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_requests_in_flight(start_process: StartProcess, fake: FakeModelArts, workers: int) -> None:
    """Above process.in_flight 503 at once, with the time to come back; room again as soon as requests end."""
    release = asyncio.Event()

    async def held(call: Call) -> None:
        await call.body()
        await release.wait()
        await call.reply("200 OK", b"ok")

    fake.behaviour = held
    process = await start_process(document(route("r", fake.url), workers=workers, process={"in_flight": 4}))

    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(Caller(process.port)) for _ in range(40)]
        for caller in callers:
            await caller.send(request_bytes("GET", "/r"))
        await fake.until(lambda: len(fake.received) == 4)
        waiting = [asyncio.create_task(caller.reply()) for caller in callers]
        while sum(task.done() for task in waiting) < 36:
            await asyncio.sleep(0.01)
        refused = [task.result() for task in waiting if task.done()]
        release.set()
        answered = [reply for task in waiting if (reply := await task) not in refused]
    after = await ask(process.port, "GET", "/r")

    assert {(reply.status, reply.code, reply.get("Retry-After")) for reply in refused} == {
        (503, "Gateway.Overloaded", "1")
    }
    assert [reply.status for reply in answered] == [200] * 4
    assert after.status == 200


async def series(process: Process) -> int:
    text = (await ask(process.admin_port, "GET", "/metrics")).body.decode()
    return len(re.findall(r"^[a-z]", text, re.MULTILINE))


async def test_what_callers_choose_makes_no_series(start_process: StartProcess, fake: FakeModelArts) -> None:
    """2,000 paths, 500 unknown callers and a few made-up methods leave the number of series as it was."""
    fake.behaviour = answers_ok
    callers = [{"name": "known", "addresses": ["127.0.0.1"], "routes": ["*"]}]
    process = await start_process(document(route("r", fake.url), workers=2, callers=callers))

    async def some(count: int) -> None:
        async with Caller(process.port) as caller:
            for number in range(count):
                await caller.send(request_bytes("GET", f"/r/{number}"))
                await caller.reply()
                if number < count // 4:
                    await caller.send(request_bytes("GET", f"/elsewhere-{number}"))
                    await caller.reply()
                    await caller.send(request_bytes("GET", f"/r/{number}", {"X-API-Key": f"nobody-{number}"}))
                    await caller.reply()
                    await caller.send(request_bytes(f"PURGE{number}", "/r"))
                    await caller.reply()

    await some(4)
    before = await series(process)
    await asyncio.gather(*(some(250) for _ in range(8)))

    assert await series(process) == before


async def answers_ok(call: Call) -> None:
    await call.body()
    await call.reply("200 OK", b"ok")


async def test_retries_stay_below_a_tenth(start_process: StartProcess, fake: FakeModelArts) -> None:
    """An upstream that breaks every request off is not asked twice as often because of it."""

    async def breaks_off(call: Call) -> None:
        await call.body()
        call.reset()

    fake.behaviour = breaks_off
    process = await start_process(document(route("r", fake.url, retry={"attempts": 3, "idempotent": True})))

    replies = [await ask(process.port, "GET", "/r") for _ in range(100)]

    assert {reply.status for reply in replies} == {502}
    assert 110 <= len(fake.received) <= 120  # a tenth, and the ten that may run ahead
