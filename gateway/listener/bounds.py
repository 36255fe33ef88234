"""Limits on a connection itself, before there is a route."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a caller may take of us before there is a route; ``None`` is no bound."""

    head_seconds: float | None = 10.0
    head_bytes: int | None = 64 * 1024
    keep_alive_seconds: float | None = 75.0
