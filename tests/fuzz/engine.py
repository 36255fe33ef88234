"""Many cases, one after the other on several lanes: what does something new is kept and changed further."""

import asyncio
import gc
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Answer, Case, Step, dump
from tests.fuzz.grammar import make, mutate, split
from tests.fuzz.oracle import Judgement, judge
from tests.fuzz.pair import Lane
from tests.fuzz.sequence import sequence

_LANES = 12
_POOL = 600  # cases of one lane that did something new
# Refusals of what is no message, or too much of one.
_MALFORMED = frozenset(
    {
        "Gateway.BadRequest",
        "Gateway.BodyTooLarge",
        "Gateway.HeadersTooLarge",
        "Gateway.UriTooLong",
        "Gateway.BadPath",
        "Gateway",
    }
)
_SEQUENCES = 0.4  # share of new cases whose exchanges are alike until they are not
_DIFFERENTIAL = 0.06  # share of cases that are played twice, whole and in pieces


@dataclass
class Progress:
    """What has been tried, and what came of it."""

    cases: int = 0
    exchanges: int = 0
    novel: int = 0
    findings: list[tuple[str, Path]] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    refused_though_sound: Counter[str] = field(default_factory=Counter)


class Engine:
    """Plays cases until told to stop; whatever breaks a promise is written to ``findings`` as a case file."""

    def __init__(self, seed: int, folder: Path, findings: Path, start: list[Case] | None = None) -> None:
        self.progress = Progress()
        self._seed = seed
        self._folder = folder
        self._findings = findings
        self._start = start or []
        self._kinds: Counter[str] = Counter()
        self._faults: list[str] = []

    async def run(self, seconds: float, tell: Callable[[Progress], None], *, cases: int | None = None) -> Progress:
        """Play for so long, or so many cases on each lane. ``tell`` hears of the progress every 2 seconds."""
        asyncio.get_running_loop().set_exception_handler(self._fault)
        until = time.monotonic() + seconds
        lanes = [asyncio.create_task(self._lane(number, until, cases)) for number in range(_LANES)]
        telling = asyncio.create_task(self._tell(tell))
        try:
            await asyncio.gather(*lanes)
        finally:
            telling.cancel()
            for lane in lanes:
                lane.cancel()
        gc.collect()  # a task whose exception nobody fetched says so only now
        await asyncio.sleep(0)
        if self._faults:
            self._report(Case([], []), self._faults, "task")
        return self.progress

    def _fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # Any: asyncio's own
        error = context.get("exception")
        places = [] if error is None else traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in reversed(places))
        self._faults.append(f"{context.get('message')}: {error!r} at {where}")

    async def _tell(self, tell: Callable[[Progress], None]) -> None:
        while True:
            await asyncio.sleep(2)
            tell(self.progress)

    async def _lane(self, number: int, until: float, cases: int | None) -> None:
        # Each lane has its own numbers and its own memory, so that a seed leads every lane the same way.
        random = Random(f"{self._seed}/{number}")
        pool = self._start[number::_LANES]
        seen: set[tuple[Any, ...]] = set()
        played = 0
        async with Lane(self._folder / f"lane-{number}") as lane:
            while time.monotonic() < until and (cases is None or played < cases):
                played += 1
                case_number = played * _LANES + number
                if pool and random.random() < 0.5:
                    case = mutate(random, random.choice(pool), case_number)
                else:
                    case = (sequence if random.random() < _SEQUENCES else make)(random, case_number)
                if random.random() < _DIFFERENTIAL:
                    await self._differential(lane, case, random)
                    continue
                judgement = await self._play(lane, case)
                if judgement.novelty not in seen:
                    seen.add(judgement.novelty)
                    self.progress.novel += 1
                    pool.append(case)
                    if len(pool) > _POOL:
                        del pool[random.randrange(len(pool))]

    async def _play(self, lane: Lane, case: Case) -> Judgement:
        faults = len(self._faults)
        seen = await lane.run(case)
        judgement = judge(case, seen)
        if any(status == 503 and code for status, code, _ in judgement.verdict["answers"]):
            await lane.renew()  # perhaps a credential is held for minutes, after some answers that spoke of signatures
        progress = self.progress
        progress.cases += 1
        progress.exchanges += max(len(judgement.verdict["answers"]), len(seen.seen), 1)
        for status, code, _ in judgement.verdict["answers"]:
            progress.statuses[code or str(status)] += 1
        for message in judgement.refused_though_sound:
            progress.refused_though_sound[message] += 1
        if len(self._faults) > faults:
            judgement.violations += self._faults[faults:]
            del self._faults[faults:]
        if judgement.violations:
            self._report(case, judgement.violations, "promise")
        return judgement

    async def _differential(self, lane: Lane, case: Case, random: Random) -> None:
        """The same bytes in one write and in many have the same verdict."""
        data = case.request
        if len(data) > 6000:
            return
        size = random.choice((1, 2, 3, 7, 50)) if len(data) < 600 else random.choice((29, 64))
        pieces = [Step(data[at : at + size]) for at in range(0, len(data), size)]
        ways = ([Step(data)], pieces, split(random, data))
        for patient in (False, True):  # a machine that is busy may look like silence
            verdicts = [outcome(await self._play(lane, _calm(case, writes, patient=patient))) for writes in ways]
            if all(same_outcome(verdicts[0], verdict) for verdict in verdicts[1:]):
                return
        one, many, some = verdicts
        self._report(_calm(case, pieces), [f"split: one write {one}, pieces of {size} {many}, random {some}"], "split")

    def _report(self, case: Case, violations: list[str], what: str) -> None:
        kind = re.sub(r"[0-9]+|'[^']*'|\"[^\"]*\"", "N", violations[0])[:80]
        if what == "split":
            kind = "split " + re.sub(r"c[0-9]+-|pieces of [0-9]+", "", violations[0])[:300]
        self._kinds[kind] += 1
        if self._kinds[kind] > 3:
            return
        self._findings.mkdir(parents=True, exist_ok=True)
        path = self._findings / f"{what}-{self._seed}-{self.progress.cases}.json"
        case.note = "; ".join(violations)[:1500]
        path.write_text(dump(case))
        self.progress.findings.append((violations[0], path))
        print(f"FOUND {path.name}: {violations[0][:400]}", flush=True)


