"""A string that never shows itself."""

from typing import NoReturn


class Secret:
    """A secret value whose only way out is ``reveal()``; printing it, logging it or pickling it shows nothing.

    The holder stays the same while the value rotates: ``generation`` grows with each ``replace()``, so
    that whoever derived something from the value (a token, a refused password) knows that it changed.
    ``source`` says where the value comes from, as ``file /run/secrets/password``; it is safe to print.
    """

    __slots__ = ("_value", "generation", "source")

    def __init__(self, value: str, source: str = "") -> None:
        self._value = value
        self.source = source
        self.generation = 0

    def reveal(self) -> str:
        return self._value

    def replace(self, value: str) -> bool:
        """Take a new value; false when it is the one we have."""
        if value == self._value:
            return False
        self._value = value
        self.generation += 1
        return True

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")
