"""Streams: what arrives leaves at once, and a slow side costs no memory."""

import asyncio
import statistics

from tests.conformance.bench import Bench, now
from tests.conformance.caller import Caller
from tests.conformance.case import Case, Run, Severity, add, case
from tests.conformance.messages import Request, read_body
from tests.conformance.upstream import Link, own_answer

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR
_MB = 1_000_000


def _leaves(first: bytes, seen: bytes, rest: bytes, end: bool) -> Run:
    """What the upstream has sent so far reaches the caller before the rest is sent."""

    async def run(x: Bench) -> None:
        go_on = asyncio.Event()

        async def behaviour(link: Link, request: Request) -> None:
            if request.value("x-tag") != x.tag:
                link.send(own_answer(request))
                return
            link.send(first)
            await go_on.wait()
            link.send(rest)
            if end:
                link.close()

        x.behave(behaviour)
        caller = await x.caller()
        caller.send(x.raw())
        x.expect(
            await caller.until(lambda: seen in caller.buffer, 2),
            f"{seen!r} had not arrived after 2 s: {bytes(caller.buffer[-80:])!r}",
        )
        go_on.set()
        reply = await x.reply(caller)
        x.expect(reply.complete and reply.text == b"abcdef"[: len(reply.text)], f"{reply.text!r}")
        await x.sound()

    return run


_CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"
for _id, _title, _first, _seen, _rest, _end in (
    (
        "head",
        "the head of an answer leaves before its body",
        _CHUNKED,
        b"HTTP/1.1 200",
        b"6\r\nabcdef\r\n0\r\n\r\n",
        False,
    ),
    (
        "head-length",
        "the head of an answer with a length leaves before its body",
        _LENGTH,
        b"HTTP/1.1 200",
        b"abcdef",
        False,
    ),
    (
        "chunk",
        "a chunk leaves before the next one",
        _CHUNKED + b"3\r\nabc\r\n",
        b"abc",
        b"3\r\ndef\r\n0\r\n\r\n",
        False,
    ),
    (
        "part-chunk",
        "a part of a chunk leaves before the chunk is whole",
        _CHUNKED + b"6\r\nabc",
        b"abc",
        b"def\r\n0\r\n\r\n",
        False,
    ),
    ("part-length", "a part of an answer with a length leaves", _LENGTH + b"abc", b"abc", b"def", False),
    ("until-close", "a part of an answer without framing leaves", b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc", b"def", True),
    (
        "last-byte",
        "the last byte leaves without waiting for the last chunk",
        _CHUNKED + b"6\r\nabcdef\r\n",
        b"abcdef",
        b"0\r\n\r\n",
        False,
    ),
):
    add(
        Case(
            f"streams/leaves-{_id}",
            _title,
            "SSE; nginx proxy_buffering off",
            MAJOR,
            "answer",
            _leaves(_first, _seen, _rest, _end),
        )
    )


@case("streams/upload-leaves", "parts of an upload leave as they arrive", "nginx proxy_request_buffering off", MAJOR)
async def upload_leaves(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"Transfer-Encoding: chunked"))
    caller.send(b"3\r\nabc\r\n")
    request = await x.request(seconds=2)
    link = x.upstream.links[0]
    x.expect(await link.until(lambda: b"abc" in link.record, 2), "the first chunk waits")
    caller.send(b"6\r\nde")
    x.expect(await link.until(lambda: b"de" in link.record, 2), "a part of the second chunk waits")
    caller.send(b"fghi\r\n0\r\n\r\n")
    reply = await x.reply(caller)
    x.expect(reply.status == 200 and request.body == b"abcdefghi", f"{bytes(request.body)!r}")


async def _delays(x: Bench, port: int, raw: bytes, events: int) -> list[float]:
    """Seconds from an event's leaving the upstream to its arrival."""
    sent: list[float] = []

    async def behaviour(link: Link, request: Request) -> None:
        link.send(_CHUNKED)
        for number in range(events):
            await asyncio.sleep(0.01)
            event = b"data: %04d\n\n" % number
            sent.append(now())
            link.send(b"%x\r\n%b\r\n" % (len(event), event))
        link.send(b"0\r\n\r\n")

    x.behave(behaviour)
    caller = await Caller.connect("127.0.0.1", port)
    x.callers.append(caller)
    caller.send(raw)
    came = []
    for number in range(events):
        wanted = b"data: %04d\n\n" % number
        x.expect(await caller.holds(wanted, 2), f"event {number} did not come")
        came.append(caller.last_read_at)
    caller.close()
    return [there - here for here, there in zip(sent, came, strict=True)]


