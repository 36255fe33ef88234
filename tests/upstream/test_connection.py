"""What an upstream says, read off one connection: any split of the bytes reads the same."""

import asyncio
import weakref
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamFailed
from gateway.story import Moment
from gateway.upstream.connection import UpstreamConnection
from gateway.wire.chunks import LAST_CHUNK, chunk


class Transport(asyncio.Transport):
    """Takes note of what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False
        self.reading = True

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.aborted


class Upstream:
    """A connection with a request under way."""

    def __init__(self, *, head_request: bool = False, upgrade: bool = False) -> None:
        loop = asyncio.new_event_loop()
        self.moment = Moment(loop)
        loop.close()
        self.transport = Transport()
        self.connection = UpstreamConnection()
        self.connection.connection_made(self.transport)
        self.connection.start(self.moment, head_request=head_request, upgrade=upgrade)

    def says(self, *pieces: bytes, then: str = "") -> "Upstream":
        for piece in pieces:
            if piece and not self.transport.aborted:
                self.connection.data_received(piece)
        if then:
            self.connection.connection_lost(ConnectionResetError() if then == "reset" else None)
        return self

    @property
    def outcome(self) -> tuple[int, bytes, bool, str | None]:
        """Status, body, whether it is whole, and the fault."""
        connection = self.connection
        body = taken(connection)
        fault = None if connection.fault is None else connection.fault.proxy_status
        return (0 if connection.head is None else connection.head.status, body, connection.ended, fault)


def taken(connection: UpstreamConnection) -> bytes:
    """What arrived; a fault is raised only once all of that has been taken."""
    try:
        body = connection.take()
    except UpstreamFailed:
        return b""
    if connection.fault is not None:
        with pytest.raises(type(connection.fault)):
            connection.take()
    return body


@pytest.mark.parametrize(
    ("answer", "then", "outcome"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "", (200, b"hi", True, None), id="length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", (200, b"", True, None), id="empty"),
        pytest.param(b"HTTP/1.1 204 No\r\n\r\n", "", (204, b"", True, None), id="204"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "", (200, b"hi", True, None), id="chunked"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nhi", "", (200, b"hi", False, None), id="until close, open"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nhi", "close", (200, b"hi", True, None), id="until close, closed"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n\r\nhi", "reset", (200, b"hi", False, "http_response_incomplete"), id="until close, reset"
        ),
        pytest.param(b"", "close", (0, b"", False, "connection_terminated"), id="closed at once"),
        pytest.param(b"HTTP/1.1 20", "close", (0, b"", False, "http_response_incomplete"), id="head broken off"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "close",
            (200, b"hi", False, "http_response_incomplete"), id="body broken off",
        ),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "",
            (200, b"", True, None), id="interim answers",
        ),
        pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n", "", (0, b"", False, "http_protocol_error"), id="101 unasked"),
        pytest.param(b"SSH-2.0\r\n\r\n", "", (0, b"", False, "http_protocol_error"), id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "", (0, b"", False, "http_protocol_error"), id="bare LF"),
        pytest.param(b"HTTP/1.1 200 OK\nX: a\n\r\n", "", (0, b"", False, "http_protocol_error"), id="bare LF, then CR LF"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\nY", "", (0, b"", False, "http_protocol_error"), id="bare LF, no end yet"),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\n" * 30, "", (0, b"", False, "http_protocol_error"), id="endless interim answers"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "", (0, b"", False, "http_protocol_error"), id="endless head"
        ),
    ],
)  # fmt: skip
def test_answers(answer: bytes, then: str, outcome: tuple[int, bytes, bool, str | None]) -> None:
    """Whole, still coming, or broken in one of the ways that are told apart."""
    assert Upstream().says(answer, then=then).outcome == outcome
    if len(answer) < 1000:
        pieces = [bytes([byte]) for byte in answer]
        assert Upstream().says(*pieces, then=then).outcome == outcome, "byte by byte"


def test_answers_to_head() -> None:
    """To HEAD a length is announced and nothing follows."""
    upstream = Upstream(head_request=True).says(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")

    assert upstream.outcome == (200, b"", True, None)
    assert upstream.connection.reusable


@pytest.mark.parametrize(
    ("answer", "reusable"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", True, id="whole"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", False, id="not whole"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi!", False, id="bytes behind the body"),
        pytest.param(b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK", False, id="an answer behind the answer"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n!", False, id="bytes behind the last chunk"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False, id="close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False, id="HTTP/1.0"),
    ],
)
def test_which_connections_are_used_again(answer: bytes, reusable: bool) -> None:
    """Only one on which nothing but the whole answer came."""
    assert Upstream().says(answer).connection.reusable is reusable


def test_what_comes_unasked_is_never_the_next_answer() -> None:
    """Bytes on a connection that rests end it."""
    upstream = Upstream().says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    upstream.connection.rest()

    upstream.connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")

    assert upstream.transport.aborted
    assert upstream.connection.closed


def test_a_second_request_starts_afresh() -> None:
    """Nothing of the answer before is left."""
    upstream = Upstream().says(b"HTTP/1.1 500 X\r\nX-Request-Id: first\r\nContent-Length: 5\r\n\r\nfirst")
    assert upstream.outcome[:2] == (500, b"first")
    upstream.connection.rest()
    upstream.connection.start(upstream.moment, head_request=False, upgrade=False)
    assert upstream.outcome == (0, b"", False, None)

    upstream.says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    assert upstream.outcome == (200, b"hi", True, None)


def test_a_tunnel() -> None:
    """After a 101 that was asked for, everything is bytes, and the end of the connection is its end."""
    upstream = Upstream(upgrade=True).says(b"HTTP/1.1 101 Switching\r\n\r\nearly", b"\x00late", then="close")

    assert upstream.outcome == (101, b"early\x00late", True, None)
    assert not upstream.connection.reusable


def test_reading_stops_while_nobody_takes() -> None:
    """An answer that is not taken stops the upstream; taking lets it go on."""
    upstream = Upstream().says(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
    received = 0
    while upstream.transport.reading and received < 10_000_000:
        upstream.says(b"x" * 65536)
        received += 65536

    assert received <= 512 * 1024
    assert len(upstream.connection.take()) == received
    assert upstream.transport.reading


def test_nothing_of_what_it_said_is_in_the_error() -> None:
    """Faults are told in our words."""
    upstream = Upstream().says(b"HTTP/1.1 200 OK\r\nX-Secret: pl4nted\x00\r\n\r\n")

    fault = cast(UpstreamFailed, upstream.connection.fault)
    assert "pl4nted" not in fault.message


BODIES = st.lists(st.binary(min_size=1, max_size=30), max_size=5)
CUTS = st.lists(st.integers(0, 500), max_size=8)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({min(position, len(data)) for position in cuts})
    return [data[begin:end] for begin, end in zip([0, *at], [*at, len(data)], strict=True)]


@given(BODIES, st.sampled_from(["length", "chunked", "close"]), st.booleans(), CUTS)
def test_any_split_reads_the_same(body: list[bytes], framing: str, interim: bool, cuts: list[int]) -> None:
    """Where the network cuts an answer changes nothing of it."""
    content = b"".join(body)
    head = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * interim + b"HTTP/1.1 200 OK\r\nX-A: 1\r\n"
    if framing == "chunked":
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(map(chunk, body)) + LAST_CHUNK
    elif framing == "length":
        data = head + b"Content-Length: %d\r\n\r\n" % len(content) + content
    else:
        data = head + b"\r\n" + content

    upstream = Upstream().says(*cut(data, cuts), then="close" if framing == "close" else "")

    assert upstream.outcome == (200, content, True, None)
    assert len(upstream.connection.interims) == interim


@given(st.binary(max_size=120), CUTS, st.sampled_from(["close", "reset"]))
def test_noise_is_never_a_whole_answer_by_its_split(noise: bytes, cuts: list[int], then: str) -> None:
    """Whatever comes: split or whole, the status, whether it is whole and whether it is at fault are the same."""

    def outcome(*pieces: bytes) -> tuple[Any, ...]:
        status, _, ended, fault = Upstream().says(*pieces, then=then).outcome
        return status, ended, fault is None

    data = b"HTTP/1.1 200 OK\r\n" + noise
    assert outcome(data) == outcome(*cut(data, cuts))


class Passing:
    """A passage that takes what it is told to take."""

    def __init__(self, *, takes: bool = True, chunked: bool = True) -> None:
        self.takes = takes
        self.chunked = chunked
        self.got: list[bytes] = []
        self.framed: list[bytes] = []  # of it, what came as a chunk

    def take(self, data: bytes) -> bool:
        if self.takes:
            self.got.append(data)
        return self.takes

    def take_framed(self, framed: bytes, length: int) -> bool:
        assert self.chunked
        payload = framed[-length - 2 : -2]
        assert framed == chunk(payload)
        if self.takes:
            self.framed.append(framed)
        return self.take(payload)


class Counting(Moment):
    """Counts how often it was woken."""

    def __init__(self) -> None:
        loop = asyncio.new_event_loop()
        super().__init__(loop)
        loop.close()
        self.count = 0

    def wake(self) -> None:
        self.count += 1


def passing(framing: bytes, passage: Passing) -> tuple[UpstreamConnection, Counting]:
    """A connection whose answer has begun and is passed on."""
    moment = Counting()
    connection = UpstreamConnection()
    connection.connection_made(Transport())
    connection.start(moment, head_request=False, upgrade=False)
    connection.data_received(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
    connection.pass_to(passage)
    moment.count = 0
    return connection, moment


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Content-Length: 9", b"X: until close"])
def test_what_is_passed_on_wakes_nobody(framing: bytes) -> None:
    """Pieces go to the passage from within the read; the body's end is for the exchange."""
    passage = Passing()
    connection, moment = passing(framing, passage)
    framed = chunk if b"chunked" in framing else bytes

    for piece in (b"one", b"two"):
        connection.data_received(framed(piece))
    assert (passage.got, moment.count, taken(connection)) == ([b"one", b"two"], 0, b"")

    connection.data_received(framed(b"end") + (LAST_CHUNK if b"chunked" in framing else b""))
    if b"close" in framing:
        connection.connection_lost(None)
    assert moment.count == 1
    assert connection.ended
    assert b"".join([*passage.got, taken(connection)]) == b"onetwoend"


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "HTTP/1.0"])
def test_a_chunk_like_ours_is_passed_on_as_it_is(chunked: bool) -> None:
    """To a caller whose answer is chunked; any other read loses its framing, and is framed anew."""
    passage = Passing(chunked=chunked)
    connection, moment = passing(b"Transfer-Encoding: chunked", passage)
    whole, others = chunk(b"x" * 26), [b"1A", b"001a", b"1a;name=value"]

    connection.data_received(whole)
    for size in others:
        connection.data_received(size + whole[2:])
    connection.data_received(whole + whole)
    connection.data_received(whole[:9])
    connection.data_received(whole[9:])
    connection.data_received(whole)

    assert b"".join(passage.got) == b"x" * 26 * (len(others) + 5)
    assert passage.framed == [whole, whole] * chunked
    assert moment.count == 0


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "HTTP/1.0"])
def test_what_is_not_taken_keeps_its_place(chunked: bool) -> None:
    """A passage that refused a piece gets none before that one has been taken; then it is asked again."""
    passage = Passing(takes=False, chunked=chunked)
    connection, moment = passing(b"Transfer-Encoding: chunked", passage)

    connection.data_received(chunk(b"one"))
    passage.takes = True
    connection.data_received(chunk(b"two"))
    assert (passage.got, moment.count) == ([], 2)

    assert taken(connection) == b"onetwo"
    connection.data_received(chunk(b"three"))
    assert (passage.got, moment.count) == ([b"three"], 2)


