"""The process: its start, its end, and what changes in between."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest
import yaml
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, CutOff, ask, request_bytes
from running import Process, StartProcess, document, free_port, route


class Held:
    """A behaviour whose answers begin at once and end when ``release`` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
        await self.release.wait()
        await call.send(b"3\r\nend\r\n0\r\n\r\n")


async def refuses_connections(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def until_refused(port: int) -> None:
    async with asyncio.timeout(10):
        while not await refuses_connections(port):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_drains(start_process: StartProcess, fake: FakeModelArts, number: signal.Signals) -> None:
    """Listening stops, the running request finishes whole, idle connections close, exit 0."""
    held = Held()
    fake.plan = [held]
    process = await start_process(document(route("r", fake.url)))

    async with Caller(process.port) as idle, Caller(process.port) as caller:
        await idle.send(request_bytes("GET", "/r"))
        await fake.until(lambda: len(fake.received) == 1)
        fake.plan = [held]
        await caller.send(request_bytes("GET", "/r"))
        await fake.until(lambda: len(fake.received) == 2)
        held.release.set()
        await idle.reply()
        held.release.clear()
        held2 = Held()
        fake.plan = [held2]
        await idle.send(request_bytes("GET", "/r"))
        await fake.until(lambda: len(fake.received) == 3)
        process.signal(number)
        await until_refused(process.port)
        held.release.set()
        held2.release.set()
        replies = [await caller.reply(), await idle.reply()]

        assert [reply.body for reply in replies] == [b"beginend"] * 2
        assert await idle.closed()
        assert await caller.closed()
    assert await process.ended() == 0
    assert [line["outcome"] for line in process.access_log()] == ["complete"] * 3


async def test_before_listening_stops(start_process: StartProcess, fake: FakeModelArts) -> None:
    """For ``drain_delay`` readiness fails and requests are still served, each answer saying that it is the last."""
    process = await start_process(document(route("r", fake.url), process={"drain_delay": "700ms"}))
    ready = await ask(process.admin_port, "GET", "/readyz")

    async with Caller(process.port) as kept:
        await kept.send(request_bytes("GET", "/r"))
        before = await kept.reply()
        process.signal(signal.SIGTERM)
        await process.says("draining")
        not_ready = await ask(process.admin_port, "GET", "/readyz")
        healthy = await ask(process.admin_port, "GET", "/healthz")
        fresh = await ask(process.port, "GET", "/r")
        await kept.send(request_bytes("GET", "/r"))
        last = await kept.reply()

        assert (ready.status, not_ready.status, healthy.status) == (200, 503, 200)
        assert (before.status, before.get("Connection")) == (200, None)
        assert [(reply.status, reply.get("Connection")) for reply in (fresh, last)] == [(200, "close")] * 2
        assert await kept.closed()
    assert await process.ended() == 0


async def test_a_restart_under_load_loses_nothing(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Callers on kept connections that heed ``Connection: close`` get an answer to every request they sent."""
    process = await start_process(document(route("r", fake.url), process={"drain_delay": "500ms"}))
    answered = 0

    async def calls_on() -> str:
        nonlocal answered
        while True:
            try:
                caller = Caller(process.port)
                await caller.__aenter__()
            except (ConnectionRefusedError, ConnectionResetError):  # reset: the kernel took it as listening ended
                return "turned to another instance"
            async with contextlib.aclosing(Closing(caller)):
                while True:
                    await caller.send(request_bytes("POST", "/r", {}, b"x" * 100))
                    reply = await caller.reply()
                    assert reply.status == 200
                    answered += 1
                    if reply.get("Connection") == "close":
                        break

    callers = [asyncio.create_task(calls_on()) for _ in range(8)]
    await fake.until(lambda: answered > 50)
    process.signal(signal.SIGTERM)
    endings = await asyncio.gather(*callers)

    assert endings == ["turned to another instance"] * 8
    assert await process.ended() == 0
    assert len(process.access_log()) == answered == len(fake.received)


class Closing:
    """Closes a caller at the end of a block."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def aclose(self) -> None:
        await self._caller.__aexit__()


async def test_a_second_signal_cuts(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Whoever is in a hurry sends it twice: running requests are cut, counted in the log, and it still ends with 0."""
    fake.behaviour = Held()
    process = await start_process(document(route("r", fake.url)))

    async with Caller(process.port) as caller:
        await caller.send(request_bytes("GET", "/r"))
        await caller.head()
        process.signal(signal.SIGTERM)
        await until_refused(process.port)
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        status = await process.ended()
        cut_short = b""
        try:
            while piece := await caller.receive():
                cut_short += piece
        except ConnectionResetError:
            pass

    assert (status, time.monotonic() - began < 5) == (0, True)
    assert not cut_short.endswith(b"0\r\n\r\n")
    assert "1 requests were cut" in process.stderr or "1 request was cut" in process.stderr
    assert [line["outcome"] for line in process.access_log()] == ["cut"]


async def test_what_drain_does_not_wait_for(start_process: StartProcess, fake: FakeModelArts) -> None:
    """What is left after ``drain`` is cut."""
    fake.behaviour = Held()
    process = await start_process(document(route("r", fake.url), process={"drain": "300ms"}))

    async with Caller(process.port) as caller:
        await caller.send(request_bytes("GET", "/r"))
        await caller.head()
        process.signal(signal.SIGTERM)
        began = time.monotonic()

        assert await process.ended() == 0
        assert 0.3 <= time.monotonic() - began < 5


@pytest.mark.parametrize("which", ["listen", "admin"])
async def test_a_port_in_use(start_process: StartProcess, fake: FakeModelArts, which: str) -> None:
    """Exit 1, with a message that names the address and the key."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        process = await start_process(document(route("r", fake.url)) | {which: address}, wait=False)

        assert await process.ended() == 1
        assert f"cannot listen on {address} ({which}): Address already in use; stop " in process.stderr
        assert f"or give {which} another address" in process.stderr


async def test_a_file_that_is_wrong(start_process: StartProcess, tmp_path: Path) -> None:
    """Exit 2, with every problem at once."""
    config = document(route("r", "http://127.0.0.1:9", limits={"body": 12, "deadline": "soon"}, colour="red"))
    config["listen"], config["admin"] = "127.0.0.1:1", "127.0.0.1:2"

    process = await start_process(config, wait=False)

    assert await process.ended() == 2
    assert [word for word in ("limits.body", "limits.deadline", "colour") if word not in process.stderr] == []
    assert process.stdout == ""


async def test_no_file(start_process: StartProcess, fake: FakeModelArts) -> None:
    """A file that is not there is a wrong configuration, too, and is named."""
    elsewhere = "import sys; from gateway.server import run; raise SystemExit(run(sys.argv[1] + '.gone'))"

    process = await start_process(document(route("r", fake.url)), wait=False, program=("-c", elsewhere))

    assert await process.ended() == 2
    assert "gateway.yaml.gone" in process.stderr


async def metric(process: Process, name: str) -> float:
    text = (await ask(process.admin_port, "GET", "/metrics")).body.decode()
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " "))


async def rewrite(process: Process, path: Path, config: dict[str, object], text: str) -> None:
    """Write the file and ask for it to be read."""
    path.write_text(yaml.safe_dump(config))
    process.signal(signal.SIGHUP)
    await process.says(text)


async def test_reload_keeps_live_streams(start_process: StartProcess, fake: FakeModelArts, tmp_path: Path) -> None:
    """SIGHUP: new requests see the new file, a stream that runs ends as it began."""
    held = Held()
    path = tmp_path / "gateway.yaml"
    config = document(route("old", fake.url)) | {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
    }
    path.write_text(yaml.safe_dump(config))
    process = await start_process(path)

    async with Caller(process.port) as caller:
        fake.plan = [held]
        await caller.send(request_bytes("GET", "/old"))
        await caller.head()
        await rewrite(process, path, config | {"routes": [route("new", fake.url)]}, "configuration loaded")
        gone, there = await ask(process.port, "GET", "/old"), await ask(process.port, "GET", "/new")
        held.release.set()
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += await caller.receive()
        await caller.send(request_bytes("GET", "/new"))
        kept = await caller.reply()

    assert (gone.status, there.status, kept.status) == (404, 200, 200)
    assert b"end" in rest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"routes": [{"name": "x"}]}, "routes.0.path", id="wrong"),
        pytest.param({"listen": "127.0.0.1:1"}, "listen", id="takes a restart"),
    ],
)
async def test_a_bad_file_changes_nothing(
    start_process: StartProcess, fake: FakeModelArts, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    """All or nothing: the old configuration keeps serving, the reason is logged and the metric says so until it is right again."""
    path = tmp_path / "gateway.yaml"
    config = document(route("old", fake.url)) | {
        "listen": f"127.0.0.1:{free_port()}",
        "admin": f"127.0.0.1:{free_port()}",
    }
    path.write_text(yaml.safe_dump(config))
    process = await start_process(path)
    at_first = await metric(process, "gateway_config_last_reload_successful")

    await rewrite(process, path, config | change, "configuration not loaded")
    refused = await metric(process, "gateway_config_last_reload_successful")
    still = await ask(process.port, "GET", "/old")
    await rewrite(process, path, config, "configuration loaded")

    assert (at_first, refused, still.status) == (1, 0, 200)
    assert await metric(process, "gateway_config_last_reload_successful") == 1
    assert reason in process.stderr


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_a_config_maps_symlinks(
    start_process: StartProcess, fake: FakeModelArts, tmp_path: Path, workers: int
) -> None:
    """A mounted directory whose ``..data`` link is swapped is noticed each time, secrets and all, without a signal."""

    def publish(version: str) -> None:
        """As the kubelet does it: a new directory, then one rename."""
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        config["routes"] = [route(version, fake.url, "code")]
        (folder / "gateway.yaml").write_text(yaml.safe_dump(config))
        (folder / "code").write_text(f"code-{version}\n")
        (tmp_path / "..new").symlink_to(folder.name)
        os.replace(tmp_path / "..new", tmp_path / "..data")

    code = {"kind": "app_code", "app_code": {"file": str(tmp_path / "code")}}
    config = document(credentials={"code": code}, workers=workers)
    config |= {"listen": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{free_port()}"}
    publish("one")
    for name in ("gateway.yaml", "code"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    process = await start_process(tmp_path / "gateway.yaml")

    seen = []
    for version in ("one", "two", "three"):
        if version != "one":
            publish(version)
        async with asyncio.timeout(5):
            while (await ask(process.port, "GET", f"/{version}")).status != 200:
                await asyncio.sleep(0.1)
        seen.append(fake.last.get("X-Apig-AppCode"))

    assert seen == ["code-one", "code-two", "code-three"]


async def test_a_rotated_secret(start_process: StartProcess, fake: FakeModelArts, tmp_path: Path) -> None:
    """A secret file that changes is used within seconds; one that turned bad leaves the old value, with a warning."""
    secret = tmp_path / "code"
    secret.write_text("first\n")
    code = {"kind": "app_code", "app_code": {"file": str(secret)}}
    process = await start_process(document(route("r", fake.url, "code"), credentials={"code": code}))

    async def sent() -> str | None:
        await ask(process.port, "GET", "/r")
        return fake.last.get("X-Apig-AppCode")

    first = await sent()
    secret.write_text("second\n")
    async with asyncio.timeout(5):
        while await sent() != "second":
            await asyncio.sleep(0.1)
    secret.write_text("")
    await process.says("code", seconds=5)

    assert (first, await sent()) == ("first", "second")


async def test_unix_socket(start_process: StartProcess, fake: FakeModelArts, tmp_path: Path) -> None:
    """A sidecar can listen on a Unix socket, which is gone when it has ended; one that a crash left is taken over."""
    path = tmp_path / "gateway.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    process = await start_process(document(route("r", fake.url)) | {"listen": f"unix:{path}"})

    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request_bytes("GET", "/r", {"Connection": "close"}))
    answer = await reader.read()
    writer.close()
    process.signal(signal.SIGTERM)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert await process.ended() == 0
    assert not path.exists()


async def test_answers_after_a_cut_are_not_whole(start_process: StartProcess, fake: FakeModelArts) -> None:
    """A killed gateway's callers see a broken answer."""
    fake.behaviour = Held()
    process = await start_process(document(route("r", fake.url)))

    async with Caller(process.port) as caller:
        await caller.send(request_bytes("GET", "/r"))
        await fake.until(lambda: bool(fake.received))
        await asyncio.sleep(0.1)
        process.signal(signal.SIGKILL)
        with pytest.raises((CutOff, ConnectionResetError)):
            await caller.reply()
