"""Every case that fuzzing found, or that was worth keeping, played again: the corpus only grows."""

from pathlib import Path

import pytest

from tests.fuzz.case import Case, Step, load
from tests.fuzz.oracle import Judgement, judge
from tests.fuzz.pair import Lane

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))
# Split into single bytes only where that takes no time.
_BYTEWISE_BYTES = 700


async def played(case: Case, folder: Path) -> Judgement:
    async with Lane(folder) as lane:
        return judge(case, await lane.run(case))


def check(judgement: Judgement, expect: dict[str, object]) -> None:
    assert judgement.violations == []
    assert {name: judgement.verdict[name] for name in expect} == expect


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
async def test_as_written(path: Path, tmp_path: Path) -> None:
    """Nothing that left on either side breaks a promise, and the verdict is the one that the file expects."""
    case = load(path)

    check(await played(case, tmp_path), case.expect)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in CORPUS
        if (case := load(path)).expect and case.after == "stay" and len(case.request) <= _BYTEWISE_BYTES
    ],
    ids=lambda path: path.stem,
)
async def test_byte_by_byte(path: Path, tmp_path: Path) -> None:
    """The same bytes, written one by one, have the same verdict; only what is cut off may have come further upstream."""
    case = load(path)
    case.writes = [
        Step(step.data[at : at + 1], 0 if at else step.wait_ms) for step in case.writes for at in range(len(step.data))
    ]

    judgement = await played(case, tmp_path)
    for verdict in (judgement.verdict, case.expect):
        verdict["upstream"] = [each for each in verdict["upstream"] if each[2] == "whole"]

    check(judgement, case.expect)
