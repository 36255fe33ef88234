"""Callers' connections: how heads arrive, how connections are kept, shared and ended."""

import asyncio
import random
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from fake_modelarts import Call, FakeModelArts, says
from raw_caller import Caller, CutOff, ask, request_bytes
from running import InProcess, StartGateway, document, route

from gateway.listener import Bounds, Listener

SECONDS = 5


@pytest.fixture
async def gateway(start_gateway: StartGateway, fake: FakeModelArts) -> InProcess:
    return await start_gateway(document(route("r", fake.url)))


WHOLE = {
    "length": request_bytes("POST", "/r/x?a=1", {"X-A": "1"}, b"hello world"),
    "chunked": request_bytes("POST", "/r/x?a=1", {"X-A": "1"}, b"hello world", chunk_bytes=4),
    "two requests": request_bytes("GET", "/r/1") + request_bytes("POST", "/r/2", {}, b"x"),
    "empty line first": b"\r\n" + request_bytes("GET", "/r"),
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
async def test_wherever_the_network_cuts(gateway: InProcess, fake: FakeModelArts, data: bytes) -> None:
    """A request that arrives in two reads, cut anywhere, or byte by byte, is the same request."""
    count = data.count(b"HTTP/1.1\r\n")
    async with Caller(gateway.port) as caller, asyncio.timeout(30):
        cuts = [[data[:at], data[at:]] for at in range(1, len(data))]
        for pieces in [*cuts, [bytes([byte]) for byte in data]]:
            for piece in pieces:
                caller.writer.write(piece)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert [(await caller.reply()).status for _ in range(count)] == [200] * count

    seen = {(request.method, request.target, request.body) for request in fake.received}
    assert len(seen) == count
    assert len(fake.received) == count * len(data)


async def test_many_requests_on_one_connection(gateway: InProcess, fake: FakeModelArts) -> None:
    """A connection is kept, with bodies of every framing on it."""
    async with Caller(gateway.port) as caller:
        for number in range(30):
            body = b"x" * (number * 1000)
            await caller.send(request_bytes("POST", f"/r/{number}", {}, body, chunk_bytes=700 if number % 2 else 0))
            reply = await caller.reply()
            assert (reply.status, reply.json()["body_bytes"], reply.get("Connection")) == (200, len(body), None)


async def test_small_answers_leave_at_once(gateway: InProcess) -> None:
    """The second of two small answers does not wait for the caller's acknowledgement of the first."""

    async def usual(data: bytes, count: int) -> float:
        seconds = []
        async with Caller(gateway.port) as caller:
            for _ in range(15):
                began = time.monotonic()
                await caller.send(data)
                for _ in range(count):
                    await caller.reply()
                seconds.append(time.monotonic() - began)
        return sorted(seconds)[7]

    one = await usual(request_bytes("GET", "/r"), 1)
    two = await usual(request_bytes("GET", "/r") * 2, 2)

    assert two < 20 * one


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_the_kernel_gathers_no_small_writes(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Whatever protocol number the listening socket was made with, which is where asyncio looks."""

    async def run() -> None:
        listener = Listener(_nobody, _nobody, Bounds(None, None, None), asyncio.get_running_loop())
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
        await listener.serve(sock)
        _, writer = await asyncio.open_connection(*sock.getsockname())
        while not listener.connections:
            await asyncio.sleep(0.001)
        (connection,) = listener.connections
        assert connection.transport is not None
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        listener.stop_listening()
        listener.abort()
        await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


def _nobody(*_: object) -> Any:
    raise AssertionError("there is no request")


async def test_the_last_answer_is_not_lost_to_what_comes_behind_it(gateway: InProcess) -> None:
    """Who sends on behind ``Connection: close`` hears the end, not a reset that may overtake the answer."""
    last = request_bytes("GET", "/r", {"Connection": "close"})
    async with Caller(gateway.port) as caller:
        await caller.send(last + b"GET ")
        assert (await caller.reply()).status == 200
        for _ in range(3):
            await caller.send(b"more")
            await asyncio.sleep(0.02)

        assert await caller.reader.read() == b""


async def test_pipelined_requests_are_answered_in_order(gateway: InProcess, fake: FakeModelArts) -> None:
    """Requests sent without waiting are answered one after the other."""

    async def slow_first(call: Call) -> None:
        await call.body()
        await asyncio.sleep(0.1 if call.request.target == "/0" else 0)
        await call.reply("200 OK", call.request.target.encode())

    fake.behaviour = slow_first
    async with Caller(gateway.port) as caller:
        await caller.send(b"".join(request_bytes("POST", f"/r/{number}", {}, b"x" * 5000) for number in range(20)))
        bodies = [(await caller.reply()).body for _ in range(20)]

    assert bodies == [f"/{number}".encode() for number in range(20)]


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        pytest.param(b"GET /r HTTP/1.1\r\nHost: x\r\n\r\n", True, id="HTTP/1.1"),
        pytest.param(b"GET /r HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False, id="close"),
        pytest.param(b"GET /r HTTP/1.0\r\n\r\n", False, id="HTTP/1.0"),
        pytest.param(b"GET /r HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True, id="HTTP/1.0 kept"),
    ],
)
async def test_how_long_a_connection_lives(gateway: InProcess, data: bytes, kept: bool) -> None:
    """As long as both sides want; the answer says so."""
    async with Caller(gateway.port) as caller:
        await caller.send(data)
        reply = await caller.reply()
        await caller.send(data)

        if kept:
            assert (await caller.reply()).status == 200
        else:
            assert reply.get("Connection") == "close"
            assert await caller.closed()


async def test_http_1_0_gets_no_chunks(gateway: InProcess, fake: FakeModelArts) -> None:
    """A streamed answer to HTTP/1.0 ends with the connection; no informational answers come before it."""

    async def streams(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await call.send(b"2\r\nhi\r\n0\r\n\r\n")

    fake.behaviour = streams
    async with Caller(gateway.port) as caller:
        await caller.send(b"GET /r HTTP/1.0\r\n\r\n")
        reply = await caller.reply()

    assert (reply.status, reply.interims, reply.body) == (200, [], b"hi")
    assert reply.get("Transfer-Encoding") is None


async def test_idle_connections_are_closed(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A kept connection that stays idle is closed without a word."""
    gateway = await start_gateway(document(route("r", fake.url), process={"keep_alive": "200ms"}))

    async with Caller(gateway.port) as caller, asyncio.timeout(SECONDS):
        await caller.send(request_bytes("GET", "/r"))
        await caller.reply()
        assert await caller.closed()


async def test_connections_without_a_head_are_closed(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Whoever connects and says nothing does not keep the connection."""
    gateway = await start_gateway(document(route("r", fake.url), process={"head": "200ms"}))

    async with Caller(gateway.port) as caller, asyncio.timeout(SECONDS):
        assert await caller.closed()


async def test_a_trickling_head_is_not_waited_for(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A head that comes byte by byte has the same time as any other."""
    gateway = await start_gateway(document(route("r", fake.url), process={"head": "400ms"}))

    async with Caller(gateway.port) as caller, asyncio.timeout(SECONDS):
        trickle = asyncio.create_task(drip(caller))
        reply = await caller.reply()
        trickle.cancel()

    assert (reply.status, reply.details) == (408, "process.head")


async def drip(caller: Caller) -> None:
    await caller.send(b"GET /r HTTP/1.1\r\nX: ")
    while True:
        await caller.send(b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET /" + b"x" * 70_000, 414, id="line, unfinished"),
        pytest.param(b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, id="line, whole"),
        pytest.param(b"GET /r HTTP/1.1\r\nX: " + b"x" * 70_000, 431, id="head, unfinished"),
        pytest.param(b"GET /r HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431, id="head, whole"),
        pytest.param(b"GET /r HTTP/1.1\r\nHost: x\r\n" + b"X: 1\r\n" * 12_000 + b"\r\n", 431, id="many fields"),
    ],
)
async def test_heads_have_a_bound(gateway: InProcess, fake: FakeModelArts, data: bytes, status: int) -> None:
    """64 KiB for request line and headers together."""
    async with Caller(gateway.port) as caller, asyncio.timeout(SECONDS):
        await caller.send(data)
        reply = await caller.reply()

        assert (reply.status, reply.details) == (status, "process.head_bytes")
        assert await caller.closed()
    assert fake.connections == 0


async def test_a_head_just_within_the_bound(gateway: InProcess) -> None:
    """What is not over it passes."""
    reply = await gateway.ask("GET", "/r", {"X": "x" * 65_000})

    assert reply.status == 200


async def test_a_second_head_has_the_same_bound(gateway: InProcess) -> None:
    """The bound counts from the head's own first byte."""
    async with Caller(gateway.port) as caller:
        for _ in range(3):
            await caller.send(request_bytes("GET", "/r", {"X": "x" * 60_000}))
            assert (await caller.reply()).status == 200


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"SSH-2.0-OpenSSH_9\r\n\r\n", id="SSH"),
        pytest.param(b"GET /r HTTP/1.1\nHost: x\n\n", id="bare LF"),
        pytest.param(b"\x00" * 10, id="zeros"),
    ],
)
async def test_other_protocols_are_told_at_once(gateway: InProcess, fake: FakeModelArts, data: bytes) -> None:
    """What cannot be HTTP/1 is answered without waiting for more, and closed."""
    async with Caller(gateway.port) as caller, asyncio.timeout(SECONDS):
        await caller.send(data)
        reply = await caller.reply()

        assert reply.status in {400, 505}
        assert await caller.closed()
    assert fake.connections == 0


