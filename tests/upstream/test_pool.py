"""Connections that are kept: used again, closed in time, and never with somebody else's bytes on them."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_modelarts import Call, FakeModelArts, raw, says
from raw_caller import Caller, CutOff, ask, request_bytes
from running import InProcess, StartGateway, document, route

from gateway.body import Body
from gateway.errors import UpstreamUnreachable
from gateway.exchange import Exchange
from gateway.outbound import Outbound, Outline
from gateway.routes import Connection, Match, Route, UpstreamUrl
from gateway.story import Moment
from gateway.upstream import Attempt, Upstream, pool
from gateway.upstream.connection import UpstreamConnection
from gateway.wire.request_head import parse_request


async def gateway_of(start_gateway: StartGateway, fake: FakeModelArts, **more: Any) -> InProcess:
    return await start_gateway(document(route("r", fake.url, **more), route("s", fake.url, **more)))


async def test_one_connection_for_many_requests(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Requests one after the other, on routes to the same place and from different callers, share one connection."""
    gateway = await gateway_of(start_gateway, fake)

    for number in range(20):
        await ask(gateway.port, "POST", "/r" if number % 2 else "/s", body=b"x" * number)

    assert (len(fake.received), fake.connections) == (20, 1)
    assert [request.body_bytes for request in fake.received] == list(range(20))


async def test_as_many_connections_as_requests_at_once(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A request never waits for another one's connection, and afterwards all are kept for the next."""
    everybody = asyncio.Event()

    async def together(call: Call) -> None:
        await call.body()
        if len(fake.received) >= 20:
            everybody.set()
        await everybody.wait()
        await call.reply("200 OK")

    fake.behaviour = together
    gateway = await gateway_of(start_gateway, fake)

    first = await asyncio.gather(*(gateway.ask("GET", "/r") for _ in range(20)))
    second = await asyncio.gather(*(gateway.ask("GET", "/r") for _ in range(20)))

    assert {reply.status for reply in first + second} == {200}
    assert fake.connections == 20
    upstream = fake.url
    assert await gateway.metric(f'gateway_upstream_connections{{state="idle",upstream="{upstream}"}}') == 20
    assert await gateway.metric(f'gateway_upstream_connections{{state="busy",upstream="{upstream}"}}') == 0


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", id="it says close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", id="HTTP/1.0"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n", id="it says more than it should"
        ),
    ],
)
async def test_connections_that_are_not_used_again(
    start_gateway: StartGateway, fake: FakeModelArts, answer: bytes
) -> None:
    """A connection on which anything but the answer came is closed; the next request gets its own answer."""
    fake.plan = [raw(answer, then="stall")]
    gateway = await gateway_of(start_gateway, fake)

    first = await gateway.ask("GET", "/r")
    second = await gateway.ask("GET", "/r")

    assert (first.body, second.status, fake.connections) == (b"hi", 200, 2)
    assert second.json()["method"] == "GET"


async def test_an_early_answer_costs_the_connection(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """After an answer that did not wait for the upload, what is left of it goes to nobody else."""

    async def early(call: Call) -> None:
        await call.reply("401 Unauthorized", b"{}")
        await call.gone()

    fake.plan = [early]
    gateway = await gateway_of(start_gateway, fake)

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("POST", "/r", {"Content-Length": "100"}) + b"half")
        first = await caller.reply()
    second = await gateway.ask("GET", "/r")

    assert (first.status, second.status, fake.connections) == (401, 200, 2)


