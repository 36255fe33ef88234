"""A simulator on free ports whose clock a test can move."""

from collections.abc import AsyncIterator

import pytest

from gateway.simulator import Options, Simulator

from .senders import JSON, Wall, send, token_request


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def options() -> Options:
    return Options(word_seconds=0.001)


@pytest.fixture
async def simulator(options: Options, wall: Wall) -> AsyncIterator[Simulator]:
    simulator = Simulator(options, wall=wall)
    async with simulator:
        yield simulator


@pytest.fixture
async def token(simulator: Simulator) -> str:
    """A fresh token with the project's scope."""
    reply = await send(
        simulator.urls["iam"] + "/v3/auth/tokens?nocatalog=true",
        "POST",
        [("Content-Type", JSON)],
        token_request(simulator.credentials),
    )
    return reply.fields["x-subject-token"]
