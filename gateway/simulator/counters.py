"""What happened so far, for tests and for people who wonder whether their request arrived."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Counters:
    """Counts since the start, and the last request with its credentials masked."""

    requests: Counter[str] = field(default_factory=Counter)  # by family; - where there is none
    accepted: Counter[str] = field(default_factory=Counter)  # by kind of credential
    refused: Counter[str] = field(default_factory=Counter)  # by error_code
    faults: Counter[str] = field(default_factory=Counter)  # by word
    tokens_issued: int = 0
    keys_issued: int = 0
    iam_attempts: int = 0
    iam_requests_at: list[float] = field(default_factory=list)  # Unix time of each, also of those that met a fault
    in_flight: int = 0
    left: int = 0  # requests whose sender went away before the answer was complete
    last_request: dict[str, Any] | None = None  # Any: JSON

    def snapshot(self) -> dict[str, Any]:  # Any: JSON
        return {
            "requests": dict(self.requests),
            "accepted": dict(self.accepted),
            "refused": dict(self.refused),
            "faults": dict(self.faults),
            "tokens_issued": self.tokens_issued,
            "keys_issued": self.keys_issued,
            "iam_attempts": self.iam_attempts,
            "in_flight": self.in_flight,
            "left": self.left,
            "last_request": self.last_request,
        }