@pytest.mark.parametrize("seed", range(3))
async def test_noise_breaks_nothing(gateway: InProcess, fake: FakeModelArts, seed: int) -> None:
    """Requests damaged at random get one clean answer at most, and the gateway serves the next caller."""
    choose = random.Random(seed)
    for _ in range(60):
        data = bytearray(choose.choice(list(WHOLE.values())))
        for _ in range(choose.randrange(1, 4)):
            data[choose.randrange(len(data))] = choose.choice(b"\x00\r\n :;,/0a\xff")
        async with Caller(gateway.port) as caller, asyncio.timeout(SECONDS):
            await caller.send(bytes(data))
            caller.writer.write_eof()
            answer = b""
            try:
                while piece := await caller.receive():
                    answer += piece
            except ConnectionResetError:
                pass
            assert not answer or answer.startswith(b"HTTP/1.1 ")
            assert b" 500 " not in answer[:20]

    assert (await gateway.ask("GET", "/r")).status == 200


async def test_smuggling_ends_the_connection(gateway: InProcess, fake: FakeModelArts) -> None:
    """After framing with two readings nothing more is read from the connection."""
    smuggled = b"POST /r HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"

    async with Caller(gateway.port) as caller, asyncio.timeout(SECONDS):
        await caller.send(smuggled + request_bytes("GET", "/r/smuggled"))
        reply = await caller.reply()

        assert reply.status == 400
        assert await caller.closed()
    assert fake.received == []


