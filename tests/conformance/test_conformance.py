"""Every case of the suite against our gateway, run as a real process."""

import asyncio
from typing import cast

import pytest

from tests.conformance import cases as _registered
from tests.conformance.case import CASES, Case
from tests.conformance.runner import Outcome, run_cases
from tests.conformance.target import our_gateway

assert _registered.__all__

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> dict[str, Outcome]:
    """All selected cases at once: most of them only wait."""
    wanted: list[Case] = [
        cast(Case, item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and hasattr(item, "callspec")
    ]

    async def run() -> list[Outcome]:
        async with our_gateway() as lanes:
            return await run_cases(wanted, lanes)

    return {outcome.case.id: outcome for outcome in asyncio.run(run())}


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
def test_on_the_wire(case: Case, outcomes: dict[str, Outcome]) -> None:
    """What the case's title says, on real sockets."""
    outcome = outcomes[case.id]

    assert outcome.verdict == "pass", f"{case.title} ({case.source}): {outcome.detail}"
