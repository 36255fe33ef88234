"""Counting failures, and locking what failed too often."""

from collections.abc import Callable


class Lockout:
    """Locks a name for ``hold_seconds`` once it has failed ``failures`` times within ``window_seconds``.

    A success in between forgets the failures. ``now`` is Unix time in seconds.
    """

    def __init__(self, failures: int, window_seconds: float, hold_seconds: float, now: Callable[[], float]) -> None:
        self._failures = failures
        self._window_seconds = window_seconds
        self._hold_seconds = hold_seconds
        self._now = now
        self._failed: dict[str, list[float]] = {}
        self._locked_until: dict[str, float] = {}

    def locked(self, name: str) -> bool:
        return self._locked_until.get(name, 0.0) > self._now()

    def failed(self, name: str) -> None:
        """Count one failure; the last one allowed locks."""
        now = self._now()
        recent = [instant for instant in self._failed.get(name, []) if instant > now - self._window_seconds]
        recent.append(now)
        if len(recent) >= self._failures:
            self._locked_until[name] = now + self._hold_seconds
            recent = []
        self._failed[name] = recent

    def succeeded(self, name: str) -> None:
        self._failed.pop(name, None)

    def clear(self) -> None:
        self._failed.clear()
        self._locked_until.clear()

    def names(self) -> list[str]:
        """What is locked now."""
        return sorted(name for name in self._locked_until if self.locked(name))
