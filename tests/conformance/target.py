"""Targets: our gateway as a real process, or any other proxy by command."""

import asyncio
import contextlib
import os
import shlex
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.conformance.bench import Lane
from tests.conformance.upstream import Upstream

BASE = b"/base"
_SECRET = "conformance-secret-7f3a"

# What each kind of route of ours says besides path, upstream and credential.
_OURS = {
    "plain": "limits: {body: none, deadline: 30s, idle: 20s}",
    "limit": "limits: {body: 64KiB, deadline: 10s}",
    "quick": "limits: {deadline: 1s}",
    "idle": "limits: {idle: 500ms, deadline: 10s}",
    "first": "limits: {first_byte: 500ms, deadline: 10s}",
    "ws": "websocket: true, limits: {deadline: 1s, idle: 5s}",
    "idempotent": "retry: {attempts: 2, idempotent: true}",
    "post": "methods: [POST, PUT]",
    "busy": "limits: {in_flight: 1}",
    "rate": "limits: {rate: 1/s burst 1}",
    "breaker": "breaker: {failures: 2, open: 30s}",
    "cors": 'cors: {origins: ["https://console.example.com"]}',
    "forwarded": "forwarded: true",
    "signed": "limits: {deadline: 10s}",
    "streamed": "replay: none, limits: {body: none, deadline: 30s}",
    "open": "limits: {deadline: 10s}",
    "unready": "limits: {deadline: 2s}",
    "dead": "limits: {connect: 1s, deadline: 5s}",
}
_GUARDED = ("guarded", "private")
ALPHA, BETA = b"alpha-token-51c9", b"beta-token-77d0"
_CREDENTIALS = {"signed": "signature", "streamed": "signature", "open": "none", "unready": "token"}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def _answers(port: int, process: asyncio.subprocess.Process, seconds: float = 15.0) -> None:
    """Wait until something listens.

    Raises:
        RuntimeError: the process ended, or nothing does.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        if process.returncode is not None:
            raise RuntimeError(f"the proxy ended with status {process.returncode}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            await writer.wait_closed()
            return
    raise RuntimeError(f"nothing listens on port {port} after {seconds} s")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _our_file(port: int, admin: int, upstreams: list[Upstream], dead: int) -> str:
    lines = [
        f"listen: 127.0.0.1:{port}",
        f"admin: 127.0.0.1:{admin}",
        "process: {head: 2s, head_bytes: 64KiB, keep_alive: 20s, drain: 1s, drain_delay: 0s, in_flight: 2000}",
        "credentials:",
        "  code: {kind: app_code, app_code: {env: CONFORMANCE_SECRET}}",
        "  signature: {kind: aksk_signature, access_key: {env: CONFORMANCE_KEY}, secret_key: {env: CONFORMANCE_SECRET}}",
        f'  token: {{kind: iam_token, iam_url: "http://127.0.0.1:{dead}", project: p, domain: d, user: u,'
        " password: {env: CONFORMANCE_SECRET}}",
        "routes:",
    ]
    for number, upstream in enumerate(upstreams):
        for variant, more in _OURS.items():
            to = dead if variant == "dead" else upstream.port
            lines.append(
                f"  - {{name: {variant}-{number}, path: /{variant}-{number},"
                f' upstream: "http://127.0.0.1:{to}{BASE.decode()}", credential: {_CREDENTIALS.get(variant, "code")}, {more}}}'
            )
        lines.append(
            f"  - {{name: deep-{number}, path: /plain-{number}/deep,"
            f' upstream: "http://127.0.0.1:{upstream.port}/deep", credential: code}}'
        )
    return "\n".join(lines) + "\n"


def _guarded_file(port: int, admin: int, upstreams: list[Upstream]) -> str:
    """A second gateway, which knows its callers: ``alpha`` may use the guarded routes, ``beta`` all."""
    lines = [
        f"listen: 127.0.0.1:{port}",
        f"admin: 127.0.0.1:{admin}",
        "process: {head: 2s, drain: 1s, drain_delay: 0s}",
        "credentials: {code: {kind: app_code, app_code: {env: CONFORMANCE_SECRET}}}",
        "callers:",
        f"  - {{name: alpha, token: {{env: CONFORMANCE_ALPHA}}, routes: [{', '.join(f'guarded-{n}' for n in range(len(upstreams)))}]}}",
        '  - {name: beta, token: {env: CONFORMANCE_BETA}, routes: ["*"]}',
        "routes:",
    ]
    lines += [
        f"  - {{name: {variant}-{number}, path: /{variant}-{number},"
        f' upstream: "http://127.0.0.1:{upstream.port}{BASE.decode()}", credential: code}}'
        for number, upstream in enumerate(upstreams)
        for variant in _GUARDED
    ]
    return "\n".join(lines) + "\n"


@contextlib.asynccontextmanager
async def _process(text: str, port: int, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A gateway of ours with this configuration, until it is no longer needed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.yaml"
        file.write_text(text)
        log = Path(os.environ.get("CONFORMANCE_LOG", folder)) / f"{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "import sys; from gateway.cli import main; sys.exit(main())",
                "serve",
                "-c",
                str(file),
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "CONFORMANCE_KEY": "conformance-key",
                    "CONFORMANCE_SECRET": _SECRET,
                    "CONFORMANCE_ALPHA": ALPHA.decode(),
                    "CONFORMANCE_BETA": BETA.decode(),
                },
            )
        try:
            await _answers(port, process)
        except RuntimeError as error:
            await _end(process)
            raise RuntimeError(f"{error}: {log.read_text(errors='replace')[-2000:]}") from None
        try:
            yield process
        finally:
            await _end(process)


@contextlib.asynccontextmanager
async def our_gateway(lanes: int = 8) -> AsyncIterator[list[Lane]]:
    """One process of ours with a set of routes for each lane, and one that knows its callers."""
    upstreams = [Upstream() for _ in range(lanes)]
    for upstream in upstreams:
        await upstream.start()
    port, admin, dead, guarded = free_port(), free_port(), free_port(), free_port()
    async with contextlib.AsyncExitStack() as stack:
        for upstream in upstreams:
            stack.push_async_callback(upstream.close)
        process, _ = await asyncio.gather(
            stack.enter_async_context(_process(_our_file(port, admin, upstreams, dead), port, "gateway")),
            stack.enter_async_context(_process(_guarded_file(guarded, free_port(), upstreams), guarded, "guarded")),
        )
        yield [
            Lane(
                "127.0.0.1",
                port,
                {variant: f"/{variant}-{number}".encode() for variant in (*_OURS, *_GUARDED)},
                BASE,
                (b"X-Apig-AppCode", _SECRET.encode()),
                upstream,
                process.pid,
                ours=True,
                admin_port=admin,
                ports=dict.fromkeys(_GUARDED, guarded),
            )
            for number, upstream in enumerate(upstreams)
        ]


@contextlib.asynccontextmanager
async def other_proxy(
    command: str, url: str, base: str, credential: str | None, variants: list[str], lanes: int
) -> AsyncIterator[list[Lane]]:
    """One process for each lane. ``{port}``, ``{admin}``, ``{upstream}``, ``{dead}``, ``{folder}`` are filled into
    ``command``, ``{port}`` and ``{variant}`` into ``url``."""
    found: list[Lane] = []
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in range(lanes):
            upstream = Upstream()
            await upstream.start()
            stack.push_async_callback(upstream.close)
            own = folder / str(number)
            own.mkdir()
            own.chmod(0o777)
            port = free_port()
            values = {"port": port, "admin": free_port(), "upstream": upstream.port, "dead": free_port(), "folder": own}
            output = stack.enter_context((own / "log").open("wb"))
            process = await asyncio.create_subprocess_exec(
                *(word.format_map(values) for word in shlex.split(command)), stdout=output, stderr=output
            )
            stack.push_async_callback(_end, process)
            try:
                await _answers(port, process)
            except RuntimeError as error:
                raise RuntimeError(f"{error}: {(own / 'log').read_text(errors='replace')[-2000:]}") from None
            prefixes = {}
            for variant in variants if "{variant}" in url else variants[:1]:
                path = "/" + url.format(port=port, variant=variant).partition("://")[2].partition("/")[2]
                prefixes[variant] = path.rstrip("/").encode()
            name, _, value = (credential or "").partition(":")
            pair = (name.strip().encode(), value.strip().encode()) if credential else None
            found.append(Lane("127.0.0.1", port, prefixes, base.encode(), pair, upstream, process.pid, ours=False))
        yield found
