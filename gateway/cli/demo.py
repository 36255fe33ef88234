"""Simulator and gateway together: a tour without an account."""

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.terminal import Failure, Terminal

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from gateway.simulator import Simulator

HELP = """\
Start the simulator, which verifies credentials as Huawei Cloud does, and the gateway with a configuration made for it. Send
one request per kind of credential and a few that are to be refused, print what happened, and keep running with curl lines to try.
Nothing beyond this machine is reached; no account is needed.
"""
EXAMPLE = """\
example:
  modelarts-gateway demo
  modelarts-gateway demo --once        exit 0 when everything went as it should, else 1: for CI
"""

_HOST = "127.0.0.1"
_PORTS = (8080, 8081)
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0

# For the tour only: end at once, and three routes on which something goes wrong in a way worth seeing.
_PROCESS = "process: {drain_delay: 0s, drain: 2s}\n"
_ROUTES = """\
  # for the refusals of the tour
  - {{name: hurried, path: /hurried, upstream: "{v2_open}", credential: open, limits: {{deadline: 500ms}}}}
  - {{name: wrong-address, path: /wrong-address, upstream: "{v1_iam}", credential: app-code}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--once."""
    parser.add_argument(
        "--once", action="store_true", help="stop after the tour; exit 1 if anything was not as it should be"
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when everything went as it should (or after Ctrl-C, but for a tour with --once), else 1."""
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(_until_stopped(once=arguments.once))
    return 1 if arguments.once else 0


async def _until_stopped(*, once: bool) -> int:
    """The demo until it ends or somebody ends it, in the middle of the tour as well; what was started is gone then."""
    terminal = Terminal()
    demo = asyncio.create_task(_demo(terminal, once=once), name="demo")

    def stop() -> None:
        if not demo.cancelling():  # an impatient second Ctrl-C does not cut the clearing up short
            demo.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        return await demo
    except asyncio.CancelledError:
        terminal.print()
        terminal.print("Stopped.")
        return 1 if once else 0


async def _demo(terminal: Terminal, *, once: bool) -> int:
    from gateway.cli import tour
    from gateway.simulator import Simulator

    with tempfile.TemporaryDirectory(prefix="modelarts-gateway-demo-") as name:
        folder = Path(name)
        async with Simulator() as simulator:
            terminal.print(f"simulator  {simulator.urls['iam']}  plays IAM, API Gateway, ModelArts and MaaS")
            listen, admin = _addresses(terminal)
            config = _write_config(folder, simulator, listen, admin)
            async with _gateway(config, folder, admin) as process:
                terminal.print(f"gateway    http://{listen}  holds the credentials; {config}")
                unexpected = await tour.take(f"http://{listen}", simulator, terminal)
                if once:
                    return _verdict(unexpected, terminal)
                _say_what_to_try(listen, admin, folder, simulator, terminal)
                await process.wait()
                raise Failure("the gateway ended by itself. The end of its log:", hint=_tail(folder / "gateway.log"))


def _addresses(terminal: Terminal) -> tuple[str, str]:
    """The usual ports, or free ones where they are taken."""
    addresses = []
    for port in _PORTS:
        free = port if _is_free(port) else _free_port()
        if free != port:
            terminal.print(f"           port {port} is taken on this machine, so {free} takes its place")
        addresses.append(f"{_HOST}:{free}")
    return addresses[0], addresses[1]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _write_config(folder: Path, simulator: "Simulator", listen: str, admin: str) -> Path:
    from gateway.simulator.example import example_config

    text = example_config(simulator.urls, simulator.credentials, folder / "secrets", listen=listen, admin=admin)
    path = folder / "gateway.yaml"
    path.write_text(_PROCESS + text + _ROUTES.format(**simulator.urls))
    return path


@contextlib.asynccontextmanager
async def _gateway(config: Path, folder: Path, admin: str) -> "AsyncIterator[Process]":
    """The gateway as its users run it: a process of its own, ready when the block begins and gone when it ends.

    Raises:
        Failure: it did not become ready; the message holds the end of its log.
    """
    with (folder / "access.log").open("wb") as access_log, (folder / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            "serve",
            "-c",
            str(config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=access_log,
            stderr=log,
            # Ctrl-C on a terminal goes to a whole process group. The gateway is ended by us, when nobody sends it requests.
            process_group=0,
        )
        try:
            if not await _ready(process, admin):
                raise Failure(
                    "the gateway did not become ready. The end of its log:", hint=_tail(folder / "gateway.log")
                )
            yield process
        finally:
            await _stop(process)


async def _ready(process: "Process", admin: str) -> bool:
    """Whether /readyz came to answer 200 before the process ended or time was up."""
    import aiohttp

    loop = asyncio.get_running_loop()
    end = loop.time() + _START_SECONDS
    async with aiohttp.ClientSession() as session:
        while process.returncode is None and loop.time() < end:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://{admin}/readyz") as response:
                    if response.status == 200:
                        return True
            await asyncio.sleep(0.05)
    return False


async def _stop(process: "Process") -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def _verdict(unexpected: list[str], terminal: Terminal) -> int:
    if unexpected:
        raise Failure(f"{len(unexpected)} of the requests did not go as they should", hint="\n".join(unexpected))
    terminal.print()
    terminal.print(terminal.paint("green", "Everything went as it should."))
    return 0


def _say_what_to_try(listen: str, admin: str, folder: Path, simulator: "Simulator", terminal: Terminal) -> None:
    iris = '{"data": {"req_data": [{"sepal_length": 3, "sepal_width": 1, "petal_length": 2.2, "petal_width": 4}]}}'
    chat = '{"stream": true, "messages": [{"role": "user", "content": "spring is near"}]}'
    command = f"{sys.executable} -m gateway" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    terminal.heading("try it yourself")
    for line in (
        f"curl -H 'Content-Type: application/json' -d '{iris}' http://{listen}/token",
        f"curl -F images=@README.md http://{listen}/app",
        f"curl -N -H 'Content-Type: application/json' -d '{chat}' http://{listen}/maas/v1/chat/completions",
        f"curl -i http://{listen}/nowhere",
        f"curl -i -H 'X-Simulate: status=503' http://{listen}/code",
        f"{command} explain -c {folder / 'gateway.yaml'} POST /aksk -d '{{}}'",
    ):
        terminal.print(f"  {line}")
    terminal.heading("look")
    terminal.table(
        [
            ("status page", f"http://{admin}/"),
            ("metrics", f"http://{admin}/metrics"),
            ("configuration", str(folder / "gateway.yaml")),
            ("access log", str(folder / "access.log")),
            ("simulator", f"{simulator.urls['admin']}/_simulator/state"),
        ]
    )
    terminal.print()
    terminal.print("Gateway and simulator keep running. Ctrl-C ends both and removes the files.")