async def test_stale_connections(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A connection that the upstream closed meanwhile is not tried: requests that may not be sent twice do not fail."""
    gateway = await gateway_of(start_gateway, fake)

    async def last_one(call: Call) -> None:
        await call.body()
        await call.reply("200 OK", b"last")
        call.writer.close()

    fake.behaviour = last_one
    statuses = []
    for number in range(10):
        statuses.append((await gateway.ask("POST", "/r", body=b"{}")).status)
        await fake.until(lambda: fake.open == 0)
        await asyncio.sleep(0.01 * (number % 3))

    assert statuses == [200] * 10
    assert len(fake.received) == 10


async def test_a_connection_that_ends_as_soon_as_it_is_open(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent on it, so it is tried again at once; nobody waits for an answer that cannot come."""
    real, opened = pool.dial, 0

    async def heard_late(*given: Any) -> UpstreamConnection:
        connection = await real(*given)
        await asyncio.sleep(0.02)  # turns of the loop that a busy process takes
        return connection

    def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        writer.close()

    monkeypatch.setattr(pool, "dial", heard_late)
    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        gateway = await start_gateway(document(route("r", url, limits={"first_byte": "2s"})))

        reply = await gateway.ask("POST", "/r", body=b"{}")

    assert (reply.status, reply.proxy_error, opened) == (502, "connection_terminated", 2)
    assert await gateway.metric('gateway_retries_total{reason="connect",route="r"}') == 1


async def test_an_end_that_only_the_kernel_has_heard(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What accepts for an upstream that is not there (a port forwarder, say) closes at once: nothing is sent to it."""
    real = pool.dial
    listening = socket.create_server(("127.0.0.1", 0))
    received: list[bytes] = []
    opened = threading.Semaphore(0)

    def accept_and_close() -> None:
        with contextlib.suppress(OSError):  # listening ends
            while True:
                accepted, _ = listening.accept()
                opened.acquire(timeout=10)  # any sooner, the loop would hear of it while it opens the connection
                accepted.shutdown(socket.SHUT_WR)
                received.append(accepted.recv(1000))
                accepted.close()

    async def heard_by_the_kernel(*given: Any) -> UpstreamConnection:
        connection = await real(*given)
        opened.release()
        time.sleep(0.05)
        return connection

    monkeypatch.setattr(pool, "dial", heard_by_the_kernel)
    upstream = threading.Thread(target=accept_and_close)
    upstream.start()
    gateway = await start_gateway(document(route("r", f"http://127.0.0.1:{listening.getsockname()[1]}")))

    reply = await gateway.ask("POST", "/r", body=b"{}")

    listening.shutdown(socket.SHUT_RDWR)
    await asyncio.to_thread(upstream.join)
    listening.close()
    assert (reply.status, reply.proxy_error, received) == (502, "connection_terminated", [b"", b""])


async def test_bytes_that_nobody_asked_for(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """What an upstream says on an idle connection is never taken for the next answer."""

    async def talks(call: Call) -> None:
        await call.body()
        await call.reply("200 OK", b"asked")
        await asyncio.sleep(0.05)
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        await call.gone()

    fake.plan = [talks]
    gateway = await gateway_of(start_gateway, fake)

    first = await gateway.ask("GET", "/r")
    await fake.until(lambda: fake.open == 0)
    second = await gateway.ask("GET", "/r")

    assert (first.body, second.json()["method"], fake.connections) == (b"asked", "GET", 2)


async def test_idle_connections_are_closed(
    start_gateway: StartGateway, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway closes an idle connection before the upstream would."""
    monkeypatch.setattr(pool, "_IDLE_SECONDS", 0.1)
    gateway = await gateway_of(start_gateway, fake)

    await gateway.ask("GET", "/r")
    await fake.until(lambda: fake.open == 0)

    assert (await gateway.ask("GET", "/r")).status == 200
    assert fake.connections == 2


async def test_old_connections_are_replaced(
    start_gateway: StartGateway, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection in constant use ends all the same, so that a changed DNS answer is followed."""
    monkeypatch.setattr(pool, "_LIFE_SECONDS", 0.0)
    gateway = await gateway_of(start_gateway, fake)

    for _ in range(3):
        await gateway.ask("GET", "/r")

    assert fake.connections == 3


async def test_the_number_of_idle_connections_is_bounded(
    start_gateway: StartGateway, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rush only so many are kept."""
    monkeypatch.setattr(pool, "_IDLE_CONNECTIONS", 3)
    everybody = asyncio.Event()

    async def together(call: Call) -> None:
        await call.body()
        if len(fake.received) == 10:
            everybody.set()
        await everybody.wait()
        await call.reply("200 OK")

    fake.behaviour = together
    gateway = await gateway_of(start_gateway, fake)

    await asyncio.gather(*(gateway.ask("GET", "/r") for _ in range(10)))
    await fake.until(lambda: fake.open == 3)


async def test_routes_that_are_reached_differently_share_nothing(
    start_gateway: StartGateway, fake: FakeModelArts
) -> None:
    """The same name at another address is another place."""
    async with FakeModelArts(says("200 OK", b"other")) as other:
        routes = [
            route("a", "http://up.example.com", connection={"address": f"127.0.0.1:{fake.port}"}),
            route("b", "http://up.example.com", connection={"address": f"127.0.0.1:{other.port}"}),
        ]
        gateway = await start_gateway(document(*routes))

        for _ in range(2):
            assert (await gateway.ask("GET", "/a")).json()["method"] == "GET"
            assert (await gateway.ask("GET", "/b")).body == b"other"
        assert (fake.connections, other.connections) == (1, 1)


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_connection_that_dies_under_a_request(
    start_gateway: StartGateway, fake: FakeModelArts, idempotent: bool
) -> None:
    """A reset after the request was sent is only tried again where the route says that it may be sent twice."""

    async def dies(call: Call) -> None:
        await call.body()
        call.reset()

    fake.plan = [dies]
    gateway = await gateway_of(start_gateway, fake, retry={"idempotent": idempotent})

    reply = await gateway.ask("POST", "/r", body=b"{}")

    assert reply.status == (200 if idempotent else 502)
    assert len(fake.received) == (2 if idempotent else 1)
    reason = await gateway.metric('gateway_retries_total{reason="reset",route="r"}')
    assert reason == (1 if idempotent else 0)


async def test_busy_connections_are_counted_down(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """However a request ends, its connection no longer counts as busy."""
    gateway = await gateway_of(start_gateway, fake, limits={"deadline": "200ms"})
    for behaviour in (
        raw(b"", then="reset"),
        raw(b"junk\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
    ):
        fake.plan = [behaviour]
        try:
            await gateway.ask("GET", "/r")
        except CutOff:
            pass
    fake.plan = [raw(b"", then="stall")]
    await gateway.ask("GET", "/r")

    assert await gateway.metric(f'gateway_upstream_connections{{state="busy",upstream="{fake.url}"}}') == 0


class Answered(UpstreamConnection):
    """A connection to nobody, on which the answer to a request is there at once."""

    def write_whole(self, data: bytes) -> None:
        self.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")


class Open:
    """A transport that is open until somebody says otherwise."""

    closing = False

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> None:
        """There is no socket behind it."""


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Callable[[Upstream], Awaitable[Attempt]]:
    """An attempt, on a kept connection where there is one, answered already."""

    async def connect(*_: object) -> UpstreamConnection:
        connection = Answered()
        connection.transport = cast(asyncio.Transport, Open())
        connection.opened_at = time.monotonic()
        return connection

    async def attempt(upstream: Upstream) -> Attempt:
        body = cast(Body, SimpleNamespace(length=0, announced=False, ended=True, whole=None, take=lambda: b""))
        url = UpstreamUrl("http", "a", 80, "a", "")
        match = Match(Route("r", "/r", url, credential=""), "/")
        outline = Outline(parse_request(b"GET /r HTTP/1.1\r\nHost: a"), match, b"1.1 gateway")
        outbound = Outbound(outline, body, "id")
        moment = Moment(asyncio.get_running_loop())
        exchange = Exchange(moment, 0.0, "id", "GET", "/")
        connection = upstream.take_idle() or await upstream.connect(match.route, exchange)
        return upstream.send(connection, outbound, exchange)

    monkeypatch.setattr(pool, "dial", connect)
    return attempt


@pytest.fixture
def nobody() -> Upstream:
    return Upstream(UpstreamUrl("http", "a", 80, "a", ""), Connection())


async def test_releasing_twice_counts_once(send: Callable[[Upstream], Awaitable[Attempt]], nobody: Upstream) -> None:
    """What a clean-up does once more changes no count, and keeps no connection for two."""
    first, _second = await send(nobody), await send(nobody)

    nobody.release(first)
    nobody.release(first)

    assert (nobody.busy, nobody.idle) == (1, 1)


async def test_a_connection_that_is_about_to_close(
    send: Callable[[Upstream], Awaitable[Attempt]], nobody: Upstream
) -> None:
    """An end that came right behind the answer is heard a turn of the loop later; no request is sent to it meanwhile."""
    first = await send(nobody)
    cast(Open, first.connection.transport).closing = True
    nobody.release(first)

    second = await send(nobody)

    assert second.connection is not first.connection


@pytest.mark.parametrize(("earlier", "looked_at"), [(1, False), (2, True)], ids=["a new one died", "a kept one died"])
async def test_an_upstream_that_closes_behind_its_answers(
    send: Callable[[Upstream], Awaitable[Attempt]],
    nobody: Upstream,
    monkeypatch: pytest.MonkeyPatch,
    earlier: int,
    looked_at: bool,
) -> None:
    """After a kept connection was closed instead of answered, also those used a moment ago are looked at before use."""
    died, kept = await send(nobody), await send(nobody)
    died.connection.requests = earlier
    died.connection.fault = UpstreamUnreachable("closed", proxy_status="connection_terminated", sent=True)
    monkeypatch.setattr(UpstreamConnection, "abort", lambda connection: None)
    monkeypatch.setattr(UpstreamConnection, "close", lambda connection: None)
    monkeypatch.setattr(UpstreamConnection, "alive", lambda connection: connection is not kept.connection)
    nobody.release(died)
    nobody.release(kept)

    taken = await send(nobody)

    assert (taken.connection is not kept.connection) is looked_at


async def test_closed_connections_are_not_counted_as_idle(
    send: Callable[[Upstream], Awaitable[Attempt]], nobody: Upstream
) -> None:
    """What the upstream has closed is forgotten at the next sweep, wherever it stands."""
    attempts = [await send(nobody) for _ in range(5)]
    connections = [attempt.connection for attempt in attempts]
    for attempt in attempts:
        nobody.release(attempt)
    for closed in connections[1::2]:
        closed.connection_lost(None)

    nobody.sweep(time.monotonic())

    assert nobody.idle == 3
