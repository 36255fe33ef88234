"""Reloads while it works: many, under load, with live streams; nothing is lost and nothing grows."""

import asyncio
import os
import re
import signal
from pathlib import Path

import aiohttp
import pytest
import yaml
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, ask, request_bytes
from running import Document, Process, StartProcess, document, free_port, route

from flows.setups import credentials, environ
from gateway.simulator import Simulator

# A short while in the ordinary run; set it to 60 for a look at what grows slowly.
SECONDS = float(os.environ.get("RELOAD_TEST_SECONDS", "4"))
RELOADS_PER_SECOND = 10
EVENT_SECONDS = 0.02


async def events(call: Call) -> None:
    """Numbered server-sent events until the caller leaves."""
    await call.body()
    await call.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    number = 0
    while True:
        event = f"data: {number}\n\n".encode()
        await call.send(b"%x\r\n%b\r\n" % (len(event), event))
        number += 1
        await asyncio.sleep(EVENT_SECONDS)


async def streams_or_answers(call: Call) -> None:
    if call.request.path == "/stream":
        await events(call)
    else:
        await call.body()
        await call.reply("200 OK", b"ok")


def family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def resources(process: Process) -> tuple[int, int, int]:
    """Resident bytes, file descriptors and threads of the whole gateway."""
    resident = descriptors = threads = 0
    for pid in family(process.pid):
        status = Path(f"/proc/{pid}/status").read_text()
        resident += 1024 * int(re.findall(r"VmRSS:\s+(\d+)", status)[0])
        threads += int(re.findall(r"Threads:\s+(\d+)", status)[0])
        descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return resident, descriptors, threads


def written(path: Path, config: Document) -> None:
    """As an editor or the kubelet does it: whole, in one step."""
    (path.parent / "next").write_text(yaml.safe_dump(config))
    os.replace(path.parent / "next", path)


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_ten_reloads_a_second(
    start_process: StartProcess, fake: FakeModelArts, modelarts: Simulator, tmp_path: Path, workers: int
) -> None:
    """Every request is answered, the stream misses no event, the token is not fetched again, and nothing grows."""
    fake.behaviour = streams_or_answers
    config = document(
        route("r", fake.url, "token"),
        route("stream", f"{fake.url}/stream", "token", limits={"deadline": "none"}),
        credentials={"token": credentials(modelarts)["token"]},
        workers=workers,
    ) | {"listen": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}"}
    more = config | {"routes": [*config["routes"], route("extra", fake.url)]}
    path = tmp_path / "gateway.yaml"
    written(path, config)
    process = await start_process(path, environ(modelarts))
    over = asyncio.Event()
    answered = 0
    numbers: list[int] = []

    async def calls_on() -> None:
        nonlocal answered
        async with Caller(process.port) as caller:
            while not over.is_set():
                await caller.send(request_bytes("POST", "/r", {}, b"x" * 100))
                assert (await caller.reply()).status == 200
                answered += 1
                await asyncio.sleep(0.005)

    async def listens() -> None:
        async with Caller(process.port) as caller:
            await caller.send(request_bytes("GET", "/stream"))
            assert (await caller.head()).status == 200
            text = b""
            while not over.is_set():
                piece = await caller.receive()
                assert piece, "the stream was cut"
                text += piece
            numbers.extend(int(number) for number in re.findall(rb"data: (\d+)\n\n", text))

    callers = [asyncio.create_task(work) for work in (*(calls_on() for _ in range(4)), listens())]
    await fake.until(lambda: answered > 20)

    async def reloads(seconds: float) -> None:
        for count in range(int(seconds * RELOADS_PER_SECOND)):
            written(path, more if count % 2 == 0 else config)
            process.signal(signal.SIGHUP)
            await asyncio.sleep(1 / RELOADS_PER_SECOND)

    await reloads(SECONDS / 2)
    half_way = resources(process)
    await reloads(SECONDS / 2)
    at_the_end = resources(process)
    done = [task for task in callers if task.done()]
    over.set()
    await asyncio.gather(*callers)

    assert done == []
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > SECONDS / EVENT_SECONDS / 4
    assert modelarts.counters.tokens_issued == 1
    assert process.stderr.count("configuration loaded") >= SECONDS * 2
    assert "not loaded" not in process.stderr
    assert at_the_end[0] - half_way[0] < 8 * 1024 * 1024
    assert at_the_end[1] - half_way[1] <= 4
    assert at_the_end[2] <= half_way[2] + 2


async def answers(process: Process, target: str) -> set[int]:
    """What twelve connections get, enough to have met every worker."""
    replies = await asyncio.gather(*(ask(process.port, "GET", target) for _ in range(12)))
    return {reply.status for reply in replies}


