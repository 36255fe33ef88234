"""Many of everything, and nothing left behind."""

import asyncio

from tests.conformance.bench import Bench
from tests.conformance.caller import Caller
from tests.conformance.case import Severity, case
from tests.conformance.upstream import Link

_REQUESTS, _RESETS, _ABANDONED, _CUT = 20_000, 500, 500, 300
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def _serve(link: Link) -> None:
    """A quick upstream: /big answers without end, whatever comes else gets two bytes when its head is there."""
    while not link.eof:
        end = link.buffer.find(b"\r\n\r\n")
        if end < 0:
            await link.changed()
            continue
        head = link.take(end + 4)
        if b"/big " in head[:200]:
            link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not link.eof:
                await link.send_all(b"1000\r\n" + b"a" * 4096 + b"\r\n", 1.0)
                await asyncio.sleep(0.005)
        elif b"/upload " in head[:200]:
            await link.until(lambda: link.eof, 5)
        else:
            link.send(_OK)
        link.record.clear()
    link.close()


async def _requests(x: Bench, count: int) -> None:
    async def one(share: int) -> None:
        caller = await Caller.connect(x.lane.host, x.lane.port)
        raw = x.raw()
        try:
            for _ in range(share):
                caller.send(raw)
                ok = await caller.until(lambda: caller.buffer.endswith(b"\r\n\r\nok") or caller.eof, 10)
                x.expect(ok and caller.buffer.startswith(b"HTTP/1.1 200"), f"{bytes(caller.buffer[:60])!r}")
                caller.buffer.clear()
                caller.record.clear()
        finally:
            caller.close()

    await asyncio.gather(*(one(count // 20) for _ in range(20)))


async def _resets(x: Bench, count: int) -> None:
    for number in range(count):
        caller = await Caller.connect(x.lane.host, x.lane.port)
        caller.send(x.raw()[: 20 if number % 2 else None])
        await asyncio.sleep(0.001)
        caller.reset()


async def _abandoned(x: Bench, count: int) -> None:
    async def one() -> None:
        caller = await Caller.connect(x.lane.host, x.lane.port)
        caller.send(x.raw(b"GET", b"/big"))
        await caller.until(lambda: caller.received_bytes > 4096 or caller.eof, 10)
        caller.close()

    for _ in range(count // 25):
        await asyncio.gather(*(one() for _ in range(25)))


async def _cut(x: Bench, count: int) -> None:
    async def one(number: int) -> None:
        caller = await Caller.connect(x.lane.host, x.lane.port)
        line = b"Transfer-Encoding: chunked" if number % 2 else b"Content-Length: 100000"
        caller.send(x.raw(b"POST", b"/upload", line) + (b"2000\r\n" if number % 2 else b"") + b"a" * 8192)
        await asyncio.sleep(0.03)
        (caller.reset if number % 3 else caller.close)()

    for at in range(0, count, 25):
        await asyncio.gather(*(one(number) for number in range(at, at + 25)))


async def _settle(x: Bench, descriptors: int | None = None) -> tuple[int, int]:
    """Memory and descriptors when everybody has gone."""
    for link in x.upstream.links:
        link.close()
    x.upstream.links.clear()
    for _ in range(50):
        await asyncio.sleep(0.1)
        if descriptors is None or x.descriptors() <= descriptors:
            break
    return x.memory_bytes(), x.descriptors()


@case(
    "soak/nothing-left-behind",
    "20,000 requests, 500 resets, 500 abandoned answers and 300 cut uploads leave memory and descriptors where they were",
    "leaks of tasks, buffers and sockets",
    Severity.CRITICAL,
    attacks="both",
    alone=True,
    slow=True,
    seconds=90,
)
async def nothing_left(x: Bench) -> None:
    x.upstream.on_connect = _serve
    for share in (20, 10):  # what is allocated once is allocated now
        await _requests(x, _REQUESTS // share)
        await _resets(x, _RESETS // share)
        await _abandoned(x, 50)
        await _cut(x, 50)
    memory, descriptors = await _settle(x)
    await _requests(x, _REQUESTS)
    await _resets(x, _RESETS)
    await _abandoned(x, _ABANDONED)
    await _cut(x, _CUT)
    memory_after, descriptors_after = await _settle(x, descriptors)
    x.expect(descriptors_after <= descriptors, f"{descriptors} descriptors before, {descriptors_after} after")
    x.expect(memory_after - memory < 6_000_000, f"{(memory_after - memory) / 1e6:.1f} MB more memory")
