"""One case: the bytes of a caller, the bytes of an upstream, and when each of them is written.

As a file it is JSON that people can read: every string is Latin-1 text of the bytes, one string for each write.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# How a caller ends: keeps its side open, says that it is done sending, leaves, or resets.
AFTER = ("stay", "half-close", "close", "reset")
# How an upstream ends an answer.
THEN = ("keep", "close", "half-close", "reset")
# An upstream answers once the request is whole, or as soon as it has the head.
WHEN = ("body", "head")


@dataclass
class Step:
    """Bytes of one write, behind a pause."""

    data: bytes
    wait_ms: int = 0


@dataclass
class Answer:
    """What the upstream says to one request. ``later`` is written once the answer was over, when nobody asked."""

    steps: list[Step]
    when: str = "body"
    then: str = "keep"
    later: bytes = b""


@dataclass
class Case:
    """``clean``: nothing in it is wrong and both sides stay, so that everything must arrive as it was sent."""

    writes: list[Step]
    answers: list[Answer]
    after: str = "stay"
    clean: bool = False
    patient: bool = False  # silence is waited out for seconds
    fresh: bool = False  # on new connections to the upstream: old ones have stopped looking for what is usual there
    name: str = ""
    note: str = ""
    expect: dict[str, Any] = field(default_factory=dict)  # Any: JSON; see ``verdict`` in oracle.py

    @property
    def request(self) -> bytes:
        return b"".join(step.data for step in self.writes)


def _steps_out(steps: list[Step]) -> list[Any]:  # Any: JSON
    written: list[Any] = []
    for step in steps:
        if step.wait_ms:
            written.append({"wait_ms": step.wait_ms})
        text = step.data.decode("latin-1")
        if len(text) > 400 and len(set(text)) == 1:
            written.append({"repeat": text[0], "times": len(text)})
        else:
            written.append(text)
    return written


def _steps_in(written: list[Any]) -> list[Step]:  # Any: JSON
    """Strings are one write each; ``{"repeat": …, "times": …}`` is a long one, ``{"wait_ms": …}`` a pause before the next."""
    steps = []
    wait_ms = 0
    for each in written:
        if isinstance(each, dict) and "wait_ms" in each:
            wait_ms = int(each["wait_ms"])
            continue
        text = each["repeat"] * each["times"] if isinstance(each, dict) else each
        steps.append(Step(text.encode("latin-1"), wait_ms))
        wait_ms = 0
    return steps


def dump(case: Case) -> str:
    """The case as its file's text."""
    return (
        json.dumps(
            {
                "note": case.note,
                "request": _steps_out(case.writes),
                "after": case.after,
                "answers": [
                    {
                        "when": answer.when,
                        "write": _steps_out(answer.steps),
                        "then": answer.then,
                        **({"later": answer.later.decode("latin-1")} if answer.later else {}),
                    }
                    for answer in case.answers
                ],
                "clean": case.clean,
                **({"patient": True} if case.patient else {}),
                **({"fresh": True} if case.fresh else {}),
                "expect": case.expect,
            },
            indent=1,
        )
        + "\n"
    )


def load(path: Path) -> Case:
    """The case of a file."""
    found = json.loads(path.read_text())
    return Case(
        writes=_steps_in(found["request"]),
        answers=[
            Answer(
                _steps_in(each["write"]),
                each.get("when", "body"),
                each.get("then", "keep"),
                each.get("later", "").encode("latin-1"),
            )
            for each in found["answers"]
        ],
        after=found.get("after", "stay"),
        clean=found.get("clean", False),
        patient=found.get("patient", False),
        fresh=found.get("fresh", False),
        name=path.stem,
        note=found.get("note", ""),
        expect=found.get("expect", {}),
    )
