"""One process's gateway put together: opened, reloaded, drained, closed."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, ask, request_bytes
from running import Document, InProcess, StartGateway, document, free_port, route

from gateway.app import Gateway, PortInUse
from gateway.config import load
from gateway.credentials import kinds
from gateway.simulator import Simulator

ENVIRON = {"CODE": "code-of-the-test", "OTHER": "other-code"}
CODE = {"code": {"kind": "app_code", "app_code": {"env": "CODE"}}}


async def reloaded(gateway: InProcess, config: Document) -> bool:
    """Write the file anew and reload."""
    gateway.path.write_text(yaml.safe_dump(config))
    return await gateway.gateway.reload()


async def test_nothing_is_left_behind(tmp_path: Path, fake: FakeModelArts) -> None:
    """After ``close`` there are no tasks, no listeners and no upstream connections of it."""
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(document(route("r", fake.url))))
    before = asyncio.all_tasks()
    gateway = Gateway(load(path, kinds(), environ={}), access_log_fd=1)
    await gateway.start()
    await ask(gateway.port, "GET", "/r")

    await gateway.close()
    await fake.until(lambda: fake.open == 0)

    assert {task for task in asyncio.all_tasks() - before if "gateway" in repr(task.get_coro())} == set()
    for port in (gateway.port, gateway.admin_port):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("which", ["listen", "admin"])
async def test_addresses_that_cannot_be_had(tmp_path: Path, fake: FakeModelArts, which: str) -> None:
    """A taken port is named with its key, and nothing half-started keeps the other."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = free_port()
        addresses = {"listen": f"127.0.0.1:{other}", "admin": f"127.0.0.1:{other}"}
        addresses[which] = f"127.0.0.1:{taken.getsockname()[1]}"
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump(document(route("r", fake.url)) | addresses))
        gateway = Gateway(load(path, kinds(), environ={}))

        with pytest.raises(PortInUse, match=rf"{addresses[which]} \({which}\)"):
            await gateway.start()

        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", other))


async def test_a_reload_replaces_everything_at_once(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Routes, limits, callers and credentials are those of the new file for the next request."""
    gateway = await start_gateway(document(route("a", fake.url, "code"), credentials=CODE), ENVIRON)
    assert (await gateway.ask("GET", "/a")).status == 200

    config = document(route("b", fake.url, limits={"body": "1B"}), process={"head_bytes": "1KiB"})
    assert await reloaded(gateway, config) is True

    statuses = [
        (await gateway.ask("GET", "/a")).status,
        (await gateway.ask("GET", "/b")).status,
        (await gateway.ask("POST", "/b", body=b"xx")).status,
        (await gateway.ask("GET", "/b", {"X": "x" * 2000})).status,
    ]
    assert statuses == [404, 200, 413, 431]
    assert "x-apig-appcode" not in fake.last.names
    assert set((await gateway.status())["credentials"]) == set()


async def test_tokens_survive_a_reload(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """A credential whose settings did not change keeps its token; one that did gets its own."""
    token = {
        "kind": "iam_token",
        "iam_url": modelarts.urls["iam"],
        "domain": modelarts.options.domain,
        "user": modelarts.options.user,
        "project": modelarts.options.project,
        "password": {"env": "PASSWORD"},
    }
    environ = {"PASSWORD": modelarts.options.password}
    gateway = await start_gateway(
        document(route("a", modelarts.urls["v1_iam"], "token"), credentials={"token": token}), environ
    )
    await gateway.until_ready()

    # The environment of a process is what it was: a reload reads it again.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PASSWORD", modelarts.options.password)
        same = document(route("b", modelarts.urls["v1_iam"], "token"), credentials={"token": token})
        assert await reloaded(gateway, same)
        assert (await gateway.ask("GET", "/b/echo")).status == 200
        assert modelarts.counters.iam_attempts == 1

        changed = document(
            route("c", modelarts.urls["v1_iam"], "token"), credentials={"token": token | {"timeout": "9s"}}
        )
        assert await reloaded(gateway, changed)
        assert (await gateway.ask("GET", "/c/echo")).status == 200
        assert modelarts.counters.iam_attempts == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"listen": "127.0.0.1:1"}, "listen", id="listen"),
        pytest.param({"admin": "127.0.0.1:1"}, "admin", id="admin"),
        pytest.param({"workers": 2}, "workers", id="workers"),
        pytest.param({"routes": []}, "routes", id="wrong"),
        pytest.param({"colour": "red"}, "colour", id="unknown key"),
    ],
)
async def test_a_reload_that_is_refused(
    start_gateway: StartGateway, fake: FakeModelArts, change: dict[str, Any], said: str
) -> None:
    """The old configuration keeps serving, and metric and status page say why."""
    gateway = await start_gateway(document(route("a", fake.url)))
    assert await reloaded(gateway, document(route("b", fake.url)) | change) is False

    assert (await gateway.ask("GET", "/a")).status == 200
    assert (await gateway.ask("GET", "/b")).status == 404
    assert await gateway.metric("gateway_config_last_reload_successful") == 0
    assert said in json.dumps(await gateway.status())


async def test_counters_survive_a_reload(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """What was counted stays counted, under routes that are gone, too."""
    gateway = await start_gateway(document(route("a", fake.url)))
    await gateway.ask("GET", "/a")

    await reloaded(gateway, document(route("b", fake.url)))
    await gateway.ask("GET", "/b")

    for name in ("a", "b"):
        assert await gateway.metric(f'gateway_requests_total{{code="200",method="GET",route="{name}"}}') == 1


async def test_a_running_request_keeps_the_configuration_it_began_with(
    start_gateway: StartGateway, fake: FakeModelArts
) -> None:
    """A reload in the middle of an upload changes nothing for it, not even that its route is gone."""
    gateway = await start_gateway(document(route("a", fake.url, limits={"body": "10KiB"})))

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("POST", "/a", {"Content-Length": "5000"}) + b"x" * 100)
        await fake.until(lambda: bool(fake.received))
        await reloaded(gateway, document(route("b", fake.url, limits={"body": "1KiB"})))
        await caller.send(b"x" * 4900)
        reply = await caller.reply()

    assert (reply.status, reply.json()["body_bytes"]) == (200, 5000)


async def test_in_flight_of_the_process(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Above ``process.in_flight`` 503 comes at once, whatever the route; a place that is free is free."""
    release = asyncio.Event()

    async def waits(call: Call) -> None:
        await release.wait()
        await call.reply("200 OK")

    fake.behaviour = waits
    gateway = await start_gateway(document(route("a", fake.url), route("b", fake.url), process={"in_flight": 2}))
    running = [asyncio.create_task(gateway.ask("GET", "/a")) for _ in range(2)]
    await fake.until(lambda: len(fake.received) == 2)

    refused = await gateway.ask("GET", "/b")
    release.set()
    await asyncio.gather(*running)

    assert (refused.status, refused.code, refused.details) == (503, "Gateway.Overloaded", "process.in_flight")
    assert (await gateway.ask("GET", "/b")).status == 200
