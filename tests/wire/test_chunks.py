"""The chunked coding: any split of the bytes reads the same, and what has two readings is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.chunks import LAST_CHUNK, ChunkedReader, chunk
from gateway.wire.fields import HeadError


def read(*pieces: bytes) -> tuple[bytes, bool, bytes]:
    """Payload, whether it ended, and what stood behind it."""
    reader = ChunkedReader()
    payload = b""
    rest = b""
    for piece in pieces:
        if reader.ended:
            rest += piece
        else:
            payload += reader.feed(piece)
            rest = reader.rest
    return payload, reader.ended, rest


@pytest.mark.parametrize(
    ("framed", "payload"),
    [
        pytest.param(b"0\r\n\r\n", b"", id="empty"),
        pytest.param(b"5\r\nhello\r\n0\r\n\r\n", b"hello", id="one"),
        pytest.param(b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!", id="two"),
        pytest.param(b"00A\r\n0123456789\r\n000\r\n\r\n", b"0123456789", id="leading zeros, hexadecimal"),
        pytest.param(b"a;name=value\r\n0123456789\r\n0;x\r\n\r\n", b"0123456789", id="extensions"),
        pytest.param(b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", id="payload that looks like framing"),
        pytest.param(b"1\r\nx\r\n0\r\nTrailer: a\r\nOther: b\r\n\r\n", b"x", id="trailers"),
    ],
)
def test_reading(framed: bytes, payload: bytes) -> None:
    """The payload without its framing, whole or byte by byte; what follows belongs to the next message."""
    assert read(framed + b"GET /") == (payload, True, b"GET /")
    assert read(*(bytes([byte]) for byte in framed)) == (payload, True, b"")
    assert read(framed[:-1])[1] is False


@pytest.mark.parametrize(
    "framed",
    [
        pytest.param(b"5\nhello\r\n0\r\n\r\n", id="bare LF after the size"),
        pytest.param(b"5\r\nhello\n0\r\n\r\n", id="bare LF after the data"),
        pytest.param(b"5\r\nhello0\r\n\r\n", id="no CR LF after the data"),
        pytest.param(b"5\r\nhello\n\n", id="two LF after the data"),
        pytest.param(b"5\r\nhello\r0", id="CR alone after the data"),
        pytest.param(b"5\r\nhello!\r\n0\r\n\r\n", id="longer than it says"),
        pytest.param(b"5 \r\nhello\r\n0\r\n\r\n", id="space after the size"),
        pytest.param(b" 5\r\nhello\r\n0\r\n\r\n", id="space before the size"),
        pytest.param(b"+5\r\nhello\r\n0\r\n\r\n", id="sign"),
        pytest.param(b"-5\r\nhello\r\n0\r\n\r\n", id="minus"),
        pytest.param(b"0x5\r\nhello\r\n0\r\n\r\n", id="prefix"),
        pytest.param(b"5_0\r\nhello\r\n0\r\n\r\n", id="underscore"),
        pytest.param(b"\r\nhello\r\n0\r\n\r\n", id="no size"),
        pytest.param(b"g\r\nhello\r\n0\r\n\r\n", id="no digit"),
        pytest.param(b"11111111111111111\r\nhello", id="beyond 64 bits"),
        pytest.param(b"5;a\nb\r\nhello\r\n0\r\n\r\n", id="LF in an extension"),
        pytest.param(b"5;a\x00b\r\nhello\r\n0\r\n\r\n", id="NUL in an extension"),
        pytest.param(b"5;" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n", id="endless extension"),
        pytest.param(b"0\r\nTransfer-Encoding: chunked\r\n\r\n", id="framing among the trailers"),
        pytest.param(b"0\r\nContent-Length: 5\r\n\r\n", id="length among the trailers"),
        pytest.param(b"0\r\nno colon\r\n\r\n", id="trailer without a colon"),
        pytest.param(b"0\r\nA: b\nC: d\r\n\r\n", id="bare LF among the trailers"),
        pytest.param(b"0\r\n" + b"A: b\r\n" * 5000 + b"\r\n", id="endless trailers"),
    ],
)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "byte by byte"])
def test_refused(framed: bytes, split: bool) -> None:
    """Framing that servers read differently is refused, however it arrives."""
    with pytest.raises(HeadError):
        read(*((bytes([byte]) for byte in framed) if split else (framed,)))


def test_writing() -> None:
    """What we write is the plainest form, and reads back."""
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert LAST_CHUNK == b"0\r\n\r\n"


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


@given(CHUNKS, st.lists(st.integers(0, 400), max_size=8), st.binary(max_size=10))
def test_any_split_reads_the_same(pieces: list[bytes], cuts: list[int], behind: bytes) -> None:
    """Where the network cuts the bytes changes nothing: payload, end and rest are the same."""
    framed = b"".join(map(chunk, pieces)) + LAST_CHUNK + behind
    at = sorted({min(cut, len(framed)) for cut in cuts})
    parts = [framed[begin:end] for begin, end in zip([0, *at], [*at, len(framed)], strict=True)]

    assert read(*parts) == (b"".join(pieces), True, behind)


@given(st.binary(max_size=60), st.integers(0, 60))
def test_noise_reads_the_same_split_or_whole(noise: bytes, cut: int) -> None:
    """A split never turns what is refused into a message that ends, nor the other way round."""

    def outcome(*pieces: bytes) -> tuple[bytes, bytes] | None:
        try:
            payload, ended, rest = read(*pieces)
        except HeadError:
            return None
        return (payload, rest) if ended else None

    assert outcome(noise) == outcome(noise[:cut], noise[cut:])


def lines(*styles: str) -> st.SearchStrategy[str]:
    return st.sampled_from(styles)


@given(
    pieces=st.lists(
        st.tuples(st.binary(min_size=1, max_size=40), lines("%x", "%X", "%04x", "%x;a=b"), st.integers(0, 60)),
        min_size=1,
        max_size=8,
    )
)
def test_reads_that_are_whole_chunks(pieces: list[tuple[bytes, str, int]]) -> None:
    """Streams send a chunk at a time. Such reads, and others between them, give what the same bytes give one by one."""
    reads = []
    for payload, style, cut in pieces:
        framed = (style % len(payload)).encode() + b"\r\n" + payload + b"\r\n"
        reads += [framed] if cut >= len(framed) else [framed[:cut], framed[cut:]]

    assert read(*reads, LAST_CHUNK) == (b"".join(payload for payload, _, _ in pieces), True, b"")


def test_a_chunk_as_we_write_it() -> None:
    """It is known as one by its two ends and its length, unless it is long."""
    for length in range(1, 2100):
        framed = chunk(b"x" * length)
        size = framed[: -length - 4]
        assert ChunkedReader().whole(framed) == (length if len(framed) < 2048 else 0)
        for other in (
            framed[:-1],
            framed[1:],
            framed + b"x",
            b"0" + framed,
            framed[:-2] + b"xx",
            size + b";x" + framed[len(size) :],
            size + b"\n" + framed[len(size) + 2 :],
        ):
            assert ChunkedReader().whole(other) == 0
    for other in (b"", b"\r\n", b"1\r\n\r\n", LAST_CHUNK, b"A\r\n0123456789\r\n", b"-1\r\nxx\r\n"):
        assert ChunkedReader().whole(other) == 0


@given(st.binary(max_size=40))
def test_nothing_else_is_one(noise: bytes) -> None:
    """What is taken for a chunk of ours is one, to the byte."""
    for data in (noise, b"%x\r\n" % len(noise) + noise, noise + b"\r\n", chunk(noise)):
        length = ChunkedReader().whole(data)
        assert not length or data == chunk(data[-length - 2 : -2])


@pytest.mark.parametrize("before", [b"5", b"5\r\nhel", b"5\r\nhello\r", b"0\r\n"])
def test_what_looks_like_one_within_another(before: bytes) -> None:
    """Only between chunks can one begin."""
    reader = ChunkedReader()
    reader.feed(before)

    assert reader.whole(chunk(b"lo")) == 0


def test_payload_that_looks_like_a_chunk() -> None:
    """Where one read ends and the next begins says nothing about what the bytes are."""
    reader = ChunkedReader()

    assert reader.feed(b"a\r\n") == b""
    assert reader.feed(b"5\r\nhello\r\n") == b"5\r\nhello\r\n"
    with pytest.raises(HeadError, match="longer than its size"):
        reader.feed(b"5\r\nhello\r\n")


def test_one_read_is_one_payload() -> None:
    """What a chunk holds is there as soon as the chunk is, and nothing of the next."""
    reader = ChunkedReader()

    assert reader.feed(b"5\r\nhello\r\n") == b"hello"
    assert reader.feed(b"3\r\nyou\r\n1\r\n!") == b"you!"
    assert reader.feed(b"\r\n") == b""
    assert reader.feed(b"2\r\n\r\n\r\n") == b"\r\n"
    assert not reader.ended
    assert reader.feed(b"0\r\n\r\n") == b""
    assert reader.ended
