"""Sizes and times of the platform."""

import time

import pytest

from gateway.simulator import Options, Simulator

from .senders import Fields, Reply, connect, head_bytes, reply_of, send

MIB = 1024 * 1024


@pytest.fixture
def code(simulator: Simulator) -> Fields:
    return [("X-Apig-AppCode", simulator.credentials["app_code"])]


async def send_chunked(url: str, fields: Fields, total: int) -> Reply:
    reader, writer = await connect(url)
    writer.write(head_bytes(url, "POST", [*fields, ("Transfer-Encoding", "chunked")], None))
    for _ in range(total // MIB):
        writer.write(b"100000\r\n" + b"x" * MIB + b"\r\n")
    if total % MIB:
        writer.write(b"%x\r\n" % (total % MIB) + b"x" * (total % MIB) + b"\r\n")
    writer.write(b"0\r\n\r\n")
    data = await reader.read()
    writer.close()
    return reply_of(data)


@pytest.mark.parametrize("chunked", [pytest.param(False, id="declared"), pytest.param(True, id="chunked")])
@pytest.mark.parametrize(("size", "status"), [(12 * MIB, 200), (12 * MIB + 1, 413)])
async def test_twelve_mebibytes(simulator: Simulator, code: Fields, chunked: bool, size: int, status: int) -> None:
    """v1 takes 12 MiB and not a byte more."""
    url = simulator.urls["v1_app"] + "/echo"

    reply = await send_chunked(url, code, size) if chunked else await send(url, "POST", code, b"x" * size)

    assert reply.status == status
    if status == 200:
        assert reply.json()["body_bytes"] == size
    else:
        assert reply.json()["error_code"] == "APIG.0201"


async def test_too_large_is_said_before_the_upload(simulator: Simulator, code: Fields) -> None:
    """A caller that asks first is refused at once; one within the limit is told to go on."""
    url = simulator.urls["v1_app"] + "/echo"
    expect = [*code, ("Expect", "100-continue")]

    reader, writer = await connect(url)
    writer.write(head_bytes(url, "POST", expect, 13 * MIB))
    refused = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    reader, writer = await connect(url)
    writer.write(head_bytes(url, "POST", expect, 2))
    going_on = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"ok")
    answered = await reader.read()
    writer.close()

    assert refused.startswith(b"HTTP/1.1 413")
    assert going_on == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert reply_of(answered).json()["body_bytes"] == 2


@pytest.mark.parametrize(
    ("query", "fields", "status"),
    [
        pytest.param("?x=" + "y" * 33_000, [], 414, id="uri"),
        pytest.param("", [("X-Long", "y" * 33_000)], 494, id="one header"),
        pytest.param("", [(f"X-{n}", "y" * 30_000) for n in range(5)], 494, id="all headers"),
        pytest.param("", [(f"X-{n}", "y" * 30_000) for n in range(4)], 200, id="just fits"),
    ],
)
async def test_heads_have_limits(simulator: Simulator, code: Fields, query: str, fields: Fields, status: int) -> None:
    """A URI of 32 KB, one header of 32 KB, all of 128 KB."""
    reply = await send(simulator.urls["v1_app"] + "/echo" + query, "GET", [*code, *fields])

    assert reply.status == status


async def test_compressed_bodies_are_counted_as_received(simulator: Simulator, code: Fields) -> None:
    """Nothing is decoded on the way."""
    reply = await send(
        simulator.urls["v1_app"] + "/echo", "POST", [*code, ("Content-Encoding", "gzip")], b"\x1f\x8b\x08x"
    )

    assert reply.json()["body_bytes"] == 4


@pytest.mark.parametrize("options", [Options(deadline_seconds=0.3, v2_chunk_seconds=0.6, word_seconds=0.15)])
class TestTimes:
    """Limits that are made short."""

    async def test_v1_answers_504(self, simulator: Simulator, code: Fields) -> None:
        """A model slower than API Gateway's limit gives 504 at the limit."""
        began = time.monotonic()
        reply = await send(simulator.urls["v1_app"] + "/echo", "GET", [*code, ("X-Simulate", "slow=20s")])

        assert time.monotonic() - began < 5
        assert (reply.status, reply.json()["error_code"], reply.json()["error_msg"]) == (
            504,
            "APIG.0201",
            "Backend timeout.",
        )

    async def test_v1_counts_the_upload(self, simulator: Simulator, code: Fields) -> None:
        """A slow upload runs into the same limit."""
        url = simulator.urls["v1_app"] + "/echo"
        reader, writer = await connect(url)
        writer.write(head_bytes(url, "POST", code, 10) + b"x")

        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 504")
        writer.close()

    async def test_v1_cuts_a_stream(self, simulator: Simulator, code: Fields) -> None:
        """A stream that is still flowing at the limit is cut."""
        body = b'{"messages": [{"role": "user", "content": "one two three four five"}], "stream": true}'
        url = simulator.urls["v1_app"] + "/v1/chat/completions"

        reply = await send(url, "POST", code, body)

        assert reply.status == 200
        assert b"data: {" in reply.body
        assert not reply.body.endswith(b"0\r\n\r\n")

    async def test_v2_counts_from_chunk_to_chunk(self, simulator: Simulator) -> None:
        """A v2 stream may last, as long as no silence does; silence before it gives 504."""
        body = b'{"messages": [{"role": "user", "content": "one two three"}], "stream": true}'
        url = simulator.urls["v2_open"] + "/v1/chat/completions"

        lasting = await send(url, "POST", [], body)
        silent = await send(url, "POST", [("X-Simulate", "slow=20s")], body)

        assert lasting.body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert (silent.status, silent.json()["error_code"]) == (504, "CF2.E00003")


@pytest.mark.parametrize("options", [Options(v2_body_bytes=1000)])
async def test_v2_has_its_own_size(simulator: Simulator) -> None:
    """On v2 the size is a setting of the service, and the dispatcher says so."""
    reply = await send(simulator.urls["v2_open"] + "/echo", "POST", [], b"x" * 1001)

    assert (reply.status, reply.json()["error_code"]) == (413, "ModelArts.4104")
