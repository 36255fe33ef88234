"""Durations and sizes as people type them, each with its unit."""

import re

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE_UNITS = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def seconds(text: str) -> float:
    """``500ms``, ``2s``, ``1m30s`` in seconds.

    Raises:
        ValueError: no unit, or nothing that reads as a duration.
    """
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+", text):
        raise ValueError(f"a duration needs its unit, as in 500ms, 2s or 1m30s; found {text!r}")
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", text))


def size_bytes(text: str) -> int | None:
    """``12MiB`` in bytes; ``none`` is no limit.

    Raises:
        ValueError: no unit, or nothing that reads as a size.
    """
    if text == "none":
        return None
    match = re.fullmatch(r"(\d+)(B|[KMG]i?B)", text)
    if match is None:
        raise ValueError(f"a size needs its unit, as in 12MiB or 64KiB, or is none; found {text!r}")
    return int(match[1]) * _SIZE_UNITS[match[2]]
