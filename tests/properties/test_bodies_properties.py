"""Chunked bodies: the same payload over any split, or a refusal."""

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.chunks import LAST_CHUNK, ChunkedReader, chunk
from gateway.wire.fields import HeadError
from tests.fuzz.grammar import mutated_bytes
from tests.fuzz.strict import Verdict, read_request
from tests.properties.bounds import bounded

_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

payloads = st.lists(st.binary(min_size=1, max_size=40), max_size=8)
cuts = st.lists(st.integers(0, 400), max_size=12)
coded = st.lists(
    st.sampled_from(
        [b"0", b"5", b"a", b"A", b"00", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"hello", b"aaaaaaaaaa", b";x=y", b";", b" ", b"0x5", b"-1",
        b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\n", b"X-T: 1\r\n", b"Content-Length: 4\r\n", b"\0", b"ffffffffffffffffff", b"GET / HTTP/1.1\r\n"]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


def split(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in at), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def read(pieces: list[bytes]) -> tuple[bytes, bool, bytes, bool]:
    """Payload, ended, what stands behind, and whether it was refused."""
    reader = ChunkedReader()
    payload, rest = b"", b""
    try:
        for piece in pieces:
            if reader.ended:
                rest += piece
            elif piece:
                payload += reader.feed(piece)
                rest += reader.rest
    except HeadError:
        return payload, False, b"", True
    return payload, reader.ended, rest, False


@bounded
@given(payloads, st.binary(max_size=20), cuts)
def test_round_trip(payload: list[bytes], behind: bytes, at: list[int]) -> None:
    """What we write in chunks is read back byte for byte over any split, and what stands behind is left alone."""
    data = b"".join(map(chunk, payload)) + LAST_CHUNK

    assert read(split(data + behind, at)) == (b"".join(payload), True, behind, False)
    assert read_request(_HEAD + data, ours=True).body == b"".join(payload)


@bounded
@given(coded, cuts)
def test_any_split(data: bytes, at: list[int]) -> None:
    """How the bytes were split changes neither payload nor verdict."""
    whole, pieces = read([data]), read(split(data, at))

    assert whole[1:] == pieces[1:]
    if whole[1]:
        assert whole[0] == pieces[0]


@bounded
@given(st.one_of(coded, st.tuples(payloads, st.randoms(use_true_random=False)).map(lambda made: broken(*made))))
def test_no_more_lenient_than_the_rfc(data: bytes) -> None:
    """What the strict reader refuses is refused; what is accepted is the same payload and ends at the same byte."""
    payload, ended, rest, _ = read([data])
    strict = read_request(_HEAD + data)

    if ended:
        assert strict.whole, strict.why
        assert payload == strict.body
        assert len(_HEAD + data) - len(rest) == strict.end
    if strict.verdict is Verdict.MALFORMED:
        assert not ended


def broken(payload: list[bytes], random: Random) -> bytes:
    """Sound chunks with an accident."""
    return mutated_bytes(random, b"".join(map(chunk, payload)) + LAST_CHUNK)
