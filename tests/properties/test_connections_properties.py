"""Connections: what a peer said is read the same however its bytes were split."""

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamFailed
from gateway.story import Moment
from gateway.upstream.connection import UpstreamConnection
from tests.fuzz.grammar import answer, mutated_bytes
from tests.fuzz.strict import Verdict, read_answer
from tests.properties.bounds import bounded


class Awake(Moment):
    """Nobody waits."""

    def __init__(self) -> None:
        pass

    def wake(self) -> None:
        pass


class Wire(asyncio.Transport):
    """A transport that only remembers that it was closed."""

    def abort(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # Any: asyncio's own signature
        return default


def hear(pieces: list[bytes], *, closed: bool, to_head: bool) -> tuple[int, bytes, str, bool]:
    """Status, body, what became of it, and whether another request may follow."""
    connection = UpstreamConnection()
    connection.connection_made(Wire())
    connection.start(Awake(), head_request=to_head, upgrade=False)
    body = b""
    for piece in pieces:
        if connection.closed or connection.fault is not None:
            break
        if piece:
            connection.data_received(piece)
            body += taken(connection)
    reusable = connection.reusable
    if closed and not connection.closed:
        connection.connection_lost(None)
    body += taken(connection)
    state = "fault" if connection.fault is not None else "ended" if connection.ended else "open"
    return (connection.head.status if connection.head is not None else 0), body, state, reusable


def taken(connection: UpstreamConnection) -> bytes:
    try:
        return connection.take()
    except UpstreamFailed:
        return b""


def said(random: Random) -> bytes:
    made = answer(random, 1, 0, random.choice((0.0, 0.2, 0.5)), last=True, to_head=False)
    data = b"".join(step.data for step in made.steps)
    return data if random.random() < 0.5 else mutated_bytes(random, data)


@bounded
@given(
    st.randoms(use_true_random=False).map(said),
    st.lists(st.integers(0, 2000), max_size=10),
    st.booleans(),
    st.booleans(),
)
def test_answers_over_any_split(data: bytes, at: list[int], closed: bool, to_head: bool) -> None:
    """An answer has one verdict, whatever came in one read; and it is never more lenient than the RFC's."""
    edges = [0, *sorted(min(cut, len(data)) for cut in at), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(edges)]
    status, body, state, reusable = hear([data], closed=closed, to_head=to_head)
    its_status, its_body, its_state, its_reusable = hear(pieces, closed=closed, to_head=to_head)

    assert state == its_state
    if state != "fault":
        assert (status, body) == (its_status, its_body)
        # Bytes behind the answer that come in a read of their own are met by an idle connection, which then closes.
        assert reusable == its_reusable or not reusable
    strict = read_answer(data, 0, b"HEAD" if to_head else b"GET", closed=closed)
    if state == "ended":
        assert strict.whole, (strict.verdict, strict.why)
        assert (status, body) == (strict.status, strict.body)
        assert not reusable or strict.end == len(data)
    if strict.verdict is Verdict.MALFORMED:
        assert state != "ended"
