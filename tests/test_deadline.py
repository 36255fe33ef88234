"""An instant by which something must have ended."""

import math

import pytest

from gateway.deadline import Deadline


@pytest.mark.parametrize(
    ("now", "remaining", "passed"),
    [(100.0, 5.0, False), (104.9, 0.1, False), (105.0, 0.0, True), (200.0, 0.0, True)],
)
def test_it_passes_once(now: float, remaining: float, passed: bool) -> None:
    """What is left shrinks to nothing and is never negative."""
    deadline = Deadline.after(5.0, 100.0)

    assert deadline.remaining_seconds(now) == pytest.approx(remaining)
    assert deadline.passed(now) is passed


def test_none_never_passes() -> None:
    """No limit is an instant that never comes."""
    deadline = Deadline.after(None, 100.0)

    assert (deadline.instant, deadline.remaining_seconds(1e12), deadline.passed(1e12)) == (math.inf, math.inf, False)


def test_it_names_its_setting() -> None:
    """Whoever reports it says what governs it."""
    assert Deadline.after(1, 0).setting == "limits.deadline"
    assert Deadline.after(1, 0, "X-Request-Timeout").setting == "X-Request-Timeout"
