"""Runs cases over lanes: side by side where they only wait, one by one where they measure."""

import asyncio
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass

from tests.conformance.bench import Bench, Lane
from tests.conformance.case import Case, Failed, NotApplicable


@dataclass(frozen=True)
class Outcome:
    """``verdict`` is pass, fail, broken (the case itself failed) or not applicable."""

    case: Case
    verdict: str
    detail: str
    seconds: float


async def run_case(case: Case, lane: Lane) -> Outcome:
    started = time.monotonic()
    lane.upstream.reset()
    verdict, detail = "pass", ""
    try:
        bench = Bench(lane, case.variants)
    except NotApplicable as reason:
        return Outcome(case, "not applicable", str(reason), 0.0)
    try:
        async with asyncio.timeout(case.seconds):
            await case.run(bench)
            bench.conclude()
    except Failed as error:
        verdict, detail = "fail", str(error)
        if lane.upstream.violations:  # the cause of whatever else went wrong
            detail += f"; what left is not strict HTTP: {lane.upstream.violations[0]}"
    except NotApplicable as reason:
        verdict, detail = "not applicable", str(reason)
    except TimeoutError:
        verdict, detail = "fail", f"the case took longer than {case.seconds} s"
    except Exception:
        verdict, detail = "broken", traceback.format_exc()
    finally:
        await bench.close()
        await asyncio.sleep(0.01 if lane.ours else 0.03)  # until the proxy has heard of the ends
    return Outcome(case, verdict, detail, time.monotonic() - started)


async def run_cases(cases: Iterable[Case], lanes: list[Lane]) -> list[Outcome]:
    """Every case once. Lanes are servers of a queue; what must be alone comes last."""
    together = [case for case in cases if not case.alone]
    alone = [case for case in cases if case.alone]
    # The longest first, so that none of them begins when the others have ended.
    waiting = sorted(together, key=lambda case: -case.seconds)
    outcomes: list[Outcome] = []

    async def work(lane: Lane) -> None:
        while waiting:
            outcomes.append(await run_case(waiting.pop(0), lane))

    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(work(lane))
    return outcomes + [await run_case(case, lanes[0]) for case in alone]