async def test_a_change_of_the_file_reaches_all(
    start_process: StartProcess, fake: FakeModelArts, tmp_path: Path
) -> None:
    """Without a signal, in every worker, within seconds; a bad file in none, and the metric says so."""
    config = document(route("old", fake.url), workers=2) | {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
    }
    path = tmp_path / "gateway.yaml"
    written(path, config)
    process = await start_process(path)

    written(path, config | {"routes": [route("new", fake.url)]})
    await process.says("configuration loaded", seconds=6)
    after = await answers(process, "/new"), await answers(process, "/old")
    written(path, config | {"routes": [{"name": "wrong"}]})
    await process.says("configuration not loaded", seconds=6)
    scrape = (await ask(process.admin_port, "GET", "/metrics")).body.decode()

    assert after == ({200}, {404})
    assert await answers(process, "/new") == {200}
    assert "\ngateway_config_last_reload_successful 0.0\n" in scrape


@pytest.mark.parametrize("change", [{"workers": 3}, {"admin": "127.0.0.1:1"}], ids=lambda change: next(iter(change)))
async def test_what_takes_a_restart(
    start_process: StartProcess, fake: FakeModelArts, tmp_path: Path, change: Document
) -> None:
    """A change that cannot be made while serving is refused with its reason, and the rest of the file with it."""
    config = document(route("old", fake.url)) | {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
    }
    path = tmp_path / "gateway.yaml"
    written(path, config)
    process = await start_process(path)

    written(path, config | {"routes": [route("new", fake.url)]} | change)
    process.signal(signal.SIGHUP)
    await process.says("takes a restart")

    assert f"{next(iter(change))}: a change of this takes a restart" in process.stderr
    assert await answers(process, "/old") == {200}
    assert await answers(process, "/new") == {404}


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_removed_routes_finish_what_they_do(
    start_process: StartProcess, fake: FakeModelArts, modelarts: Simulator, tmp_path: Path, workers: int
) -> None:
    """An upload, a WebSocket and a signed body under way end as they began, though route and credential are gone."""
    secret = {"kind": "app_signature", "app_key": {"env": "APP_KEY"}, "app_secret": {"env": "APP_SECRET"}}
    config = document(
        route("upload", fake.url, "code"),
        route("signed", f"{fake.url}/v1/infers/S", "app", replay="1KiB"),
        route("frames", modelarts.urls["v2_open"], websocket=True),
        credentials={
            "code": {"kind": "app_code", "app_code": {"env": "APP_CODE"}},
            "app": {**secret, "payload": "hash"},
        },
        workers=workers,
    ) | {"listen": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}"}
    path = tmp_path / "gateway.yaml"
    written(path, config)
    process = await start_process(path, environ(modelarts))
    bodies = {name: name.encode() * 400 for name in ("upload", "signed")}

    async with (
        Caller(process.port) as uploading,
        Caller(process.port) as signing,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{process.port}/frames/ws") as frames,
    ):
        for caller, (name, body) in zip((uploading, signing), bodies.items(), strict=True):
            await caller.send(request_bytes("POST", f"/{name}", {}, body)[: -len(body) // 2])
        await frames.send_str("before")
        heard = [await frames.receive_str()]
        written(path, {**config, "routes": [route("new", fake.url)], "credentials": {}})
        process.signal(signal.SIGHUP)
        await process.says("configuration loaded: 1 routes, 0 credentials")
        assert await answers(process, "/upload") == {404}
        await frames.send_str("after")
        heard.append(await frames.receive_str())
        replies = []
        for caller, body in zip((uploading, signing), bodies.values(), strict=True):
            await caller.send(body[len(body) - len(body) // 2 :])
            replies.append((await caller.reply()).status)

    assert replies == [200, 200]
    assert heard == ["before", "after"]
    sent = {received.body: received for received in fake.received}
    assert sent[bodies["upload"]].get("X-Apig-AppCode") == modelarts.credentials["app_code"]
    assert (sent[bodies["signed"]].get("Authorization") or "").startswith("SDK-HMAC-SHA256 ")


async def test_every_problem_is_told(start_process: StartProcess, fake: FakeModelArts, tmp_path: Path) -> None:
    """A bad file's problems are all in the log and in ``/status``, each with its place, and none once it is right again."""
    config = document(route("r", fake.url)) | {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
    }
    path = tmp_path / "gateway.yaml"
    written(path, config)
    process = await start_process(path)
    bad = route("r", fake.url, "nobody", limits={"body": 12, "deadline": "soon"}, colour="red")

    written(path, config | {"routes": [bad], "process": {"drain": "45"}})
    process.signal(signal.SIGHUP)
    async with asyncio.timeout(10):
        while not (problems := (await process.status())["reload"]["problems"]):
            await asyncio.sleep(0.05)
    still = await answers(process, "/r")
    written(path, config)
    process.signal(signal.SIGHUP)
    await process.says("configuration loaded")

    keys = ("routes.0.limits.body", "routes.0.limits.deadline", "routes.0.colour", "process.drain")
    for key in keys:
        (problem,) = [problem for problem in problems if f"{key}:" in problem]
        assert re.search(r"gateway\.yaml:\d+:\d+: ", problem)
        assert key in process.stderr
    assert still == {200}
    assert (await process.status())["reload"]["problems"] == []
