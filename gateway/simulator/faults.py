"""Faults on request: words, comma separated, in the header ``X-Simulate`` or planned through the admin listener.

``slow=2s`` waits before the answer, ``pause=2s`` within it, ``retry-after=5`` adds that field. The answer becomes
``status=503`` (the documented error of that status) or a named one (``throttled``, ``expired-token`` …).
``stall``, ``reset``, ``close`` and ``garbage`` take the place of an answer; ``stall-mid-body``, ``reset-mid-body``
and ``close-mid-body`` cut it. ``early`` lets all this happen before the request's body is read.
Whoever hands out credentials knows ``no-token``, ``no-expiry``, ``already-expired``, ``empty`` and ``malformed``; IAM also
``domain-scoped``, ``two-tokens``, ``long-token`` (20 KB), ``endless-token`` (70 KB), ``odd-expiry`` (no date), ``plain-expiry``
(without fraction and zone), ``chunked``, ``locked-user``, ``wrong-password``, ``password-expired`` and ``no-access``; the
metadata service ``no-agency``.
"""

from dataclasses import dataclass, field
from typing import Any

from gateway.simulator.answers import NAMED, Refused, by_status, named
from gateway.simulator.quantities import seconds

HEADER = "X-Simulate"
INSTEAD = frozenset({"stall", "reset", "close", "garbage"})
MID_BODY = frozenset({"stall-mid-body", "reset-mid-body", "close-mid-body"})
IAM_DEVIATIONS = frozenset(
    {
        "no-token",
        "no-expiry",
        "domain-scoped",
        "already-expired",
        "empty",
        "malformed",
        "two-tokens",
        "long-token",
        "endless-token",
        "odd-expiry",
        "plain-expiry",
        "chunked",
        "no-agency",
    }
)


@dataclass(slots=True)
class Faults:
    """What shall go wrong with one request."""

    words: tuple[str, ...] = ()
    slow_seconds: float = 0.0
    pause_seconds: float = 0.0
    instead: str | None = None
    mid_body: str | None = None
    answer: str | None = None
    status: int | None = None
    retry_after: str | None = None
    deviation: str | None = None
    early: bool = False

    def refusal(self, family: str) -> Refused | None:
        """The refusal that was asked for, in the family's words."""
        if self.answer is None and self.status is None:
            return None
        found = named(self.answer, family) if self.answer is not None else by_status(self.status or 500, family)
        fields = found.fields + ((("Retry-After", self.retry_after),) if self.retry_after is not None else ())
        return Refused(found.status, found.code, found.message, fields)


def parse(text: str) -> Faults:
    """Read words of the module's docstring.

    Raises:
        Refused: 400 naming the word that is not known.
    """
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    faults = Faults(words)
    for word in words:
        name, _, value = word.partition("=")
        try:
            _apply(faults, name, value)
        except ValueError as error:
            raise Refused(400, "Simulator.UnknownFault", f"{word!r}: {error}") from error
    return faults


def _apply(faults: Faults, name: str, value: str) -> None:
    if name == "slow":
        faults.slow_seconds = seconds(value)
    elif name == "pause":
        faults.pause_seconds = seconds(value)
    elif name == "status":
        faults.status = int(value)
        if not 400 <= faults.status <= 599:
            raise ValueError("a status is between 400 and 599")
    elif name == "retry-after":
        faults.retry_after = value
    elif value:
        raise ValueError("this word takes no value")
    elif name in NAMED:
        faults.answer = name
    elif name in INSTEAD:
        faults.instead = name
    elif name in MID_BODY:
        faults.mid_body = name
    elif name in IAM_DEVIATIONS:
        faults.deviation = name
    elif name == "early":
        faults.early = True
    else:
        known = sorted(
            {"slow", "pause", "status", "retry-after", "early", *INSTEAD, *MID_BODY, *IAM_DEVIATIONS, *NAMED}
        )
        raise ValueError(f"not a fault; known are {', '.join(known)}")


@dataclass(slots=True)
class Planned:
    """A fault that waits for requests of a family (None: any) whose target holds ``path``; ``times`` None: for ever."""

    fault: str
    family: str | None = None
    path: str | None = None
    times: int | None = None

    def fits(self, family: str, target: str) -> bool:
        return self.family in {None, family} and (self.path is None or self.path in target)


@dataclass(slots=True)
class Plan:
    """Faults planned for requests to come; the first that fits is taken."""

    planned: list[Planned] = field(default_factory=list)

    def add(self, fault: str, *, family: str | None = None, path: str | None = None, times: int | None = None) -> None:
        """Plan a fault for the next ``times`` requests that fit.

        Raises:
            Refused: 400, a word is not known.
        """
        parse(fault)
        self.planned.append(Planned(fault, family, path, times))

    def take(self, family: str, target: str, header: str | None) -> Faults:
        """The faults of one request: those of its header, else those planned.

        Raises:
            Refused: 400, a word of the header is not known.
        """
        if header is not None:
            return parse(header)
        for planned in self.planned:
            if planned.fits(family, target):
                if planned.times is not None:
                    planned.times -= 1
                    if planned.times <= 0:
                        self.planned.remove(planned)
                return parse(planned.fault)
        return Faults()

    def clear(self) -> None:
        self.planned.clear()

    def listing(self) -> list[dict[str, Any]]:  # Any: JSON
        return [{"fault": p.fault, "family": p.family, "path": p.path, "times": p.times} for p in self.planned]
