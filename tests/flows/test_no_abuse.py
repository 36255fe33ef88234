"""What one caller, page or upstream must not be able to do to the others."""

import asyncio
import socket
import struct
import time

import pytest
from fake_modelarts import Call, FakeModelArts, says
from raw_caller import Caller, request_bytes
from running import InProcess, StartGateway, document, route

KEYS = {"KEY": "planted-access-key", "SECRET": "planted-secret-key"}
SIGNING = {"k": {"kind": "aksk_signature", "access_key": {"env": "KEY"}, "secret_key": {"env": "SECRET"}}}
HANDSHAKE = (
    b"GET /r HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def test_a_retried_upload_is_whole_or_not_sent(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """What looking at a failed answer cost the body of its beginning is never sent as a whole body."""

    async def fails_while_reading(call: Call) -> None:
        head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 64\r\n\r\n"
        await call.send(head)
        await call.body()
        await call.send(b'{"error_code":"ModelArts.4302","error_msg":"connection refused"}')

    fake.plan = [fails_while_reading]
    gateway = await start_gateway(
        document(route("r", fake.url, replay="64KiB", retry={"attempts": 2, "idempotent": True}))
    )

    async with Caller(gateway.port) as caller:
        await caller.send(b"POST /r HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nBEGIN \r\n")
        for _ in range(10):
            await caller.send(b"4000\r\n" + b"a" * 0x4000 + b"\r\n")
            await asyncio.sleep(0.01)
        await caller.send(b"3\r\nEND\r\n0\r\n\r\n")
        reply = await caller.reply()

    assert reply.status == 503
    assert [request.body_bytes for request in fake.received] == [6 + 10 * 0x4000 + 3]


async def test_a_caller_that_does_not_read_is_not_answered_without_end(
    start_gateway: StartGateway, fake: FakeModelArts
) -> None:
    """Pipelined requests wait until their caller has read; one that never does is answered a few times at most."""
    fake.behaviour = says("200 OK", b"x" * 100_000)
    gateway = await start_gateway(document(route("r", fake.url)))

    async with Caller(gateway.port) as caller:
        caller.writer.write(request_bytes("GET", "/r") * 2000)
        await asyncio.sleep(1.5)

        assert len(fake.received) < 200


async def test_pipelined_callers_that_read_late_get_every_answer(
    start_gateway: StartGateway, fake: FakeModelArts
) -> None:
    """Waiting for the caller to read loses nothing."""
    fake.behaviour = says("200 OK", b"x" * 100_000)
    gateway = await start_gateway(document(route("r", fake.url)))

    async with Caller(gateway.port) as caller:
        caller.writer.write(request_bytes("GET", "/r") * 100)
        await asyncio.sleep(0.5)
        replies = [await caller.reply() for _ in range(100)]

    assert {(reply.status, len(reply.body)) for reply in replies} == {(200, 100_000)}


async def test_a_websocket_moves_both_ways_at_once(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A caller that sends for long before it reads is not stopped by what waits for it."""
    size = 24 * 1024 * 1024  # more than what the sockets on the way can hold

    async def floods(call: Call) -> None:
        await call.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")

        async def flood() -> None:
            for _ in range(size // 65536):
                await call.send(b"y" * 65536)

        task = asyncio.create_task(flood())
        await call.reader.readexactly(size)
        await task

    fake.plan = [floods]
    gateway = await start_gateway(document(route("r", fake.url, websocket=True)))

    async with Caller(gateway.port) as caller:
        await caller.send(HANDSHAKE)
        head = await caller.head()
        async with asyncio.timeout(10):
            for _ in range(size // 65536):
                await caller.send(b"z" * 65536)
            received = 0
            while received < size:
                received += len(await caller.receive())

    assert (head.status, received) == (101, size)


async def test_connections_are_counted_right_when_callers_leave_between_attempts(
    start_gateway: StartGateway, fake: FakeModelArts
) -> None:
    """No connection stays busy after its request."""

    async def resets(call: Call) -> None:
        await call.body()
        call.reset()

    fake.behaviour = resets
    gateway = await start_gateway(document(route("r", fake.url, retry={"attempts": 3, "idempotent": True})))

    for number in range(20):
        async with Caller(gateway.port) as caller:
            await caller.send(request_bytes("POST", "/r", body=b"x"))
            await asyncio.sleep(0.005 * number)
            gone = caller.writer.get_extra_info("socket")
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a half-close
            caller.writer.transport.abort()
    await until_idle(gateway)

    upstream = f'gateway_upstream_connections{{state="busy",upstream="{fake.url}"}}'
    assert await gateway.metric(upstream) == 0


@pytest.mark.parametrize(
    ("site", "status"),
    [
        pytest.param("cross-site", 403, id="another site's image or link"),
        pytest.param("same-site", 403, id="another port's page"),
        pytest.param("none", 200, id="a person at the address bar"),
        pytest.param("same-origin", 200, id="our own page"),
    ],
)
async def test_pages_that_name_no_origin(
    start_gateway: StartGateway, fake: FakeModelArts, site: str, status: int
) -> None:
    """A foreign page's ``<img>`` or link, which sends no Origin, spends no credential either."""
    gateway = await start_gateway(document(route("r", fake.url)))

    reply = await gateway.ask("GET", "/r", {"Sec-Fetch-Site": site})

    assert reply.status == status
    assert len(fake.received) == (status == 200)


async def test_a_quoted_refusal_dates_no_signature(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A model's error that quotes its caller says nothing about the time."""
    fake.plan = [says("400 Bad Request", b'{"detail": "signature expired, server time: 20400101T000000Z"}')]
    gateway = await start_gateway(document(route("r", fake.url, "k"), credentials=SIGNING), KEYS)

    await gateway.ask("POST", "/r", body=b"quote me")
    await gateway.ask("POST", "/r", body=b"x")

    assert (fake.last.get("X-Sdk-Date") or "").startswith(time.strftime("%Y%m%dT", time.gmtime()))


async def test_a_refused_signature_is_heard_when_its_body_comes_late(
    start_gateway: StartGateway, fake: FakeModelArts
) -> None:
    """The lock-out is prevented however the refusal was cut by the network, and with no retry to look forward to."""
    body = b'{"error_code":"APIG.0301","error_msg":"verify aksk signature fail","request_id":"x"}'

    async def refuses_late(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n" % len(body))
        await asyncio.sleep(0.03)
        await call.send(body)

    fake.behaviour = refuses_late
    gateway = await start_gateway(document(route("r", fake.url, "k", retry={"attempts": 1}), credentials=SIGNING), KEYS)

    statuses = [(await gateway.ask("GET", "/r")).status for _ in range(10)]

    assert statuses == [401] * 4 + [503] * 6
    assert len(fake.received) == 4


async def test_each_failure_counts_once_for_the_breaker(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """``failures: 2`` means two: the first 503 leaves the route open, the second one pauses it."""
    fake.behaviour = says("503 Service Unavailable", b"{}")
    gateway = await start_gateway(document(route("r", fake.url, breaker={"failures": 2, "open": "60s"})))

    replies = [await gateway.ask("GET", "/r") for _ in range(4)]

    assert len(fake.received) == 2
    assert [reply.get("Proxy-Status") is not None for reply in replies] == [False, False, True, True]


@pytest.mark.parametrize("setting", ["limits.idle", "limits.deadline"])
async def test_callers_that_do_not_read_close_no_route(
    start_gateway: StartGateway, fake: FakeModelArts, setting: str
) -> None:
    """Whoever leaves its answer unread is at fault for what that comes to, not the upstream: the breaker hears no failure."""
    fake.behaviour = says("200 OK", b"x" * 20_000_000)
    limits = {setting.removeprefix("limits."): "300ms"}
    gateway = await start_gateway(document(route("r", fake.url, breaker={"failures": 2, "open": "60s"}, limits=limits)))

    for number in range(3):
        async with Caller(gateway.port) as caller:
            caller.writer.transport.pause_reading()
            await caller.send(request_bytes("GET", "/r"))
            await fake.until(lambda number=number: len(fake.received) > number)
            await until_idle(gateway)

    fake.behaviour = says("200 OK", b"read")
    assert (await gateway.ask("GET", "/r")).status == 200
    lines = (await gateway.access_log())[:3]
    assert [(line["error"], line["outcome"]) for line in lines] == [("Gateway.RequestTimeout", "cut")] * 3


async def test_a_caller_that_read_on_is_not_blamed_for_the_upstream(
    start_gateway: StartGateway, fake: FakeModelArts
) -> None:
    """Only while it does not read: that it kept an upstream waiting before does not excuse one that then falls silent."""
    size = 20_000_000

    async def falls_silent(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (size + 1) + b"x" * size)
        await call.gone()

    fake.behaviour = falls_silent
    gateway = await start_gateway(document(route("r", fake.url, limits={"idle": "500ms"})))

    async with Caller(gateway.port) as caller:
        caller.writer.transport.pause_reading()
        await caller.send(request_bytes("GET", "/r"))
        await fake.until(lambda: bool(fake.received))
        async with asyncio.timeout(5):
            while not any(exchange.waits_for_reader for exchange in gateway.gateway.serving.proxy._live):
                await asyncio.sleep(0.01)
        caller.writer.transport.resume_reading()
        async with asyncio.timeout(5):
            while await caller.receive():
                pass
        await until_idle(gateway)

    (line,) = await gateway.access_log()
    assert (line["error"], line["outcome"], line["response_bytes"]) == ("Gateway.UpstreamTimeout", "cut", size)


async def test_silent_tunnels_close_no_route(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A tunnel ends when both sides have been silent for ``idle``; that says nothing against the upstream."""

    async def shakes_hands(call: Call) -> None:
        await call.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await asyncio.sleep(5)

    fake.behaviour = shakes_hands
    gateway = await start_gateway(
        document(route("r", fake.url, websocket=True, breaker={"failures": 2, "open": "60s"}, limits={"idle": "200ms"}))
    )

    for _ in range(3):
        async with Caller(gateway.port) as caller:
            await caller.send(HANDSHAKE)
            assert b" 101 " in await caller.reader.readuntil(b"\r\n\r\n")
            await until_idle(gateway)

    fake.behaviour = says("200 OK", b"after")
    assert (await gateway.ask("GET", "/r")).status == 200


async def test_an_unread_tunnel_ends_by_its_callers_fault(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """The log names who it was that did not read."""

    async def floods(call: Call) -> None:
        await call.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await call.send(b"x" * 20_000_000)

    fake.behaviour = floods
    gateway = await start_gateway(document(route("r", fake.url, websocket=True, limits={"idle": "300ms"})))

    async with Caller(gateway.port) as caller:
        caller.writer.transport.pause_reading()
        await caller.send(HANDSHAKE)
        await fake.until(lambda: bool(fake.received))
        await until_idle(gateway)

    (line,) = await gateway.access_log()
    assert (line["error"], line["outcome"]) == ("Gateway.RequestTimeout", "cut")


async def until_idle(gateway: InProcess) -> None:
    async with asyncio.timeout(5):
        while gateway.gateway.serving.proxy.in_flight:
            await asyncio.sleep(0.01)