def _calm(case: Case, writes: list[Step], *, patient: bool = True) -> Case:
    """The case without races: the caller stays, the upstream answers whole requests at once and well."""
    answers = [Answer([Step(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]) for _ in range(8)]
    return Case(writes, answers, "stay", patient=patient)


Outcome = tuple[tuple[tuple[Any, ...], ...], tuple[tuple[Any, ...], ...], str]  # Any: a status and texts


def outcome(judgement: Judgement) -> Outcome:
    """Answers, requests that arrived whole, and who ended it."""
    answers = tuple(tuple(each) for each in judgement.verdict["answers"])
    upstream = tuple(tuple(each) for each in judgement.verdict["upstream"] if each[2] == "whole")
    return answers, upstream, judgement.verdict["ended"]


def same_outcome(one: Outcome, other: Outcome) -> bool:
    """The verdict does not depend on how the bytes were split, but for what comes of time alone.

    A refusal that leaves before its body has come ends the connection; behind a body that is already there, the next
    request is still served. And a message that is wrong in two ways is refused for what was seen first.
    """
    shorter, longer = sorted((one, other), key=lambda each: len(each[0]))
    for each, its in zip(shorter[0], longer[0], strict=False):
        if each != its and not {each[1], its[1]} <= _MALFORMED:
            return False
    if len(shorter[0]) == len(longer[0]):
        return shorter[1] == longer[1]
    refused = bool(shorter[0]) and str(shorter[0][-1][1]).startswith("Gateway")
    return refused and shorter[2] == "eof" and shorter[1] == longer[1][: len(shorter[1])]
