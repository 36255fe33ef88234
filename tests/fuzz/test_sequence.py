"""Sequences come as far as they are meant to, and convict a reader that takes what is sudden for what was usual."""

from pathlib import Path
from random import Random

import pytest

from gateway.wire import alike
from gateway.wire.response_head import ResponseHead
from tests.fuzz.case import dump, load
from tests.fuzz.oracle import Judgement, judge
from tests.fuzz.pair import Lane
from tests.fuzz.sequence import sequence

CORPUS = Path(__file__).parent / "corpus"


async def played(name: str, folder: Path) -> Judgement:
    case = load(CORPUS / f"{name}.json")
    case.patient = False  # what a broken reader leaves open says nothing more
    async with Lane(folder) as lane:
        return judge(case, await lane.run(case))


def test_a_seed_makes_the_same_sequences_again() -> None:
    """Everything comes from the one Random."""
    first, again = Random(7), Random(7)

    assert [dump(sequence(first, number)) for number in range(50)] == [
        dump(sequence(again, number)) for number in range(50)
    ]


async def test_answers_are_read_by_what_varies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one answer in ten takes the short way, and nothing that leaves breaks a promise."""
    read_varying = alike.ResponseHeads._read_varying
    found: list[ResponseHead | None] = []

    def counted(heads: alike.ResponseHeads, head: bytes) -> ResponseHead | None:
        found.append(read_varying(heads, head))
        return found[-1]

    monkeypatch.setattr(alike.ResponseHeads, "_read_varying", counted)
    random, answers = Random(1), 0
    async with Lane(tmp_path) as lane:
        for number in range(60):
            case = sequence(random, number)
            judgement = judge(case, await lane.run(case))
            answers += len(judgement.verdict["answers"])
            assert judgement.violations == []

    assert sum(each is not None for each in found) > answers / 10


async def test_an_unchecked_value_is_convicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that lets control bytes through in what varies is found out."""
    monkeypatch.setattr(alike, "IN_LINES", bytes(range(256)))

    judgement = await played("answer-alike-then-control-byte", tmp_path)

    assert any("malformed" in violation for violation in judgement.violations), judgement.violations


async def test_a_length_of_another_answer_is_convicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that takes the length of an answer before it is found out."""
    monkeypatch.setattr(alike, "announced_length", lambda value: 12)  # the second answer's

    judgement = await played("answer-alike-then-length-signed", tmp_path)

    assert any("looks whole" in violation or "body" in violation for violation in judgement.violations)
