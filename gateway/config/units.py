"""Durations, sizes and rates as people write them: text with its unit, and back again."""

import math
import re
from typing import Final

from gateway.routes import Rate

_SECONDS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES: Final = {
    "B": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
    "KB": 1000,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
}

# Fifteen digits are beyond any honest value, and stay exact in a float.
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
DURATION_PATTERN: Final = (
    rf"^(?=[0-9])(?:({_NUMBER})d)?(?:({_NUMBER})h)?(?:({_NUMBER})m)?(?:({_NUMBER})s)?(?:({_NUMBER})ms)?$"
)
SIZE_PATTERN: Final = rf"^({_NUMBER})(B|KiB|MiB|GiB|TiB|kB|KB|MB|GB|TB)$"
RATE_PATTERN: Final = rf"^({_NUMBER})/(s|m|h)(?: burst ([1-9][0-9]{{0,8}}))?$"

_DURATION = re.compile(DURATION_PATTERN.replace("$", r"\Z"))
_SIZE = re.compile(SIZE_PATTERN.replace("$", r"\Z"))
_RATE = re.compile(RATE_PATTERN.replace("$", r"\Z"))
_LONGEST_QUOTE = 16


def found(value: object) -> str:
    """What stands in the file, for a message; long text is only named, as it may be a secret in the wrong place."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return repr(value) if len(value) <= _LONGEST_QUOTE else "text"
    return str(value)[:_LONGEST_QUOTE]


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse_duration(value: object) -> float:
    """Seconds of ``40s``, ``1m30s``, ``500ms``, ``2h`` or ``1d``.

    Raises:
        ValueError: says what would be right.
    """
    if is_number(value):
        raise ValueError(f"a duration needs its unit, as in 40s; found {value}")
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"a duration is written as 40s, 1m30s, 500ms, 2h or 1d; found {found(value)}")
    return sum(
        float(number) * seconds for number, seconds in zip(match.groups(), _SECONDS.values(), strict=True) if number
    )


def parse_size(value: object) -> int:
    """Bytes of ``12MiB``, ``12MB``, ``64KiB`` or ``512B``; KiB, MiB, GiB count in 1024s, KB, MB, GB in 1000s.

    Raises:
        ValueError: says what would be right.
    """
    if is_number(value):
        raise ValueError(f"a size needs its unit, as in 12MiB; found {value}")
    match = _SIZE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"a size is written as 12MiB, 12MB, 64KiB or 512B; found {found(value)}")
    number, unit = match.groups()
    if "." not in number:
        return int(number) * _BYTES[unit]
    return round(float(number) * _BYTES[unit])


def parse_rate(value: object) -> Rate:
    """``50/s``, ``600/m`` or ``1000/h``, each optionally with `` burst 100``; the burst is else the number before the slash.

    Raises:
        ValueError: says what would be right.
    """
    match = _RATE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"a rate is written as 50/s, 600/m or 50/s burst 100; found {found(value)}")
    number, unit, burst = match.groups()
    count = float(number)
    if count == 0:
        raise ValueError("a rate of 0 would let nothing through; leave it out for no limit")
    return Rate(per_second=count / _SECONDS[unit], burst=int(burst) if burst else max(1, math.ceil(count)))


def duration_text(seconds: float) -> str:
    """The shortest exact way to write a duration, as ``1m30s``."""
    rest = round(seconds * 1000)
    parts = []
    for unit, size in _SECONDS.items():
        count, rest = divmod(rest, round(size * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def size_text(size_bytes: int) -> str:
    """The largest unit that divides a size evenly, as ``12MiB``."""
    for unit in ("GiB", "MiB", "KiB", "GB", "MB", "KB"):
        if size_bytes and size_bytes % _BYTES[unit] == 0:
            return f"{size_bytes // _BYTES[unit]}{unit}"
    return f"{size_bytes}B"
