"""A token, and why there is none."""

from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class Token:
    """What goes into the header, and until when the issuer says it holds (Unix time)."""

    value: bytes = field(repr=False)
    expiry: float


class Cause(Enum):
    """Why a fetch failed, as far as it decides how long to wait before the next."""

    TRANSIENT = "transient"  # network, 5xx, 429, an odd answer: it may well be gone in a second
    REFUSED = "refused"  # 400 or 403: somebody has to change something
    LOCK_OUT = "lock_out"  # 401: trying again with the same secret locks the user


class FetchFailed(Exception):
    """No token was obtained. ``reason`` is safe to log and to show: it quotes no answer and no foreign exception."""

    def __init__(
        self, reason: str, cause: Cause = Cause.TRANSIENT, *, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause
        self.retry_after_seconds = retry_after_seconds
