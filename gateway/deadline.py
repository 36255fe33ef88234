"""An instant by which something must have ended, made once and handed down."""

import math
from dataclasses import dataclass
from typing import Self


@dataclass(slots=True)
class Deadline:
    """An instant of ``time.monotonic()``; ``math.inf`` never passes. ``setting`` is what set it."""

    instant: float
    setting: str = "limits.deadline"

    @classmethod
    def after(cls, seconds: float | None, now: float, setting: str = "limits.deadline") -> Self:
        """The instant ``seconds`` from ``now``; ``None`` is no deadline."""
        return cls(math.inf if seconds is None else now + seconds, setting)

    def remaining_seconds(self, now: float) -> float:
        """Seconds left, never negative; ``math.inf`` without a deadline."""
        return max(0.0, self.instant - now)

    def passed(self, now: float) -> bool:
        return now >= self.instant
