"""The cases, by subject; importing this package registers all of them."""

from tests.conformance.cases import (
    answers,
    bodies,
    exchange,
    framing,
    heads,
    headers,
    limits,
    paths,
    soak,
    streams,
    tunnels,
)

__all__ = [
    "answers",
    "bodies",
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
