"""The cases, by subject; importing this package registers all of them."""

from tests.conformance.cases import (
    answers,
    bodies,
    callers,
    exchange,
    framing,
    headers,
    heads,
    limits,
    paths,
    soak,
    streams,
    tunnels,
)

__all__ = [
    "answers",
    "bodies",
    "callers",
    "exchange",
    "framing",
    "headers",
    "heads",
    "limits",
    "paths",
    "soak",
    "streams",
    "tunnels",
]
