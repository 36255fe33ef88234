"""The command, the example configuration, and the simulator's independence."""

import argparse
import ast
import asyncio
import json
import signal
import socket
import sys
from pathlib import Path

import pytest
import yaml

import gateway.simulator
from gateway.simulator import Simulator
from gateway.simulator.command import add_arguments, describe
from gateway.simulator.example import example_config
from gateway.simulator.quantities import seconds, size_bytes

PROGRAM = """
import argparse, sys
from gateway.simulator.command import add_arguments, run
parser = argparse.ArgumentParser()
add_arguments(parser)
sys.exit(run(parser.parse_args()))
"""


async def launch(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_says_what_it_is_and_ends_on_a_signal(number: signal.Signals) -> None:
    """One JSON object with a URL per family and the credentials, as set by option; a signal ends it with 0."""
    process = await launch("--listen", "127.0.0.1:0", "--json", "--ak", "MYACCESSKEY", "--app-code", "mine")
    assert process.stdout is not None
    said = json.loads(await process.stdout.readline())
    process.send_signal(number)

    assert await process.wait() == 0
    assert said["credentials"]["ak"] == "MYACCESSKEY"
    assert said["credentials"]["app_code"] == "mine"
    assert {"iam", "v1_iam", "v1_app", "v2", "maas", "admin"} <= set(said["urls"])
    assert said["urls"]["v1_iam"] != said["urls"]["v1_app"]


async def test_a_taken_port_is_named() -> None:
    """A port that somebody has: exit 1, and the message names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await launch("--listen", f"127.0.0.1:{port}")
        _, errors = await process.communicate()

    assert process.returncode == 1
    assert f"127.0.0.1:{port}" in errors.decode()
    assert "--listen 127.0.0.1:0" in errors.decode()


async def test_the_last_port() -> None:
    """Behind the last port there is no next one for the admin side: any free one will do."""
    simulator = Simulator()
    try:
        await simulator.start("127.0.0.1", 65535)
    finally:
        await simulator.stop()

    assert simulator.urls["iam"] == "http://127.0.0.1:65535"
    assert simulator.urls["admin"].startswith("http://127.0.0.1:")


async def test_it_does_not_take_the_gateways_ports(simulator: Simulator, tmp_path: Path) -> None:
    """Both run side by side as they come: by default the simulator listens elsewhere than the gateway does."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    _, port = parser.parse_args([]).listen
    config = yaml.safe_load(example_config(simulator.urls, simulator.credentials, tmp_path))

    assert {f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"}.isdisjoint({config["listen"], config["admin"]})


@pytest.mark.parametrize(
    "arguments", [["--listen", "here"], ["--deadline", "40"], ["--body", "12"], ["--listen", "a:99999"]]
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read is a usage error that shows how it should look."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)

    assert caught.value.code == 2
    assert "as in" in capsys.readouterr().err


async def test_for_people(simulator: Simulator) -> None:
    """Without --json people can read every URL and every credential."""
    text = describe(simulator, json_output=False)

    assert all(url in text for url in simulator.urls.values())
    assert all(value in text for value in simulator.credentials.values())


async def test_the_port_is_free_after_stop(simulator: Simulator) -> None:
    """Stopping ends at once, stalled requests included."""
    other = Simulator()
    await other.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(other.urls["iam"].rsplit(":", 1)[1]))
    writer.write(b"GET " + other.urls["v2_open"].removeprefix(other.urls["iam"]).encode())
    writer.write(b" HTTP/1.1\r\nHost: x\r\nX-Simulate: stall\r\n\r\n")
    await asyncio.sleep(0.1)

    async with asyncio.timeout(5):
        await other.stop()
        assert await reader.read() == b""
    writer.close()


async def test_example_config(simulator: Simulator, tmp_path: Path) -> None:
    """The example is YAML with every kind of credential, whose secrets are files that only we may read."""
    config = yaml.safe_load(
        example_config(simulator.urls, simulator.credentials, tmp_path / 'se} #"crets', listen="127.0.0.1:9")
    )

    kinds = {credential["kind"] for credential in config["credentials"].values()}
    assert kinds == {"iam_token", "aksk_signature", "app_signature", "app_code", "app_key", "api_key", "none"}
    assert [route["path"] for route in config["routes"]] == [
        "/token",
        "/aksk",
        "/app",
        "/code",
        "/key",
        "/v2",
        "/maas",
        "/open",
    ]
    assert {route["credential"] for route in config["routes"]} <= set(config["credentials"])
    assert config["listen"] == "127.0.0.1:9"
    password = config["credentials"]["account-token"]["password"]["file"]
    assert Path(password).read_text().strip() == simulator.credentials["password"]
    for file in (tmp_path / 'se} #"crets').iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.read_text().strip() == simulator.credentials[file.name]


@pytest.mark.parametrize(("text", "value"), [("500ms", 0.5), ("2s", 2), ("1m30s", 90), ("24h", 86400)])
def test_durations(text: str, value: float) -> None:
    """A duration carries its unit."""
    assert seconds(text) == value


@pytest.mark.parametrize(("text", "value"), [("12MiB", 12582912), ("12MB", 12000000), ("none", None), ("512B", 512)])
def test_sizes(text: str, value: int | None) -> None:
    """A size carries its unit, or is none."""
    assert size_bytes(text) == value


def test_it_believes_nothing_of_the_gateway() -> None:
    """No module of the simulator imports anything of the gateway but the simulator."""
    imported = set()
    for path in Path(gateway.simulator.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
            elif isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)

    assert [name for name in imported if name.startswith("gateway") and not name.startswith("gateway.simulator")] == []
