"""Gateways for tests: one inside the test's own loop, and one as the process that users run."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from raw_caller import Reply, ask

import gateway
from gateway.app import Gateway
from gateway.config import load
from gateway.credentials import kinds

# Where the gateway that is tested lies: processes run the same code that the tests import.
ROOT = Path(gateway.__file__).parents[1]
Document = dict[str, Any]  # Any: YAML


def route(name: str, upstream: str, credential: str = "none", **more: Any) -> Document:
    """A route at the path of its name."""
    return {"name": name, "path": f"/{name}", "upstream": upstream, "credential": credential, **more}


def document(*routes: Document, credentials: Document | None = None, **more: Any) -> Document:
    """A whole configuration on free ports, without the pause that a drain begins with."""
    process = {"drain_delay": "0s", **more.pop("process", {})}
    return {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "process": process,
        **({"credentials": credentials} if credentials else {}),
        "routes": list(routes),
        **more,
    }


class InProcess:
    """A started gateway of the test's own loop."""

    def __init__(self, gateway: Gateway, path: Path, log: Path, descriptor: int) -> None:
        self.gateway = gateway
        self.path = path  # of its configuration
        self.port = gateway.port
        self.admin_port = gateway.admin_port
        self.url = f"http://127.0.0.1:{gateway.port}"
        self._log = log
        self._descriptor: int | None = descriptor

    async def ask(self, method: str, target: str, fields: dict[str, str] | None = None, **more: Any) -> Reply:
        return await ask(self.port, method, target, fields, **more)

    async def metric(self, line: str) -> float:
        """The value of a sample, written as Prometheus writes it without the value; 0 where it is not there."""
        text = (await ask(self.admin_port, "GET", "/metrics", {"Connection": "close"})).body.decode()
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def status(self) -> Any:  # Any: JSON
        return (await ask(self.admin_port, "GET", "/status", {"Accept": "application/json"})).json()

    async def until_ready(self, seconds: float = 5) -> None:
        async with asyncio.timeout(seconds):
            while (await ask(self.admin_port, "GET", "/readyz")).status != 200:
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            await self.gateway.close()
            os.close(descriptor)

    async def access_log(self) -> list[dict[str, Any]]:  # Any: JSON
        """Stop, and return the lines of the access log."""
        await self.stop()
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@contextlib.asynccontextmanager
async def in_process(
    config: Document, folder: Path, environ: Mapping[str, str] | None = None
) -> AsyncIterator[InProcess]:
    """A gateway with this configuration. ``environ`` is all the environment that its secrets are read from."""
    folder.mkdir(exist_ok=True)
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    log = folder / "access.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    started = Gateway(load(path, kinds(), environ=environ or {}), access_log_fd=descriptor)
    await started.start()
    running = InProcess(started, path, log, descriptor)
    try:
        yield running
    finally:
        await running.stop()


class Process:
    """``modelarts-gateway serve`` as a user runs it, its two logs in files."""

    def __init__(self, popen: "subprocess.Popen[bytes]", folder: Path, path: Path) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.path = path  # of its configuration
        self._folder = folder
        self.port = 0
        self.admin_port = 0

    @property
    def stderr(self) -> str:
        return (self._folder / "stderr").read_text()

    @property
    def stdout(self) -> str:
        return (self._folder / "stdout").read_text()

    def access_log(self) -> list[dict[str, Any]]:  # Any: JSON
        return [json.loads(line) for line in self.stdout.splitlines()]

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def ask(self, method: str, target: str, fields: dict[str, str] | None = None, **more: Any) -> Reply:
        return await ask(self.port, method, target, fields, **more)

    async def status(self) -> Any:  # Any: JSON
        return (await ask(self.admin_port, "GET", "/status")).json()

    async def samples(self, name: str) -> dict[str, float]:
        """A metric's samples by their labels, as Prometheus writes them."""
        text = (await ask(self.admin_port, "GET", "/metrics")).body.decode()
        found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    async def total(self, name: str) -> float:
        """A metric's samples added up."""
        return sum((await self.samples(name)).values())

    async def workers(self) -> dict[int, int]:
        """The serving workers' process ids by number."""
        return {worker["worker"]: worker["pid"] for worker in (await self.status())["workers"]}

    async def ended(self, seconds: float = 15) -> int:
        """The exit status, once it has ended."""
        until = time.monotonic() + seconds
        while self._popen.poll() is None:
            if time.monotonic() > until:
                raise TimeoutError("the gateway did not end; its log: " + self.stderr)
            await asyncio.sleep(0.02)
        return self._popen.returncode

    async def says(self, text: str, seconds: float = 10) -> None:
        """Wait until the program's log holds ``text``."""
        until = time.monotonic() + seconds
        while text not in self.stderr:
            if time.monotonic() > until or self._popen.poll() is not None:
                raise TimeoutError(f"the log never said {text!r}: {self.stderr}")
            await asyncio.sleep(0.02)

    def memory_bytes(self, name: str = "VmHWM") -> int:
        """Resident memory: ``VmHWM`` the most there ever was, ``VmRSS`` now."""
        found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    async def close(self) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
            await self.ended()


# The fixtures that start gateways and close them after the test.
StartGateway = Callable[..., Awaitable[InProcess]]
StartProcess = Callable[..., Awaitable[Process]]


def _port(address: str) -> int:
    """0 for a Unix socket."""
    return 0 if address.startswith("unix:") else int(address.rpartition(":")[2])


# Below the ports that the kernel gives to outgoing connections (ip_local_port_range of ip(7)): one of those that is free
# now may be in use before the gateway has started, with three tests at a time and thousands of connections.
_PORTS = range(20000, 32768)


def free_port() -> int:
    """A port that was free a moment ago."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@contextlib.asynccontextmanager
async def as_process(
    config: Document | Path,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    *,
    wait: bool = True,
    program: Sequence[str] = ("-m", "gateway", "serve", "-c"),
) -> AsyncIterator[Process]:
    """The gateway as a process of its own; ports 0 become free ones. Ends only what it started.

    ``program`` is what Python is told to run; the path of the configuration follows it.
    """
    if isinstance(config, dict):
        for key in ("listen", "admin"):
            if config[key].endswith(":0"):
                config[key] = f"127.0.0.1:{free_port()}"
        path = folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
    else:
        path = config
        config = yaml.safe_load(path.read_text())
    assert isinstance(config, dict)
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        popen = subprocess.Popen(
            [sys.executable, "-W", "error", *program, str(path)],
            env={**kept, "PYTHONPATH": str(ROOT), **(environ or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    process = Process(popen, folder, path)
    try:
        process.port, process.admin_port = _port(config["listen"]), _port(config["admin"])
        if wait:
            await process.says(" serves ")
        yield process
    finally:
        await process.close()