@case(
    "streams/sse-delay",
    "an event leaves within milliseconds of arriving, measured against a direct connection",
    "SSE; WHATWG HTML section 9.2",
    MAJOR,
    attacks="answer",
    alone=True,
)
async def sse_delay(x: Bench) -> None:
    x.check_credential = False
    raw = x.raw()
    direct = await _delays(x, x.upstream.port, raw, 60)
    through = await _delays(x, x.lane.port, raw, 60)
    more = statistics.median(through) - statistics.median(direct)
    x.expect(more < 0.005, f"{more * 1000:.1f} ms more than direct in the median")
    slow = sorted(through)[-4]
    x.expect(slow < 0.03, f"one event in twenty takes {slow * 1000:.0f} ms or more")


@case(
    "streams/slow-reader",
    "a 100 MB answer to a slow reader costs a few MB",
    "backpressure; CVE class of unbounded buffering",
    CRITICAL,
    attacks="answer",
    alone=True,
    seconds=40,
)
async def slow_reader(x: Bench) -> None:
    total = 100 * _MB
    sent = 0
    block = bytes(range(256)) * 400

    async def behaviour(link: Link, request: Request) -> None:
        nonlocal sent
        if request.value("x-tag") != x.tag:
            link.send(own_answer(request))
            return
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total and not link.lost:
            part = block[: total - sent]
            await link.send_all(part, 30)
            sent += len(part)

    x.behave(behaviour)
    before = x.memory_bytes()
    caller = await x.caller(receive_bytes=65536)
    caller.send(x.raw())
    await caller.until(lambda: caller.received_bytes, 3)
    caller.pause()
    most = 0
    for _ in range(15):
        await asyncio.sleep(0.1)
        most = max(most, x.memory_bytes() - before)
    held = sent
    x.expect(held < 40 * _MB, f"the upstream got rid of {held / _MB:.0f} MB while the caller read nothing")
    caller.resume()
    reply = await asyncio.wait_for(_counted(x, caller), 30)
    most = max(most, x.memory_bytes() - before)
    x.expect(reply == total, f"{reply} bytes came")
    x.expect(most < 10 * _MB, f"{most / _MB:.1f} MB more memory")


async def _counted(x: Bench, caller: Caller) -> int:
    reply = await x.reply(caller, seconds=30)
    x.expect(reply.complete, "the answer was cut")
    return reply.body_bytes


@case(
    "streams/slow-upstream",
    "96 MB of uploads to a slow upstream cost a few MB",
    "backpressure",
    CRITICAL,
    alone=True,
    seconds=40,
)
async def slow_upstream(x: Bench) -> None:
    each, count = 12 * _MB, 8
    go_on = asyncio.Event()

    async def behaviour(link: Link, request: Request) -> None:
        if not go_on.is_set():
            link.pause()
            await go_on.wait()
            link.resume()
        await read_body(link, request, 30)
        link.send(own_answer(request))

    x.behave(behaviour)
    before = x.memory_bytes()
    callers = [await x.caller() for _ in range(count)]
    block = bytes(range(256)) * 400

    async def upload(caller: Caller, chunked: bool) -> int:
        caller.send(x.raw(b"POST", b"/x", b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % each))
        left = each
        while left:
            part = block[:left]
            await caller.send_all(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part, 30)
            left -= len(part)
        if chunked:
            caller.send(b"0\r\n\r\n")
        return (await x.reply(caller, seconds=30)).status

    tasks = [asyncio.ensure_future(upload(caller, bool(number % 2))) for number, caller in enumerate(callers)]
    most = 0
    for _ in range(15):
        await asyncio.sleep(0.1)
        most = max(most, x.memory_bytes() - before)
    go_on.set()
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.1)
        most = max(most, x.memory_bytes() - before)
    x.expect([task.result() for task in tasks] == [200] * count, f"{[task.result() for task in tasks]!r}")
    x.expect([request.body_bytes for request in x.upstream.requests] == [each] * count, "bytes were lost")
    x.expect(most < 12 * _MB, f"{most / _MB:.1f} MB more memory")


@case(
    "streams/exact-10-mb",
    "ten times 1 MB arrives bit by bit the same, both ways",
    "what came in is what goes out",
    CRITICAL,
    attacks="both",
    seconds=30,
)
async def exact(x: Bench) -> None:
    import hashlib
    import random

    body = random.Random(7).randbytes(1_000_000)

    async def behaviour(link: Link, request: Request) -> None:
        data = await link.body(request)
        x.expect(hashlib.sha256(data).digest() == hashlib.sha256(body).digest(), "the upload was changed")
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(body), 77_777):
            part = body[at : at + 77_777]
            await link.send_all(b"%x\r\n%b\r\n" % (len(part), part))
        link.send(b"0\r\n\r\n")

    x.behave(behaviour)
    caller = await x.caller()
    for _ in range(10):
        caller.send(x.raw(b"POST", b"/x", b"Content-Length: %d" % len(body), body=body))
        reply = await x.reply(caller, seconds=10)
        x.expect(reply.complete and reply.text == body, f"{reply.start!r}, {reply.body_bytes} bytes")
