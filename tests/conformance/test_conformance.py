"""Every case of the suite against our gateway, run as a real process."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.conformance import cases as _registered
from tests.conformance.case import CASES, Case
from tests.conformance.runner import Outcome, run_cases
from tests.conformance.target import our_gateway

assert _registered.__all__

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Outcome]]:
    """All selected cases at once: most of them only wait."""
    wanted: list[Case] = [
        item.callspec.params["case"]
        for item in request.session.items
        if item.module is request.module and hasattr(item, "callspec") and "case" in item.callspec.params
    ]

    async def run() -> list[Outcome]:
        async with our_gateway() as lanes:
            return await run_cases(wanted, lanes)

    yield {outcome.case.id: outcome for outcome in asyncio.run(run())}


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
def test_on_the_wire(case: Case, outcomes: dict[str, Outcome]) -> None:
    """What the case's title says, on real sockets."""
    outcome = outcomes[case.id]

    assert outcome.verdict == "pass", f"{case.title} ({case.source}): {outcome.detail}"
