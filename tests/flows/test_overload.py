"""More than there is room for: what is refused, and that it ends when the load does."""

import asyncio
import contextlib
import re

import pytest
from fake_modelarts import Behaviour, Call, FakeModelArts, raw, refuses, says
from raw_caller import Caller, CutOff, ask, request_bytes
from running import Process, StartProcess, document, free_port, route

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


@pytest.mark.parametrize(
    ("fails", "status"),
    [
        pytest.param(None, 502, id="no connection"),
        pytest.param(raw(b"", then="reset"), 502, id="reset"),
        pytest.param(says("500 Internal Server Error"), 500, id="5xx"),
        pytest.param(refuses("500 Internal Server Error", "ModelArts.4302", "self protection"), 500, id="its breaker"),
    ],
)
async def test_what_opens_a_breaker(
    start_process: StartProcess, fake: FakeModelArts, fails: Behaviour | None, status: int
) -> None:
    """After so many failures in a row nothing is sent for a while; a route without ``breaker`` goes on asking."""
    upstream = f"http://127.0.0.1:{free_port()}" if fails is None else fake.url
    fake.behaviour = fails or fake.behaviour
    breaker = {"failures": 3, "open": "30s"}
    process = await start_process(
        document(
            route("guarded", upstream, breaker=breaker, retry={"attempts": 1}),
            route("plain", upstream, retry={"attempts": 1}),
        )
    )

    guarded = [await process.ask("GET", "/guarded") for _ in range(6)]
    reached = len(fake.received)
    plain = [(await process.ask("GET", "/plain")).status for _ in range(6)]
    told = {row["name"]: row["breaker"] for row in (await process.status())["routes"]}

    assert [reply.status for reply in guarded] == [status] * 3 + [503] * 3
    assert {(reply.code, reply.proxy_error) for reply in guarded[3:]} == {
        ("Gateway.CircuitOpen", "destination_unavailable")
    }
    assert 25 <= int(guarded[-1].get("Retry-After") or 0) <= 30
    assert plain == [status] * 6
    assert reached == (0 if fails is None else 3)
    assert told == {"guarded": "open", "plain": None}


async def test_one_probe(start_process: StartProcess, fake: FakeModelArts) -> None:
    """When a breaker's time is over, exactly one of twenty requests goes on; its success lets everybody in again."""
    release = asyncio.Event()

    async def probed(call: Call) -> None:
        await call.body()
        await release.wait()
        await call.reply("200 OK", b"ok")

    fake.plan = [says("500 Internal Server Error")] * 2
    fake.behaviour = probed
    process = await start_process(document(route("r", fake.url, breaker={"failures": 2, "open": "500ms"})))
    for _ in range(2):
        await process.ask("GET", "/r")
    opened = await process.ask("GET", "/r")
    await asyncio.sleep(0.6)

    asking = [asyncio.create_task(process.ask("GET", "/r")) for _ in range(20)]
    async with asyncio.timeout(10):
        while sum(task.done() for task in asking) < 19:
            await asyncio.sleep(0.01)
    (probe,) = [task for task in asking if not task.done()]
    meanwhile = (await process.status())["routes"][0]["breaker"]
    release.set()
    answered = await probe
    refused = {task.result().code for task in asking if task is not probe}
    after = [(await process.ask("GET", "/r")).status for _ in range(5)]

    assert opened.code == "Gateway.CircuitOpen"
    assert refused == {"Gateway.CircuitOpen"}
    assert meanwhile == "half-open"
    assert (answered.status, after) == (200, [200] * 5)
    assert len(fake.received) == 2 + 1 + 5


async def test_a_body_waits_a_little_for_memory(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Two bodies that fit one at a time: the second waits for the first; a third that waits too long is told to come back."""
    release = asyncio.Event()

    async def held(call: Call) -> None:
        await call.body()
        await release.wait()
        await call.reply("200 OK", b"ok")

    fake.behaviour = held
    app = {"kind": "app_signature", "app_key": {"env": "K"}, "app_secret": {"env": "S"}, "payload": "hash"}
    process = await start_process(
        document(
            route("r", f"{fake.url}/v1/infers/S", "app", replay="1MiB"),
            credentials={"app": app},
            process={"body_memory": "1MiB"},
        ),
        {"K": "key", "S": "secret"},
    )
    body = b"x" * (700 * 1024)

    first = asyncio.create_task(process.ask("POST", "/r", {}, body=body))
    await fake.until(lambda: len(fake.received) == 1)
    refused = await process.ask("POST", "/r", {}, body=body)
    while (await process.samples("gateway_body_memory_bytes"))[""] > len(body) + 1:
        await asyncio.sleep(0.01)
    second = asyncio.create_task(process.ask("POST", "/r", {}, body=body))
    await asyncio.sleep(0.3)
    waited = len(fake.received)
    release.set()
    replies = [(await task).status for task in (first, second)]

    assert (refused.status, refused.code, refused.details) == (503, "Gateway.Overloaded", "process.body_memory")
    assert refused.get("Retry-After") == "1"
    assert waited == 1
    assert replies == [200, 200]
