"""Durations, sizes and rates."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.units import duration_text, found, parse_duration, parse_rate, parse_size, size_text
from gateway.routes import Rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("40s", 40.0, id="seconds"),
        pytest.param("1m30s", 90.0, id="minutes and seconds"),
        pytest.param("500ms", 0.5, id="milliseconds"),
        pytest.param("2h", 7200.0, id="hours"),
        pytest.param("1d", 86400.0, id="days"),
        pytest.param("1d2h3m4s5ms", 93784.005, id="every unit"),
        pytest.param("1.5s", 1.5, id="a fraction"),
        pytest.param("0s", 0.0, id="zero"),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is read in seconds."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "s",
        "40",
        "40 s",
        "s40",
        "1s1m",
        "1s1s",
        "-1s",
        "40S",
        "1:30",
        "40s\n",
        "٤s",
        "1e3s",
        "none",
        None,
        True,
        [],
        {},
    ],
)
def test_not_a_duration(value: object) -> None:
    """Anything else is a problem that shows how one is written."""
    with pytest.raises(ValueError, match="a duration is written as 40s"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        pytest.param("512B", 512, id="bytes"),
        pytest.param("64KiB", 65536, id="KiB"),
        pytest.param("12MiB", 12582912, id="MiB"),
        pytest.param("12MB", 12000000, id="MB counts in thousands"),
        pytest.param("1kB", 1000, id="kB"),
        pytest.param("1KB", 1000, id="KB"),
        pytest.param("2GiB", 2147483648, id="GiB"),
        pytest.param("2GB", 2000000000, id="GB"),
        pytest.param("1TiB", 1099511627776, id="TiB"),
        pytest.param("1.5MiB", 1572864, id="a fraction"),
        pytest.param("0B", 0, id="zero"),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    """A size is read in bytes."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "value", ["", "12", "12M", "12mb", "12 MiB", "-1B", "MiB", "12MiB\n", "none", None, False, [1]]
)
def test_not_a_size(value: object) -> None:
    """Anything else is a problem that shows how one is written."""
    with pytest.raises(ValueError, match="a size is written as 12MiB"):
        parse_size(value)


@pytest.mark.parametrize("number", [12, 0, 1.5, -3])
def test_a_bare_number_needs_its_unit(number: float) -> None:
    """A number without a unit is told that it needs one."""
    with pytest.raises(ValueError, match=re.escape(f"a duration needs its unit, as in 40s; found {number}")):
        parse_duration(number)
    with pytest.raises(ValueError, match=re.escape(f"a size needs its unit, as in 12MiB; found {number}")):
        parse_size(number)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        pytest.param("50/s", Rate(50.0, 50), id="the burst is a second's worth"),
        pytest.param("50/s burst 100", Rate(50.0, 100), id="with a burst"),
        pytest.param("600/m", Rate(10.0, 600), id="a minute's worth"),
        pytest.param("3600/h burst 1", Rate(1.0, 1), id="an hour's"),
        pytest.param("0.5/s", Rate(0.5, 1), id="one every two seconds"),
    ],
)
def test_rates(text: str, rate: Rate) -> None:
    """A rate is read as requests a second, and so many at once."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "value", ["50", 50, "50/d", "50 /s", "50/s burst 0", "50/s burst", "-1/s", "0/s", "50/s\n", None]
)
def test_not_a_rate(value: object) -> None:
    """Anything else is a problem, a rate of nothing included."""
    with pytest.raises(ValueError, match="a rate"):
        parse_rate(value)


@given(st.integers(min_value=0, max_value=10**12))
def test_duration_text_is_read_back(milliseconds: int) -> None:
    """What is printed for a duration reads as the same one."""
    assert parse_duration(duration_text(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(min_value=0, max_value=10**15 - 1))
def test_size_text_is_read_back(size_bytes: int) -> None:
    """What is printed for a size reads as the same one."""
    assert parse_size(size_text(size_bytes)) == size_bytes


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_a_problem(text: str) -> None:
    """No text brings the parsers to an end of another kind."""
    for parse in (parse_duration, parse_size, parse_rate):
        with suppress(ValueError):
            parse(text)


def test_long_text_is_not_repeated() -> None:
    """A message does not repeat long text, which may be a secret in the wrong place."""
    assert found("hunter2-do-not-print") == "text"