async def test_an_answer_before_the_upload_ended_is_heard(gateway: InProcess, fake: FakeModelArts) -> None:
    """A caller that is still uploading reads its refusal instead of a reset, and the connection ends."""
    async with Caller(gateway.port) as caller, asyncio.timeout(SECONDS):
        await caller.send(request_bytes("POST", "/nowhere", {"Content-Length": "10000000"}))
        uploading = asyncio.create_task(caller.send(b"x" * 3_000_000))
        reply = await caller.reply()
        await asyncio.gather(uploading, return_exceptions=True)

    assert (reply.status, reply.get("Connection")) == (404, "close")


async def test_an_upload_that_has_arrived_keeps_the_connection(gateway: InProcess, fake: FakeModelArts) -> None:
    """A refusal that did not look at the body leaves the connection in step when the body was there."""
    async with Caller(gateway.port) as caller, asyncio.timeout(SECONDS):
        await caller.send(request_bytes("POST", "/nowhere", {}, b"GET /r/smuggled HTTP/1.1\r\n\r\n"))
        first = await caller.reply()
        if first.get("Connection") != "close":
            await caller.send(request_bytes("GET", "/r/next"))
            assert (await caller.reply()).status == 200
    assert not [request for request in fake.received if "smuggled" in request.target]


def contexts(folder: Path, *, client: bool) -> tuple[dict[str, str], ssl.SSLContext]:
    """The configuration's ``tls`` and a caller's context, with a certificate of its own when ``client``."""
    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server.private_key_pem.write_to_path(str(folder / "tls.key"))
    server.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    settings = {"certificate": str(folder / "tls.crt"), "key": str(folder / "tls.key")}
    if client:
        settings["client_ca"] = str(folder / "ca.pem")
        authority.issue_cert("batch.example.com").configure_cert(context)
    return settings, context


async def test_https_for_callers(start_gateway: StartGateway, fake: FakeModelArts, tmp_path: Path) -> None:
    """With ``tls`` callers speak HTTPS, and plain HTTP gets nothing."""
    settings, context = contexts(tmp_path, client=False)
    gateway = await start_gateway(document(route("r", fake.url), tls=settings))

    reply = await ask(gateway.port, "POST", "/r", body=b"x" * 300_000, tls=context)

    assert (reply.status, reply.json()["body_bytes"]) == (200, 300_000)
    async with Caller(gateway.port) as caller, asyncio.timeout(SECONDS):
        await caller.send(request_bytes("GET", "/r"))
        assert await caller.closed()


async def test_callers_known_by_certificate(start_gateway: StartGateway, fake: FakeModelArts, tmp_path: Path) -> None:
    """A verified certificate tells who calls; without one there is no connection."""
    settings, context = contexts(tmp_path, client=True)
    callers = [{"name": "batch", "certificate": "batch.example.com", "routes": ["r"]}]
    gateway = await start_gateway(document(route("r", fake.url), tls=settings, callers=callers))

    reply = await ask(gateway.port, "GET", "/r", tls=context)
    assert reply.status == 200
    nobody = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with pytest.raises((ssl.SSLError, ConnectionError, CutOff)):  # TLS 1.3 tells the client only when it reads
        await ask(gateway.port, "GET", "/r", tls=nobody)
    assert [line["caller"] for line in await gateway.access_log()] == ["batch"]


async def test_a_slow_reader_gets_everything(gateway: InProcess, fake: FakeModelArts) -> None:
    """An answer that is complete here but not yet read is not cut off by the end of the connection."""
    fake.behaviour = says("200 OK", b"x" * 3_000_000)

    async with Caller(gateway.port) as caller, asyncio.timeout(20):
        await caller.send(request_bytes("GET", "/r", {"Connection": "close"}))
        await fake.until(lambda: bool(fake.received))
        await asyncio.sleep(0.5)
        reply = await caller.reply()

    assert len(reply.body) == 3_000_000
