"""How the running program reaches an upstream: at which address, believing whom, for how long; and how long it keeps callers."""

import asyncio
import socket
import ssl
import time
from pathlib import Path

import trustme
from fake_modelarts import FakeModelArts
from raw_caller import Caller, request_bytes
from running import StartProcess, document, free_port, route


async def test_addresses_and_authorities(start_process: StartProcess, tmp_path: Path) -> None:
    """``connection.address`` is dialled while TLS and Host keep the URL's name; only ``connection.ca`` makes it believed."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("service.example").configure_cert(context)
    async with FakeModelArts(tls=context) as fake:
        there = {"address": f"127.0.0.1:{fake.port}"}
        ca = {"ca": str(tmp_path / "ca.crt")}
        process = await start_process(
            document(
                route("r", "https://service.example", connection=there | ca),
                route("unknown", "https://service.example", connection=there),
                route("other", "https://other.example", connection=there | ca),
            )
        )

        replies = [await process.ask("GET", target) for target in ("/r", "/unknown", "/other")]

    assert [reply.status for reply in replies] == [200, 502, 502]
    assert {reply.proxy_error for reply in replies[1:]} == {"tls_certificate_error"}
    assert [received.get("Host") for received in fake.received] == ["service.example"]


async def test_connect(start_process: StartProcess) -> None:
    """A connection that does not come about within ``limits.connect`` is a 504 that names it; ``none`` waits for the deadline."""
    once = {"attempts": 1}
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects, and nobody shakes hands
        upstream = f"https://127.0.0.1:{silent.getsockname()[1]}"
        process = await start_process(
            document(
                route("short", upstream, limits={"connect": "200ms"}, retry=once),
                route("none", upstream, limits={"connect": "none", "deadline": "500ms"}, retry=once),
                route("refused", f"http://127.0.0.1:{free_port()}"),
            )
        )
        began = time.monotonic()
        asked = (process.ask("GET", f"/{name}") for name in ("short", "none", "refused"))
        short, none, refused = await asyncio.gather(*asked)
        took = time.monotonic() - began

    assert 0.5 <= took < 3
    assert (short.status, short.code, short.details) == (504, "Gateway.UpstreamTimeout", "limits.connect")
    assert (none.status, none.code, none.details) == (504, "Gateway.DeadlineExceeded", "limits.deadline")
    assert (refused.status, refused.proxy_error) == (502, "connection_refused")


async def test_idle_callers(start_process: StartProcess, fake: FakeModelArts) -> None:
    """An idle connection of a caller is kept for ``process.keep_alive`` and then closed."""
    process = await start_process(document(route("r", fake.url), process={"keep_alive": "600ms"}))

    async with Caller(process.port) as caller:
        for pause in (0.3, 0.0):
            await caller.send(request_bytes("GET", "/r"))
            assert (await caller.reply()).status == 200
            await asyncio.sleep(pause)
        began = time.monotonic()
        async with asyncio.timeout(5):
            assert await caller.closed()

    assert 0.4 < time.monotonic() - began < 3
