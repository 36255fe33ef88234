"""Callers' connections: requests are found and read the same however their bytes were split, and never more leniently than the RFC."""

import asyncio
from itertools import pairwise
from random import Random
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.inbound import Answer, Inbound
from gateway.listener import Bounds, Listener
from tests.fuzz.grammar import mutated_bytes, request
from tests.fuzz.strict import Verdict, read_requests
from tests.properties.bounds import bounded


class Heard(NamedTuple):
    """Requests that came whole, as method and body; how many were broken in their body; how many were no request."""

    whole: list[tuple[str, bytes]]
    broken: int
    refused: int


class Wire(asyncio.Transport):
    """A transport that takes everything and says nothing."""

    def write(self, data: Any) -> None:  # Any: asyncio's own signature
        pass

    def write_eof(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        pass

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


async def hear(pieces: list[bytes]) -> Heard:
    """What a connection makes of these reads, with a story that reads bodies and answers at once."""
    whole: list[tuple[str, bytes]] = []
    broken = 0
    refused: list[GatewayError] = []

    async def story(inbound: Inbound, answer: Answer) -> None:
        nonlocal broken
        body = b""
        try:
            while not inbound.ended:
                body += inbound.take()
                if not inbound.ended:
                    await inbound.moment.wait()
            whole.append((inbound.head.method, body))
        except GatewayError:
            broken += 1
        answer.head(200, b"OK", [], 0)
        answer.end()

    def refuse(error: GatewayError, address: str) -> str:
        refused.append(error)
        return "id"

    listener = Listener(story, refuse, Bounds(None, None, None), asyncio.get_running_loop())
    connection = listener.connection()
    connection.connection_made(Wire())
    for piece in pieces:
        if piece:
            connection.data_received(piece)
        for _ in range(12):  # stories end, and what was pipelined behind them begins
            await asyncio.sleep(0)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return Heard(whole, broken, len(refused))


def said(random: Random) -> bytes:
    """Up to three requests, most often with an accident."""
    count = random.choice((1, 1, 2, 3))
    evil = random.choice((0.0, 0.1, 0.4))
    data = b"".join(request(random, 1, part, evil, last=part == count - 1) for part in range(count))
    return data if random.random() < 0.4 else mutated_bytes(random, data)


@bounded
@given(st.randoms(use_true_random=False).map(said), st.lists(st.integers(0, 3000), max_size=12))
def test_requests_over_any_split(data: bytes, at: list[int]) -> None:
    """The same requests, the same broken ones, the same refusals; and each of them whole by the RFC, with its body."""
    edges = [0, *sorted(min(cut, len(data)) for cut in at), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(edges)]

    one, many = asyncio.run(hear([data])), asyncio.run(hear(pieces))

    assert one == many
    strict = [read for read in read_requests(data) if read.verdict is Verdict.WHOLE]
    assert one.whole == [(read.method.decode(), read.body) for read in strict[: len(one.whole)]]
