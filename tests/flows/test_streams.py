"""Streams: events as they come, sockets that stay open, and answers that break off."""

import asyncio
import socket
import struct
import time
from typing import Any

import aiohttp
import openai
import pytest
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, CutOff, Reply, request_bytes
from running import InProcess, StartGateway, document, route

from flows.setups import environ, everything
from gateway.listener.connection import CallerConnection
from gateway.simulator import Simulator
from gateway.story import Story
from gateway.wire.chunks import ChunkedReader


@pytest.fixture
async def gateway(start_gateway: StartGateway, modelarts: Simulator) -> InProcess:
    config = everything(modelarts)
    for entry in config["routes"]:
        entry["websocket"] = entry["name"] in {"open", "token"}
    gateway = await start_gateway(config, environ(modelarts))
    await gateway.until_ready()
    return gateway


async def hear_one_by_one(gateway: InProcess, fake: FakeModelArts, events: list[bytes]) -> tuple[Reply, list[float]]:
    """Have the upstream send each event once the one before has come through: the answer, framing left in its body,
    and the seconds that each event was waited for."""
    heard = asyncio.Semaphore(0)

    async def behaviour(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in events:
            await call.send(b"%x\r\n%b\r\n" % (len(event), event))
            await heard.acquire()
        await call.send(b"0\r\n\r\n")

    fake.behaviour = behaviour
    seconds = []
    async with Caller(gateway.port) as caller, asyncio.timeout(10):
        await caller.send(request_bytes("POST", "/r", {}, b"{}"))
        reply = await caller.head()
        for event in events:
            began = time.monotonic()
            while event not in reply.body:
                reply.body += await caller.receive()
            seconds.append(time.monotonic() - began)
            heard.release()
        while not reply.body.endswith(b"0\r\n\r\n"):
            reply.body += await caller.receive()
    return reply, seconds


async def test_each_event_when_it_comes(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """An event has reached the caller before the upstream sends the next."""
    gateway = await start_gateway(document(route("r", fake.url)))

    reply, seconds = await hear_one_by_one(gateway, fake, [b"data: %d\n\n" % number for number in range(20)])

    assert reply.get("Content-Type") == "text/event-stream"
    assert sorted(seconds)[10] < 0.05


async def test_events_pass_by_the_story(
    start_gateway: StartGateway, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream's request is resumed for its beginning and its end, not for each of its events."""
    resumed = 0

    def count(story: Story) -> None:
        nonlocal resumed
        resumed += 1
        resume(story)

    resume = Story.resume
    monkeypatch.setattr(Story, "resume", count)
    gateway = await start_gateway(document(route("r", fake.url)))
    events = [b"event %02d" % number for number in range(100)]

    reply, _ = await hear_one_by_one(gateway, fake, events)

    assert reply.body == b"".join(b"8\r\n%b\r\n" % event for event in events) + b"0\r\n\r\n"
    assert resumed < 10
    (line,) = await gateway.access_log()
    assert (line["outcome"], line["response_bytes"]) == ("complete", 800)


@pytest.mark.parametrize("framing", ["chunked", "length", "until close"])
async def test_a_caller_that_reads_in_fits(
    start_gateway: StartGateway, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch, framing: str
) -> None:
    """However often a caller falls behind and catches up: every byte, in order."""
    pieces = [b"%06d" % number * 4000 for number in range(800)]  # 24 kB each
    behind = 0

    def falls_behind(connection: CallerConnection) -> None:
        nonlocal behind
        behind += 1
        pause_writing(connection)

    pause_writing = CallerConnection.pause_writing
    monkeypatch.setattr(CallerConnection, "pause_writing", falls_behind)

    async def says(call: Call) -> None:
        await call.body()
        fields = {"chunked": b"Transfer-Encoding: chunked\r\n", "length": b"Content-Length: %d\r\n" % (800 * 24000)}
        await call.send(b"HTTP/1.1 200 OK\r\n" + fields.get(framing, b"") + b"\r\n")
        for piece in pieces:
            await call.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
        if framing == "chunked":
            await call.send(b"0\r\n\r\n")
        call.writer.close()

    fake.behaviour = says
    gateway = await start_gateway(document(route("r", fake.url)))

    async with Caller(gateway.port) as caller, asyncio.timeout(20):
        await caller.send(
            b"GET /r HTTP/1.0\r\n\r\n"
            if framing == "until close"
            else request_bytes("GET", "/r", {"Connection": "close"})
        )
        await caller.head()
        got = bytearray()
        while piece := await caller.receive():
            if len(got) // 1_000_000 != (len(got) + len(piece)) // 1_000_000:
                await asyncio.sleep(0.05)
            got += piece

    assert behind > 1
    whole = unchunked(bytes(got)) if framing == "chunked" else bytes(got)
    assert whole == b"".join(pieces)


def unchunked(data: bytes) -> bytes:
    reader = ChunkedReader()
    payload = reader.feed(data)
    assert reader.ended
    return payload


async def test_openai_sdk(gateway: InProcess) -> None:
    """The OpenAI SDK works with the gateway as its base URL, and needs no key of its own."""
    question: Any = [{"role": "user", "content": "count one two three"}]
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/maas/v1", api_key="unused", max_retries=0) as client:
        whole = await client.chat.completions.create(model="m", messages=question)
        stream = await client.chat.completions.create(model="m", messages=question, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]

    assert whole.choices[0].message.content
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1


async def test_openai_sdk_shows_our_errors(gateway: InProcess) -> None:
    """An error of the gateway's own is readable in the SDK's exception."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/nowhere", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="m", messages=[])

    assert caught.value.code == "Gateway.RouteNotFound"
    assert "No route matches" in str(caught.value)


@pytest.mark.parametrize("path", ["open", "token"])
async def test_websocket(gateway: InProcess, modelarts: Simulator, path: str) -> None:
    """Frames pass both ways, large and small; the credential rides on the handshake; closing carries its code."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{gateway.url}/{path}/ws", protocols=["chat.v1"], max_msg_size=0) as conversation,
    ):
        await conversation.send_str("grüße")
        text = await conversation.receive_str()
        large = bytes(range(256)) * 8192
        await conversation.send_bytes(large)
        binary = await conversation.receive_bytes()
        await conversation.send_str("close 4001 enough")
        closing = await conversation.receive()

        assert (text, binary == large, conversation.protocol) == ("grüße", True, "chat.v1")
        assert (closing.type, closing.data, closing.extra) == (aiohttp.WSMsgType.CLOSE, 4001, "enough")
    kind = "none" if path == "open" else "token"
    assert modelarts.counters.accepted[kind] == 1
    line = (await gateway.access_log())[-1]
    assert (line["code"], line["route"]) == (101, path)
    assert min(line["request_bytes"], line["response_bytes"]) > len(large)


async def test_no_websocket_where_the_route_does_not_say_so(gateway: InProcess, modelarts: Simulator) -> None:
    """On other routes the Upgrade is dropped, and the upstream sees a plain request."""
    fields = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }

    reply = await gateway.ask("GET", "/code/echo", fields)

    assert reply.status == 200
    assert not {"upgrade"} & {name.lower() for name, _ in reply.json()["headers"]}


