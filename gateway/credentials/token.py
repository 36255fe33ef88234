"""What an issuer gives, and why it gave nothing."""

from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class Token:
    """What was issued, and until when it holds (Unix time on our clock).

    ``value`` is the header's value, or for temporary keys all of them together (``keys``): something that goes as it is
    to another process. ``clock_ahead_seconds`` is the issuer's clock minus ours, where more than a minute.
    """

    value: bytes = field(repr=False)
    expiry: float
    clock_ahead_seconds: float = 0.0


class Cause(Enum):
    """Why a fetch failed, as far as it decides how long to wait before the next."""

    TRANSIENT = "transient"  # network, 5xx, 429, an odd answer: it may well be gone in a second
    REFUSED = "refused"  # 400 or 403: somebody has to change something
    LOCK_OUT = "lock_out"  # 401: trying again with the same secret locks the user


class FetchFailed(Exception):
    """Nothing was obtained. ``reason`` is safe to log and to show: it quotes no answer and no foreign exception.

    ``retry_after_seconds`` is how long not to ask again at least; with ``LOCK_OUT`` exactly. ``status`` is the answer's,
    where it matters to whoever asked.
    """

    def __init__(
        self,
        reason: str,
        cause: Cause = Cause.TRANSIENT,
        *,
        retry_after_seconds: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cause = cause
        self.retry_after_seconds = retry_after_seconds
        self.status = status
