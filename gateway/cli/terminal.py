"""How the commands speak: colours only where a person looks on, tables, and failures that say what to do next."""

import json
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO


class Failure(Exception):
    """A command cannot go on. ``status`` is the exit status, ``hint`` the next step for whoever reads it."""

    def __init__(self, message: str, *, status: int = 1, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.hint = hint


_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Terminal:
    """Writes to stdout and stderr. Colours appear on a terminal, unless NO_COLOR is set or TERM is dumb."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def print(self, text: str = "", *, end: str = "\n") -> None:
        """A line to stdout, at once."""
        self._out.write(text + end)
        self._out.flush()

    def note(self, text: str) -> None:
        """A line to stderr: for the person, not for the pipe."""
        self._err.write(text + "\n")
        self._err.flush()

    def json(self, value: object) -> None:
        """One JSON document to stdout, indented on a terminal."""
        self.print(json.dumps(value, ensure_ascii=False, indent=2 if _is_terminal(self._out) else None))

    def error(self, failure: Failure) -> None:
        """What went wrong and what to do about it, to stderr."""
        self.note(self._paint(self._err, "red", "error: ") + failure.message)
        if failure.hint:
            self.note(textwrap.indent(failure.hint, "  "))

    def paint(self, style: str, text: str) -> str:
        """``text`` in a style of bold, dim, red, green, yellow or cyan, where stdout shows colours."""
        return self._paint(self._out, style, text)

    def heading(self, text: str) -> None:
        """A bold line with an empty one before it."""
        self.print()
        self.print(self.paint("bold", text))

    def table(self, rows: Sequence[Sequence[str]], heading: Sequence[str] = (), indent: str = "  ") -> None:
        """Columns as wide as their widest cell; ``heading`` is dimmed. Cells hold no colours of their own."""
        everything = [*([list(heading)] if heading else []), *rows]
        widths = (
            [max(len(row[column]) for row in everything) for column in range(len(everything[0]))] if everything else []
        )
        for number, row in enumerate(everything):
            line = (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
            self.print(self.paint("dim", line) if heading and number == 0 else line)

    @staticmethod
    def _paint(stream: TextIO, style: str, text: str) -> str:
        if not text or not _is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return text
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def _is_terminal(stream: TextIO) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())
