"""gateway.systemd and the unit: what a service manager is told, and what the unit lets the gateway do."""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fake_modelarts import FakeModelArts
from running import StartProcess, document, route

from gateway import systemd

UNIT = Path(__file__).parents[1] / "deploy/systemd/modelarts-gateway.service"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


class Manager:
    """A service manager's end of the notification socket."""

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(path)
        self._sock.setblocking(False)

    async def told(self, seconds: float = 15) -> dict[str, str]:
        """The next notification."""
        async with asyncio.timeout(seconds):
            text = (await asyncio.get_running_loop().sock_recv(self._sock, 4096)).decode()
        return dict(line.split("=", 1) for line in text.splitlines())

    def close(self) -> None:
        self._sock.close()


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_what_a_manager_is_told(
    start_process: StartProcess, fake: FakeModelArts, tmp_path: Path, workers: int
) -> None:
    """Ready once it listens, reloading and ready again, stopping."""
    manager = Manager(str(tmp_path / "notify"))
    process = await start_process(
        document(route("r", fake.url), workers=workers), {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    )

    started = await manager.told()
    process.signal(signal.SIGHUP)
    reloading, reloaded = await manager.told(), await manager.told()
    process.signal(signal.SIGTERM)
    stopping = await manager.told()
    manager.close()

    assert (started["READY"], reloaded["READY"], stopping["STOPPING"]) == ("1", "1", "1")
    assert reloading["RELOADING"] == "1"
    assert int(reloading["MONOTONIC_USEC"]) > 0
    assert await process.ended() == 0


async def test_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leading @ stands for Linux's names without a file."""
    manager = Manager("\0modelarts-gateway-test")
    monkeypatch.setenv("NOTIFY_SOCKET", "@modelarts-gateway-test")

    systemd.ready("serving")

    assert await manager.told() == {"READY": "1", "STATUS": "serving"}
    manager.close()


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "not an address"])
def test_no_manager(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Without one that listens nothing happens."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)

    systemd.ready("serving")


@needs_systemd
def test_the_unit_is_sound(tmp_path: Path) -> None:
    """systemd takes every line of it."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/modelarts-gateway/bin/modelarts-gateway", sys.executable))

    finished = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)

    assert (finished.returncode, finished.stderr) == (0, "")


@needs_systemd
def test_the_unit_is_hardened() -> None:
    """systemd's own measure, from 0 (may do nothing) to 10 (may do everything), stays at 2 or below."""
    finished = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout[-400:]


def test_the_unit_leaves_time_to_drain() -> None:
    """systemd kills later than a drain with the defaults ends."""
    from gateway.config.shapes import Process

    process = Process()
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith("TimeoutStopSec=")]

    assert int(line.removeprefix("TimeoutStopSec=").removesuffix("s")) > process.drain_delay_seconds + (
        process.drain_seconds or 0
    )