async def test_websocket_and_web_pages(gateway: InProcess, modelarts: Simulator) -> None:
    """A page that no ``cors`` names cannot open one."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(f"{gateway.url}/open/ws", headers={"Origin": "https://evil.example"})

    assert caught.value.status == 403
    assert modelarts.counters.requests["v2_open"] == 0


async def test_a_silent_websocket_ends(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """After the handshake ``idle`` counts and the deadline does not."""
    limits = {"idle": "500ms", "deadline": "300ms"}
    gateway = await start_gateway(document(route("ws", modelarts.urls["v2_open"], websocket=True, limits=limits)))

    async with aiohttp.ClientSession() as session, session.ws_connect(f"{gateway.url}/ws/ws") as conversation:
        for number in range(4):
            await asyncio.sleep(0.2)
            await conversation.send_str(str(number))
            assert await conversation.receive_str() == str(number)
        async with asyncio.timeout(5):
            last = await conversation.receive()

    assert last.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR}


async def test_frames_ride_with_the_handshake(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Bytes that come right behind either half of the handshake are not lost."""

    async def greets(call: Call) -> None:
        await call.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: x\r\n\r\nhello"
        )
        while data := await call.reader.read(100):
            await call.send(data)

    fake.behaviour = greets
    gateway = await start_gateway(document(route("ws", fake.url, websocket=True)))
    fields = {
        "Connection": "keep-alive, Upgrade",
        "Upgrade": "WebSocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("GET", "/ws", fields) + b"early")
        reply = await caller.reply()
        got = b""
        while len(got) < 10:
            got += await caller.receive()

    assert (reply.status, reply.get("Sec-WebSocket-Accept"), got) == (101, "x", b"helloearly")
    assert fake.last.get("Sec-WebSocket-Key") == fields["Sec-WebSocket-Key"]
    await fake.until(lambda: fake.open == 0)


@pytest.mark.parametrize(
    ("framing", "rest"),
    [
        pytest.param(b"Content-Length: 100", b"half", id="length"),
        pytest.param(b"Transfer-Encoding: chunked", b"4\r\nhalf\r\n", id="chunked"),
        pytest.param(b"Transfer-Encoding: chunked", b"64\r\nhalf", id="within a chunk"),
        pytest.param(b"Transfer-Encoding: chunked", b"4\r\nhalf\r\n0\r\n", id="before the very end"),
        pytest.param(b"Transfer-Encoding: chunked", b"4\r\nhalf\r\nnonsense\r\n\r\n", id="framing turns to nonsense"),
    ],
)
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_broken_off_after_the_head(
    start_gateway: StartGateway, fake: FakeModelArts, framing: bytes, rest: bytes, then: str
) -> None:
    """An answer that breaks off is cut for the caller, too: never whole, never a second answer, never tried again."""

    async def breaks(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\n" + framing + b"\r\n\r\n")
        await asyncio.sleep(0.05)
        await call.send(rest)
        await asyncio.sleep(0.05)
        if then == "reset":
            call.reset()
        else:
            call.writer.close()

    fake.behaviour = breaks
    gateway = await start_gateway(document(route("r", fake.url, retry={"attempts": 3, "idempotent": True})))

    with pytest.raises(CutOff) as cut:
        await gateway.ask("GET", "/r")

    assert cut.value.got in {b"half", b""}
    assert len(fake.received) == 1
    (line,) = await gateway.access_log()
    assert (line["code"], line["outcome"], line["error"]) == (200, "cut", "Gateway.UpstreamProtocolError")


async def test_an_answer_until_close_that_is_reset(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Where only the end of the connection ends a body, a reset upstream is a reset for the caller."""

    async def breaks(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await asyncio.sleep(0.05)
        call.reset()

    fake.behaviour = breaks
    gateway = await start_gateway(document(route("r", fake.url)))

    async with Caller(gateway.port) as caller:
        await caller.send(b"GET /r HTTP/1.0\r\n\r\n")
        await caller.head()
        with pytest.raises(ConnectionResetError):
            await read_to_the_end(caller)


async def read_to_the_end(caller: Caller) -> None:
    while await caller.receive():
        pass


@pytest.mark.parametrize("when", ["before the answer", "within the answer"])
async def test_a_caller_that_leaves(start_gateway: StartGateway, fake: FakeModelArts, when: str) -> None:
    """A caller that goes away ends the upstream request at once."""

    async def answers(call: Call) -> None:
        await call.body()
        if when == "within the answer":
            await call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await call.gone()

    fake.behaviour = answers
    gateway = await start_gateway(document(route("r", fake.url)))

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("POST", "/r", {}, b"{}"))
        await fake.until(lambda: bool(fake.received) and fake.received[0].complete)
        if when == "within the answer":
            await caller.head()
        leave(caller)
        began = time.monotonic()
        await fake.until(lambda: fake.open == 0)

    assert time.monotonic() - began < 2
    (line,) = await gateway.access_log()
    assert line["outcome"] == "caller_left"
    assert line["code"] == (499 if when == "before the answer" else 200)


def leave(caller: Caller) -> None:
    """Go as a killed process does."""
    connection = caller.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.writer.transport.abort()


async def test_a_caller_that_only_stopped_sending(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A caller that shuts its sending side and waits gets its answer."""

    async def slow(call: Call) -> None:
        await call.body()
        await asyncio.sleep(1)
        await call.reply("200 OK", b"here it is")

    fake.behaviour = slow
    gateway = await start_gateway(document(route("r", fake.url)))

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("POST", "/r", {}, b"{}"))
        caller.writer.write_eof()
        reply = await caller.reply()

    assert (reply.status, reply.body) == (200, b"here it is")


async def test_interim_answers(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Early Hints pass; the upstream's own 100 Continue does not."""

    async def hints(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await call.reply("200 OK", b"x")

    fake.behaviour = hints
    gateway = await start_gateway(document(route("r", fake.url)))

    reply = await gateway.ask("POST", "/r", body=b"{}")

    assert (reply.status, reply.interims) == (200, [103])
