"""What is wrong with a configuration file, said where it stands."""

from dataclasses import dataclass
from typing import NamedTuple

# Where a value stands in the data: ("routes", 1, "limits", "body").
Where = tuple[str | int, ...]


class Mark(NamedTuple):
    """A place in the text, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong and what would be right; never holds a secret. ``line`` 0 is the file as a whole."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ConfigProblems(Exception):
    """The file cannot be used; every problem that could be found, in the order of the text."""

    def __init__(self, file: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(file, problems)
        self.file = file
        self.problems = problems

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return "\n".join([f"{self.file}: {count}", *(f"  {problem}" for problem in self.problems)])
