"""Plays case files and shows everything that left: ``python -m tests.fuzz.replay FILE...``."""

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.fuzz.case import Case, load
from tests.fuzz.oracle import Judgement, judge
from tests.fuzz.pair import Lane, Observation


async def play(case: Case, folder: Path) -> tuple[Observation, Judgement]:
    """The case on a fresh gateway."""
    async with Lane(folder) as lane:
        seen = await lane.run(case)
        return seen, judge(case, seen)


def _show(case: Case, seen: Observation, judgement: Judgement) -> None:
    print(f"== {case.name}: {case.note[:300]}")
    print(f"sent     {seen.sent[:1500]!r} ({len(case.writes)} writes, then {case.after})")
    for each in seen.seen:
        request = bytes(each.link.buffer[each.begin :])
        print(f"upstream {request[:1200]!r} {each.read.verdict.value} {each.read.why}")
        print(f"said     {bytes(each.emitted)[:1200]!r} closed={each.closed} tainted={each.tainted}")
    print(f"received {seen.received[:1500]!r} {seen.ended}")
    print(f"verdict  {judgement.verdict}")
    for violation in judgement.violations:
        print(f"BROKEN   {violation}")


def main(paths: list[str]) -> int:
    broken = 0
    with tempfile.TemporaryDirectory(prefix="modelarts-gateway-fuzz-") as folder:
        for path in paths:
            case = load(Path(path))
            seen, judgement = asyncio.run(play(case, Path(folder)))
            broken += bool(judgement.violations)
            _show(case, seen, judgement)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
