"""What a case is, and the registry of all of them."""

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conformance.bench import Bench


class Severity(enum.IntEnum):
    """The weight of a failure: credentials, other people's answers or the process; one request; form."""

    MINOR = 1
    MAJOR = 3
    CRITICAL = 10


class Failed(Exception):
    """The proxy did what the case forbids; the message says what came."""


class NotApplicable(Exception):
    """This target has no such thing."""


Run = Callable[["Bench"], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """``run`` raises Failed. ``alone``: not beside other cases, because it measures. ``variant``: the route it needs."""

    id: str
    title: str
    source: str
    severity: Severity
    attacks: str  # "request", "answer", "both"
    run: Run
    variants: tuple[str, ...] = ("plain",)
    alone: bool = False
    slow: bool = False
    seconds: float = 20.0

    @property
    def group(self) -> str:
        return self.id.partition("/")[0]


CASES: dict[str, Case] = {}


def add(case: Case) -> None:
    assert case.id not in CASES, case.id
    CASES[case.id] = case


def case(
    id: str,
    title: str,
    source: str,
    severity: Severity = Severity.MAJOR,
    *,
    attacks: str = "request",
    variants: tuple[str, ...] = ("plain",),
    alone: bool = False,
    slow: bool = False,
    seconds: float = 20.0,
) -> Callable[[Run], Run]:
    """Register a function as a case."""

    def register(run: Run) -> Run:
        add(Case(id, title, source, severity, attacks, run, variants, alone, slow, seconds))
        return run

    return register
