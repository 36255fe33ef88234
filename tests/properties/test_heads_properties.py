"""Heads: what is accepted has one reading, and what has two is refused."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.wire.fields import HeadError, split_lines
from gateway.wire.request_head import RequestHead, parse_request
from gateway.wire.response_head import ResponseHead, read_response
from tests.fuzz.grammar import answer, mutated_bytes, request
from tests.fuzz.rules import crossing
from tests.fuzz.strict import read_answer, read_request
from tests.properties.bounds import bounded

randoms = st.randoms(use_true_random=False)
# Whole alphabets of bytes that have split messages, so that hypothesis can build what no grammar thinks of.
pieces = st.lists(
    st.sampled_from(
        [b"GET", b"POST", b" ", b"/code", b"*", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\r\n", b"\n", b"\r", b"\0", b":", b",", b"\t", b";",
        b"Host: a", b"Content-Length: 1", b"Content-Length", b"Transfer-Encoding: chunked", b"Transfer-Encoding", b"chunked", b"1", b"\x0b", b"\xa0",
        b"Connection: close", b"Connection: x-a", b"X-A: 1", b"_", b"\x7f", b"\x80", b"HTTP/1.1 200 OK", b"HTTP/1.1 204 A", b"100", b"=", b"%"]
    ),
    max_size=16,
).map(b"".join)  # fmt: skip


def head_of(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[0]


def hostile_request(random: Random) -> bytes:
    """The head of a request of the fuzzer's grammar, most often with an accident in it."""
    head = head_of(request(random, 1, 0, random.choice((0.0, 0.2, 0.5)), last=True))
    return head if random.random() < 0.3 else head_of(mutated_bytes(random, head))


def hostile_answer(random: Random) -> bytes:
    made = answer(random, 1, 0, random.choice((0.0, 0.2, 0.5)), last=True, to_head=False)
    head = head_of(b"".join(step.data for step in made.steps))
    return head if random.random() < 0.3 else head_of(mutated_bytes(random, head))


def accepted(head: bytes) -> RequestHead | None:
    try:
        return parse_request(head)
    except GatewayError:
        return None


def accepted_answer(head: bytes, *, to_head: bool) -> ResponseHead | None:
    try:
        return read_response(split_lines(head), to_head_request=to_head)
    except HeadError:
        return None


def check_request(head: bytes) -> None:
    ours = accepted(head)
    if ours is None:
        return
    strict = read_request(head + b"\r\n\r\n")
    assert strict.sound_head, f"refused by RFC 9112 ({strict.why}), and yet accepted"
    assert ours.method.encode() == strict.method
    assert ours.chunked == strict.chunked
    assert ours.content_length == strict.length
    assert ours.minor == strict.minor
    left = b"\r\n".join([b"GET / HTTP/1.1", b"Host: upstream", *ours.fields.lines, b"", b""])
    again = read_request(left, ours=True)
    assert again.whole, again.why
    assert again.lines[1:] == list(ours.fields.lines)
    unnamed = [line for line in crossing(strict.lines, frozenset(), credentials=True) if line in again.lines]
    assert unnamed == again.lines[1:], "field lines that may not cross, or in another order"


@bounded
@given(randoms)
def test_requests_of_the_grammar(random: Random) -> None:
    """A request head that is accepted is sound by the RFC, means the same, and what crosses of it is read the same again."""
    check_request(hostile_request(random))


@bounded
@given(pieces)
def test_requests_of_any_pieces(data: bytes) -> None:
    """The same for bytes that no grammar made."""
    check_request(head_of(data))


@bounded
@given(st.one_of(pieces.map(head_of), randoms.map(hostile_request)))
def test_requests_are_remembered_right(head: bytes) -> None:
    """What is remembered of lines, names and hosts never changes a verdict."""
    first, second = accepted(head), accepted(head)

    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert (first.method, first.raw_path, first.raw_query) == (second.method, second.raw_path, second.raw_query)
        assert (first.fields.lines, first.fields.noted) == (second.fields.lines, second.fields.noted)


@bounded
@given(st.one_of(pieces.map(head_of), randoms.map(hostile_answer)), st.booleans())
def test_answers(head: bytes, to_head: bool) -> None:
    """An answer head that is accepted is sound by the RFC and framed the same."""
    ours = accepted_answer(head, to_head=to_head)
    if ours is None:
        return
    strict = read_answer(head + b"\r\n\r\n", 0, b"HEAD" if to_head else b"GET", closed=False, upgrade=True)
    strict = strict.interims[0] if strict.interims else strict

    assert strict.sound_head, f"refused by RFC 9112 ({strict.why}), and yet accepted"
    assert (ours.status, ours.reason) == (strict.status, strict.reason)
    assert (ours.chunked, ours.content_length) == (strict.chunked, strict.length)
    assert ours.until_close == strict.until_close


# Sound by the RFC, and refused here all the same; each is a decision.
STRICTER = [
    pytest.param(b"get / HTTP/1.1\r\nHost: a", id="methods are upper case"),
    pytest.param(b"G!T / HTTP/1.1\r\nHost: a", id="methods have no punctuation"),
    pytest.param(b"GET / HTTP/1.2\r\nHost: a", id="only 1.0 and 1.1"),
    pytest.param(b"OPTIONS * HTTP/1.1\r\nHost: a", id="no server-wide OPTIONS"),
    pytest.param(b"CONNECT a:443 HTTP/1.1\r\nHost: a", id="no CONNECT"),
    pytest.param(b"GET ftp://a/ HTTP/1.1\r\nHost: a", id="http and https alone"),
    pytest.param(b"GET / HTTP/1.1\r\nHost:", id="an empty host"),
    pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked", id="no coding but chunked"),
    pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"0" * 19, id="a length of 19 digits"),
    pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok", id="an expectation that nobody meets"),
]


@pytest.mark.parametrize("head", STRICTER)
def test_where_we_are_stricter(head: bytes) -> None:
    """Legal and refused: few callers need it, and some server behind us reads it in another way."""
    assert read_request(head + b"\r\n\r\n").sound_head
    assert accepted(head) is None
