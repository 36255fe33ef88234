"""A string that never shows itself."""

from collections.abc import Callable
from typing import NoReturn


class Secret:
    """A secret value whose only way out is ``reveal()``; printing it, logging it or pickling it shows nothing.

    The holder stays the same while the value rotates: ``generation`` grows with each ``replace()``, so
    that whoever derived something from the value (a token, a refused password) knows that it changed.
    ``source`` says where the value comes from, as ``file /run/secrets/password``; it is safe to print.
    """

    __slots__ = ("_value", "_watchers", "generation", "source")

    def __init__(self, value: str, source: str = "") -> None:
        self._value = value
        self.source = source
        self.generation = 0
        self._watchers: tuple[Callable[[], None], ...] = ()

    def reveal(self) -> str:
        return self._value

    def replace(self, value: str) -> bool:
        """Take a new value; false when it is the one we have."""
        if value == self._value:
            return False
        self._value = value
        self.generation += 1
        for told in self._watchers:
            told()
        return True

    def watch(self, told: Callable[[], None]) -> None:
        """Call ``told`` after each change of the value, in whichever thread changed it."""
        self._watchers = (*self._watchers, told)

    def unwatch(self, told: Callable[[], None]) -> None:
        self._watchers = tuple(other for other in self._watchers if other != told)

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")
