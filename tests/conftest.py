"""What tests of several folders start: gateways of their own, a fake upstream, the simulator."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_modelarts import FakeModelArts
from running import Document, InProcess, Process, StartGateway, StartProcess, as_process, in_process

from gateway.simulator import Options, Simulator


@pytest.fixture
async def fake() -> AsyncIterator[FakeModelArts]:
    """An upstream that answers with what it received, unless told otherwise."""
    async with FakeModelArts() as fake:
        yield fake


@pytest.fixture
async def start_gateway(tmp_path: Path) -> AsyncIterator[StartGateway]:
    """Starts gateways in the test's loop and closes them afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        count = 0

        async def start(config: Document, environ: Mapping[str, str] | None = None) -> InProcess:
            nonlocal count
            count += 1
            return await stack.enter_async_context(in_process(config, tmp_path / f"gateway-{count}", environ))

        yield start


@pytest.fixture
async def start_process(tmp_path: Path) -> AsyncIterator[StartProcess]:
    """Starts gateways as processes and ends them afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        count = 0

        async def start(config: Document | Path, environ: Mapping[str, str] | None = None, **more: Any) -> Process:
            nonlocal count
            count += 1
            folder = tmp_path / f"process-{count}"
            folder.mkdir()
            return await stack.enter_async_context(as_process(config, folder, environ, **more))

        yield start


@pytest.fixture
async def modelarts() -> AsyncIterator[Simulator]:
    """The simulator, with a chat model that thinks fast."""
    async with Simulator(Options(word_seconds=0.001)) as simulator:
        yield simulator
