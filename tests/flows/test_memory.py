"""Memory does not grow with bodies: measured on the process that users run."""

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path

import pytest
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, request_bytes
from running import Process, StartProcess, document, route

MIB = 1024 * 1024
SIZE = 12 * MIB
PIECE = os.urandom(256 * 1024)
CREDENTIALS = {
    payload: {"kind": "app_signature", "app_key": {"env": "KEY"}, "app_secret": {"env": "SECRET"}, "payload": payload}
    for payload in ("hash", "unsigned")
}
ENVIRON = {"KEY": "key-of-the-test", "SECRET": "secret-of-the-test"}


async def signing_process(start_process: StartProcess, fake: FakeModelArts) -> Process:
    routes = [route(name, f"{fake.url}/v1/infers/S", name, limits={"deadline": "60s"}) for name in CREDENTIALS]
    process: Process = await start_process(document(*routes, credentials=CREDENTIALS), ENVIRON)
    return process


async def upload(process: Process, path: str) -> int:
    """One upload of 12 MiB; the answer's status."""
    async with Caller(process.port) as caller:
        await caller.send(request_bytes("POST", path, {"Content-Length": str(SIZE)}))
        for _ in range(SIZE // len(PIECE)):
            await caller.send(PIECE)
        reply = await caller.reply()
        return reply.status if reply.json()["body_bytes"] == SIZE else 0


@pytest.mark.parametrize("payload", ["hash", "unsigned"])
async def test_many_large_uploads(start_process: StartProcess, payload: str) -> None:
    """32 signed uploads of 12 MiB at once keep the process under 150 MB."""
    async with FakeModelArts(keep_bodies=False) as fake:
        process = await signing_process(start_process, fake)

        statuses = await asyncio.gather(*(upload(process, f"/{payload}") for _ in range(32)))

        assert statuses == [200] * 32
        assert process.memory_bytes("VmHWM") < 150_000_000


async def test_large_bodies_leave_nothing_behind(start_process: StartProcess) -> None:
    """Bodies that went through temporary files arrive as they were, and a moment later no such file is open."""
    async with FakeModelArts() as fake:
        process = await signing_process(start_process, fake)
        for size in (3 * MIB, 2 * MIB + 1, 5 * MIB // 2):
            body = os.urandom(size)
            async with Caller(process.port) as caller:
                await caller.send(request_bytes("POST", "/hash", {}, body))
                assert (await caller.reply()).status == 200
            assert fake.last.body == body

        async with asyncio.timeout(5):
            while len(process.access_log()) < 3 or nameless_files(process):
                await asyncio.sleep(0.05)
        assert [line["body_mode"] for line in process.access_log()] == ["file"] * 3


def nameless_files(process: Process) -> list[str]:
    """What the process holds open that has no name on the disk any more."""
    found = []
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(str(descriptor.readlink()))
    return [name for name in found if name.endswith("(deleted)")]


def hold_little(writer: asyncio.StreamWriter) -> None:
    """Keep the kernel from growing this end's buffers: between them, two connections could hold the whole body."""
    for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, buffer, 64 * 1024)


async def test_a_slow_upstream_slows_the_caller(start_process: StartProcess) -> None:
    """An upstream that reads nothing stops the upload after what sockets and our small buffers hold."""
    go_on = asyncio.Event()

    async def sleepy(call: Call) -> None:
        call.writer.transport.pause_reading()  # type: ignore[attr-defined] # a stream's transport reads, too
        hold_little(call.writer)
        await go_on.wait()
        call.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await call.body()
        await call.reply("200 OK")

    async with FakeModelArts(sleepy, keep_bodies=False) as fake:
        process = await signing_process(start_process, fake)
        before = process.memory_bytes("VmRSS")
        sent = 0

        async with Caller(process.port) as caller:
            hold_little(caller.writer)
            await caller.send(request_bytes("POST", "/unsigned", {"Content-Length": str(SIZE)}))

            async def upload_all() -> None:
                nonlocal sent
                while sent < SIZE:
                    await caller.send(PIECE)
                    sent += len(PIECE)

            sending = asyncio.create_task(upload_all())
            stuck_at = await settled(lambda: sent)
            grown = process.memory_bytes("VmRSS") - before

            assert stuck_at < SIZE - MIB, "nothing slowed the caller"
            assert grown < 4 * MIB
            go_on.set()
            await sending
            assert (await caller.reply()).status == 200
        assert fake.last.body_bytes == SIZE


async def test_a_slow_caller_slows_the_upstream(start_process: StartProcess) -> None:
    """A caller that does not read an answer of 64 MiB stops the upstream, and the gateway holds little of it."""
    size = 64 * MIB
    sent = 0

    async def generous(call: Call) -> None:
        nonlocal sent
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            await call.send(PIECE)
            sent += len(PIECE)

    async with FakeModelArts(generous, keep_bodies=False) as fake:
        process = await signing_process(start_process, fake)
        before = process.memory_bytes("VmRSS")

        async with Caller(process.port) as caller:
            await caller.send(request_bytes("GET", "/unsigned"))
            caller.writer.transport.pause_reading()  # type: ignore[attr-defined] # as above
            stuck_at = await settled(lambda: sent)
            grown = process.memory_bytes("VmRSS") - before

            assert stuck_at < size // 2, "nothing slowed the upstream"
            assert grown < 4 * MIB
            caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
            reply = await caller.reply()
            assert len(reply.body) == size


async def settled(value: "object", quiet_seconds: float = 0.4) -> int:
    """A number once it has stopped growing."""
    assert callable(value)
    last, since = -1, time.monotonic()
    while time.monotonic() - since < quiet_seconds:
        await asyncio.sleep(0.02)
        if value() != last:
            last, since = value(), time.monotonic()
    return last


async def test_buffered_bodies_have_a_budget(start_process: StartProcess) -> None:
    """Bodies that a signature needs in memory share ``process.body_memory``; what does not fit is told to come back."""
    async with FakeModelArts(keep_bodies=False) as fake:
        routes = [route("hash", f"{fake.url}/v1/infers/S", "hash", replay="2MiB")]
        process = await start_process(
            document(*routes, credentials={"hash": CREDENTIALS["hash"]}, process={"body_memory": "1MiB"}), ENVIRON
        )

        async with Caller(process.port) as caller:
            await caller.send(request_bytes("POST", "/hash", {}, b"x" * (3 * MIB // 2)))
            reply = await caller.reply()

        assert (reply.status, reply.code, reply.details) == (503, "Gateway.Overloaded", "process.body_memory")
        assert reply.get("Retry-After") is not None
        assert fake.connections == 0
