"""The scrape, as Prometheus' own tool judges it."""

import asyncio
import shutil
import subprocess

import pytest
from fake_modelarts import FakeModelArts, says
from raw_caller import Caller, ask, request_bytes
from running import StartProcess, document, route

from flows.setups import environ, everything
from gateway.simulator import Simulator


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_promtool_finds_nothing(start_process: StartProcess, modelarts: Simulator, workers: int) -> None:
    """After requests of all kinds, good and bad, ``promtool check metrics`` has no complaint."""
    process = await start_process(everything(modelarts, workers=workers), environ(modelarts))
    for target in ("/token/echo", "/aksk/echo", "/code/echo", "/nowhere", "/maas/v1/models", "/%"):
        await ask(process.port, "GET", target)
    async with Caller(process.port) as caller:  # one that leaves
        await caller.send(request_bytes("GET", "/code/echo"))

    scrape = await ask(process.admin_port, "GET", "/metrics")
    checked = await asyncio.to_thread(
        subprocess.run, ["promtool", "check", "metrics"], input=scrape.body, capture_output=True, check=False
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    assert scrape.get("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"


async def test_trace_context_passes(start_process: StartProcess, fake: FakeModelArts) -> None:
    """``traceparent`` and ``tracestate`` reach the upstream as they came, and its own come back."""
    fake.behaviour = says("200 OK", b"ok", "traceresponse: 00-ab-cd-01")
    process = await start_process(document(route("r", fake.url)))
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "rojo=1,congo=2"}

    reply = await ask(process.port, "GET", "/r", trace)

    assert {name: fake.last.get(name) for name in trace} == trace
    assert reply.get("traceresponse") == "00-ab-cd-01"
