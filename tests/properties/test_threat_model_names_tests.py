"""The threat model names tests that exist, for every promise."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/threat-model.md").read_text()
ROWS = [
    row
    for row in re.findall(r"^\| (.+) \| (.+) \|$", TEXT, re.MULTILINE)
    if row != ("promise", "kept by") and not row[0].startswith("-")
]


@pytest.mark.parametrize(("promise", "kept_by"), ROWS, ids=[promise[:50] for promise, _ in ROWS])
def test_promises_are_kept_somewhere(promise: str, kept_by: str) -> None:
    """Each promise names at least one test file, and each of them is there."""
    names = re.findall(r"`(tests/[^`]+)`", kept_by)

    assert names, promise
    assert [name for name in names if not (ROOT / name).is_file()] == []


def test_there_are_promises_for_everybody() -> None:
    """Callers, upstreams, web pages, the network and readers of logs: each has a table."""
    sections = [section for section in re.split(r"^## ", TEXT, flags=re.MULTILINE) if "| kept by |" in section]

    assert len(sections) == 5
    assert len(ROWS) > 25


def test_other_paths_exist() -> None:
    """What the rest of the page points to is there, too."""
    for name in re.findall(r"`(tests/[^`]+)`", TEXT):
        assert (ROOT / name).exists(), name