def test_a_slow_passage_stops_the_reading() -> None:
    """What is not passed on counts as what nobody takes does."""
    connection, _ = passing(b"Content-Length: 1000000", Passing(takes=False))

    for _ in range(3):
        connection.data_received(b"x" * 65536)

    assert isinstance(connection.transport, Transport)
    assert not connection.transport.reading


def test_broken_framing_behind_what_was_passed_on() -> None:
    """It is heard of at once, and nothing of that read is passed on."""
    passage = Passing()
    connection, moment = passing(b"Transfer-Encoding: chunked", passage)

    connection.data_received(chunk(b"one"))
    connection.data_received(chunk(b"two") + b"three\r\n")

    assert (passage.got, moment.count) == ([b"one"], 1)
    with pytest.raises(UpstreamFailed):
        connection.take()


def test_a_passage_ends_with_its_request() -> None:
    """The next answer on the connection is not passed to the caller of the one before."""
    passage = Passing()
    connection, moment = passing(b"Content-Length: 3", passage)
    connection.data_received(b"one")
    assert taken(connection) == b"one"
    connection.rest()

    connection.start(moment, head_request=False, upgrade=False)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
    connection.data_received(b"two")

    assert passage.got == []
    assert taken(connection) == b"two"


def test_a_kept_connection_keeps_nothing_of_its_caller() -> None:
    """A passage holds the caller's connection and the exchange, which end when the answer has."""
    passage = Passing()
    connection, _ = passing(b"Content-Length: 3", passage)
    connection.data_received(b"one")
    held = weakref.ref(passage)
    del passage

    connection.rest()

    assert held() is None


@given(
    body=st.lists(st.tuples(st.binary(min_size=1, max_size=30), st.booleans(), st.booleans()), max_size=12),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    chunked=st.booleans(),
)
def test_whatever_is_taken_where_the_order_stays(
    body: list[tuple[bytes, bool, bool]], cuts: list[int], chunked: bool
) -> None:
    """However a passage takes and refuses, and the story takes in between: every byte once, in order."""
    passage = Passing(chunked=chunked)
    connection, _ = passing(b"Transfer-Encoding: chunked", passage)
    heard = passage.got

    for piece, takes, story in body:
        passage.takes = takes
        for read in cut(chunk(piece), cuts):
            connection.data_received(read)
        if story:
            heard.append(taken(connection))
    connection.data_received(LAST_CHUNK)
    heard.append(taken(connection))

    assert b"".join(heard) == b"".join(piece for piece, _, _ in body)
    assert connection.ended
