"""A rolling restart behind a balancer that honours readiness: no request is lost."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, ask, request_bytes
from running import Document, Process, StartProcess, document, route

LOOK_SECONDS = 0.1


class Balancer:
    """Hands each new connection to the next gateway that is ready and takes it; looks often, and sends nothing twice."""

    def __init__(self) -> None:
        self.gateways: list[tuple[int, int]] = []  # port, admin port
        self._ready: list[int] = []
        self._turn = 0
        self._pipes: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        looking = asyncio.create_task(self._look())
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            looking.cancel()
            server.close()
            for pipe in self._pipes:
                pipe.cancel()
            await asyncio.gather(looking, *self._pipes, return_exceptions=True)

    async def until_ready(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self._ready) < count:
                await asyncio.sleep(0.02)

    async def _look(self) -> None:
        while True:
            ready = []
            for port, admin_port in self.gateways:
                with contextlib.suppress(OSError):
                    if (await ask(admin_port, "GET", "/readyz")).status == 200:
                        ready.append(port)
            self._ready = ready
            await asyncio.sleep(LOOK_SECONDS)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            their_reader, their_writer = await self._reached()
        except BaseException:
            writer.close()
            raise
        for one, other in ((reader, their_writer), (their_reader, writer)):
            pipe = asyncio.create_task(self._pass(one, other))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _reached(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that stopped listening since it was looked at, as happens where all are short of time, refuses: the next one, then."""
        async with asyncio.timeout(10):
            while True:
                self._turn += 1
                for port in self._ready[self._turn % max(len(self._ready), 1) :]:
                    with contextlib.suppress(ConnectionError):
                        return await asyncio.open_connection("127.0.0.1", port)
                await asyncio.sleep(0.01)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                while piece := await reader.read(65536):
                    writer.write(piece)
                    await writer.drain()
            finally:
                writer.close()


async def slowly(call: Call) -> None:
    """An answer that takes a moment, in two parts."""
    body = await call.body()
    await asyncio.sleep(0.02)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    await call.send(head + body[:10])
    await asyncio.sleep(0.02)
    await call.send(body[10:])


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_a_rolling_restart(
    start_process: StartProcess, fake: FakeModelArts, tmp_path: Path, workers: int
) -> None:
    """Two gateways are restarted one after the other under load; every request on every connection is answered whole."""
    fake.behaviour = slowly
    config: Document = document(route("r", fake.url), workers=workers, process={"drain_delay": "600ms"})
    balancer = Balancer()
    over = asyncio.Event()
    answered = 0

    async def calls_on(port: int) -> None:
        """Keeps its connection until an answer says that it was the last."""
        nonlocal answered
        while not over.is_set():
            async with Caller(port) as caller:
                while not over.is_set():
                    await caller.send(request_bytes("POST", "/r", {}, b"x" * 1000))
                    reply = await caller.reply()
                    assert (reply.status, reply.body) == (200, b"x" * 1000)
                    answered += 1
                    if reply.get("Connection") == "close":
                        break

    async def started() -> Process:
        process = await start_process(dict(config))
        balancer.gateways.append((process.port, process.admin_port))
        return process

    async with balancer.running() as port:
        gateways = [await started(), await started()]
        await balancer.until_ready(2)
        callers = [asyncio.create_task(calls_on(port)) for _ in range(12)]
        await fake.until(lambda: answered > 50)
        for old in gateways:
            old.signal(signal.SIGTERM)
            assert await old.ended() == 0
            balancer.gateways.remove((old.port, old.admin_port))
            await started()
            await balancer.until_ready(2)
        at_the_end = answered
        await fake.until(lambda: answered > at_the_end + 50)
        failed = [task for task in callers if task.done()]
        over.set()
        await asyncio.gather(*callers)

    assert failed == []
    assert answered == len(fake.received)


async def until_refused(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_what_each_connection_sees(start_process: StartProcess, fake: FakeModelArts, workers: int) -> None:
    """After ``drain_delay`` idle connections close, an upload goes on to its end, and a new request on a kept connection is told."""
    process = await start_process(document(route("r", fake.url), workers=workers))

    async with Caller(process.port) as idle, Caller(process.port) as late, Caller(process.port) as uploading:
        for caller in (idle, late):
            await caller.send(request_bytes("GET", "/r"))
            await caller.reply()
        await uploading.send(request_bytes("POST", "/r", {"Content-Length": "10"}) + b"first")
        await fake.until(lambda: len(fake.received) == 3)
        await late.send(b"GET /r HTTP/1.1\r\n")
        await asyncio.sleep(0.2)
        process.signal(signal.SIGTERM)
        await until_refused(process.port)

        assert await idle.closed()
        await late.send(b"Host: gateway.example\r\n\r\n")
        told = await late.reply()
        await uploading.send(b"other")
        reply = await uploading.reply()

        assert (told.status, told.code, told.proxy_error) == (503, "Gateway.Draining", "destination_unavailable")
        assert told.get("Retry-After") is not None
        assert (reply.status, reply.get("Connection")) == (200, "close")
        assert (fake.last.complete, fake.last.body) == (True, b"firstother")
        assert await uploading.closed()
    assert await process.ended() == 0
