"""One exchange and what interrupts it: callers that leave, uploads cut off, early answers, stale connections, pipelining."""

import asyncio
from collections.abc import Callable
from functools import partial

from tests.conformance.bench import Bench
from tests.conformance.caller import Caller
from tests.conformance.case import Case, Run, Severity, add, case
from tests.conformance.messages import Ended, Request, read_body
from tests.conformance.upstream import Link, answer, own_answer

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR
_LEAVE: dict[str, Callable[[Caller], None]] = {"close": Caller.close, "reset": Caller.reset}
_GONE = "nginx proxy_ignore_client_abort off; Go TestReverseProxyCancellation; aws-sigv4-proxy goes on"
_GONE_SECONDS = 1.0


def _gone_waiting(how: str, raw_tail: tuple[tuple[bytes, ...], bytes, bytes]) -> Run:
    method_lines, method, body = raw_tail[0], raw_tail[1], raw_tail[2]

    async def run(x: Bench) -> None:
        async def behaviour(link: Link, request: Request) -> None:
            await link.body(request)
            if request.value("x-tag") != x.tag:
                link.send(own_answer(request))
                return
            await link.until(lambda: link.eof, 10)

        x.behave(behaviour)
        caller = await x.caller()
        caller.send(x.raw(method, b"/x", *method_lines, body=body))
        await x.request()
        await asyncio.sleep(0.1)
        _LEAVE[how](caller)
        await x.gone(x.upstream.links[0], _GONE_SECONDS)
        await x.sound()

    return run


for _how in _LEAVE:
    for _id, _what in (
        ("get", ((), b"GET", b"")),
        ("post", ((b"Content-Length: 3",), b"POST", b"abc")),
        ("chunked", ((b"Transfer-Encoding: chunked",), b"POST", b"3\r\nabc\r\n0\r\n\r\n")),
    ):
        add(
            Case(
                f"exchange/gone-waiting-{_id}-{_how}",
                f"a caller that leaves ({_how}) while waiting for the head of a {_id} ends the upstream request within a second",
                _GONE,
                MAJOR,
                "request",
                _gone_waiting(_how, _what),
            )
        )


def _gone_answering(how: str, framing: bytes) -> Run:
    async def run(x: Bench) -> None:
        async def behaviour(link: Link, request: Request) -> None:
            if request.value("x-tag") != x.tag:
                link.send(own_answer(request))
                return
            link.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
            while not link.eof:
                link.send(b"3\r\nabc\r\n" if b"chunked" in framing else b"abc")
                await asyncio.sleep(0.05)
            link.close()

        x.behave(behaviour)
        caller = await x.caller()
        caller.send(x.raw())
        x.expect(await caller.until(lambda: b"abc" in caller.buffer, 3), "the answer did not begin")
        _LEAVE[how](caller)
        await x.gone(x.upstream.links[0], _GONE_SECONDS)
        await x.sound()

    return run


for _how in _LEAVE:
    for _id, _framing in (
        ("chunked", b"Transfer-Encoding: chunked"),
        ("length", b"Content-Length: 100000000"),
        ("until-close", b"Connection: close"),
    ):
        add(
            Case(
                f"exchange/gone-answering-{_id}-{_how}",
                f"a caller that leaves ({_how}) in the middle of a {_id} answer ends the upstream request within a second",
                _GONE,
                MAJOR,
                "request",
                _gone_answering(_how, _framing),
            )
        )


@case("exchange/gone-silent-stream", "a caller that leaves a silent stream ends it within a second", _GONE, MAJOR)
async def gone_silent(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        link.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        )
        await link.until(lambda: link.eof, 10)

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(x.raw())
    x.expect(await caller.until(lambda: b"abc" in caller.buffer, 3), "the answer did not begin")
    caller.close()
    await x.gone(x.upstream.links[0], _GONE_SECONDS)


# Uploads that stop in the middle: whatever the upstream has seen by then, it never looks whole.
def _upload_cut(how: str, lines: tuple[bytes, ...], part: bytes) -> Run:
    async def run(x: Bench) -> None:
        caller = await x.caller()
        caller.send(x.raw(b"POST", b"/x", *lines, body=part))
        await asyncio.sleep(0.15)
        if how == "half":
            caller.half_close()
        else:
            _LEAVE[how](caller)
        for link in list(x.upstream.links):
            await x.gone(link, _GONE_SECONDS)
        await asyncio.sleep(0.05)
        x.expect(
            not any(request.complete for request in x.upstream.requests),
            f"completed as {[bytes(r.body) for r in x.upstream.requests]!r}",
        )
        if how == "half":
            await caller.until(lambda: caller.eof, 3)
            x.expect(not caller.buffer.startswith(b"HTTP/1.1 2"), "answered as if it were whole")
        await x.sound()

    return run


_CUT = "RFC 9112 section 8; a shorter body would be another prompt"
for _how in ("close", "reset", "half"):
    for _id, _lines, _part in (
        ("length", (b"Content-Length: 10",), b"abc"),
        ("length-nothing", (b"Content-Length: 10",), b""),
        ("length-large", (b"Content-Length: 900000",), b"a" * 800_000),
        ("chunk", (b"Transfer-Encoding: chunked",), b"5\r\nabc"),
        ("between-chunks", (b"Transfer-Encoding: chunked",), b"3\r\nabc\r\n"),
        ("size", (b"Transfer-Encoding: chunked",), b"3\r\nabc\r\n1"),
        ("last-chunk", (b"Transfer-Encoding: chunked",), b"3\r\nabc\r\n0\r\n"),
        ("trailer", (b"Transfer-Encoding: chunked",), b"3\r\nabc\r\n0\r\nX-T: "),
    ):
        add(
            Case(
                f"exchange/upload-cut-{_id}-{_how}",
                f"an upload cut ({_how}): {_id.replace('-', ' ')}; the upstream sees an aborted message",
                _CUT,
                CRITICAL,
                "request",
                _upload_cut(_how, _lines, _part),
            )
        )


@case("exchange/head-cut", "a head that is cut off is no request", "RFC 9112 section 8", CRITICAL)
async def head_cut(x: Bench) -> None:
    whole = x.raw(b"POST", b"/x", b"Content-Length: 0")
    for at in (1, 10, len(whole) // 2, len(whole) - 4, len(whole) - 2, len(whole) - 1):
        for leave in (Caller.half_close, Caller.reset):
            caller = await x.caller()
            caller.send(whole[:at])
            await asyncio.sleep(0.01)
            leave(caller)
    await asyncio.sleep(0.1)
    await x.nothing_upstream()


# Early answers
def _early(lines: tuple[bytes, ...], first: bytes, rest: bytes, reply_bytes: bytes, end: str) -> Run:
    async def run(x: Bench) -> None:
        async def behaviour(link: Link, request: Request) -> None:
            if request.value("x-tag") != x.tag:
                await link.body(request)
                link.send(own_answer(request))
                return
            link.send(reply_bytes)
            if end:
                await asyncio.sleep(0.05)
                {"close": link.close, "reset": link.reset}[end]()
                return
            try:
                await read_body(link, request, 5)
            except Ended:
                link.close()

        x.behave(behaviour)
        caller = await x.caller()
        caller.send(x.raw(b"POST", b"/x", *lines, body=first))
        reply = await x.reply(caller, seconds=3)
        x.expect(reply.status in {413, 200} and reply.text == b"early", f"{reply.start!r} {reply.text[:60]!r}")
        # The upload goes on; it looks like requests.
        caller.send(rest)
        await asyncio.sleep(0.1)
        if not caller.eof:
            await x.sound(caller, times=1)
        await x.sound()

    return run


_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
_EARLY = "RFC 9112 section 9.6; CVE class of 0.CL desync"
for _end in ("", "close", "reset"):
    for _id, _lines, _first, _rest in (
        ("length", (b"Content-Length: %d" % (100 + 10 * len(_SMUGGLED)),), b"a" * 100, _SMUGGLED * 10),
        (
            "chunked",
            (b"Transfer-Encoding: chunked",),
            b"3\r\nabc\r\n",
            b"%x\r\n" % (10 * len(_SMUGGLED)) + _SMUGGLED * 10 + b"\r\n0\r\n\r\n",
        ),
        ("nothing-yet", (b"Content-Length: %d" % len(_SMUGGLED),), b"", _SMUGGLED),
    ):
        add(
            Case(
                f"exchange/early-answer-{_id}-{_end or 'open'}",
                f"an answer that comes before the upload ({_id}) ended is relayed at once; upstream then {_end or 'stays open'}",
                _EARLY,
                CRITICAL if not _end else MAJOR,
                "both",
                _early(_lines, _first, _rest, answer(b"early", status=b"413 Content Too Large"), _end),
            )
        )


@case(
    "exchange/early-answer-pool",
    "an upstream connection with an unfinished upload is not reused",
    _EARLY,
    CRITICAL,
    attacks="both",
)
async def early_pool(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        if request.value("x-tag") == x.tag:
            link.send(answer(b"early"))
        else:
            await link.body(request)
            link.send(own_answer(request))

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"Content-Length: 100000", body=b"a" * 10))
    await x.reply(caller)
    await x.sound(times=3)
    x.expect(len(x.upstream.links[0].requests) == 1, "another request went into the middle of the upload")


@case(
    "exchange/early-answer-streamed",
    "an answer may run beside its upload (full duplex)",
    "RFC 9112 section 9.3; echo services",
    MINOR,
    attacks="both",
)
async def duplex(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        if request.value("x-tag") != x.tag:
            link.send(own_answer(request))
            return
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        seen = 0
        task = asyncio.ensure_future(read_body(link, request, 8))
        while not (task.done() and seen == len(request.body)):
            if seen < len(request.body):
                part = bytes(request.body[seen:])
                seen += len(part)
                link.send(b"%x\r\n%b\r\n" % (len(part), part))
            await asyncio.sleep(0.005)
        link.send(b"0\r\n\r\n")

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"Transfer-Encoding: chunked"))
    for number in range(5):
        caller.send(b"4\r\nab%02d\r\n" % number)
        x.expect(
            await caller.holds(b"ab%02d" % number, 2),
            f"part {number} did not come back while uploading",
        )
    caller.send(b"0\r\n\r\n")
    reply = await x.reply(caller)
    x.expect(reply.complete and reply.text == b"ab00ab01ab02ab03ab04", f"{reply.text!r}")
    await x.sound(caller)


# Stale pooled connections
def _stale(method: bytes, lines: tuple[bytes, ...], body: bytes, how: str) -> Run:
    async def run(x: Bench) -> None:
        async def behaviour(link: Link, request: Request) -> None:
            await link.body(request)
            if request.value("x-tag") == x.tag:
                {"close": link.close, "reset": link.reset}[how]()
            else:
                link.send(own_answer(request))

        x.behave(behaviour)
        await x.sound(times=1)  # a connection for the pool
        caller = await x.caller()
        caller.send(x.raw(method, b"/x", *lines, body=body))
        try:
            reply = await caller.reply(seconds=4)
        except Ended:
            reply = None
        seen = [request for request in x.upstream.requests if request.value("x-tag") == x.tag]
        x.expect(len(seen) == 1, f"{method.decode()} reached the upstream {len(seen)} times")
        if x.ours:
            assert reply is not None
            x.expect_error(reply, 502, "Gateway.UpstreamUnreachable", "connection_terminated")
        await x.sound()

    return run


_STALE = "RFC 9110 section 9.2.2; nginx 1.9.13 proxy_non_idempotent.t; aiohttp repeats GETs"
for _how in ("close", "reset"):
    for _id, _method, _lines, _body in (
        ("post", b"POST", (b"Content-Length: 3",), b"abc"),
        ("post-chunked", b"POST", (b"Transfer-Encoding: chunked",), b"3\r\nabc\r\n0\r\n\r\n"),
        ("post-empty", b"POST", (b"Content-Length: 0",), b""),
        ("patch", b"PATCH", (b"Content-Length: 3",), b"abc"),
    ):
        add(
            Case(
                f"exchange/stale-{_id}-{_how}",
                f"a {_method.decode()} on a kept connection that ends ({_how}) after reading it is never sent twice",
                _STALE,
                CRITICAL,
                "answer",
                _stale(_method, _lines, _body, _how),
            )
        )


@case(
    "exchange/stale-closed-idle",
    "a POST just after the upstream closed its idle connection gets through, once",
    "RFC 9112 section 9.3.1",
    CRITICAL,
    attacks="answer",
)
async def stale_idle(x: Bench) -> None:
    for number in range(10):
        await x.sound(times=1)
        for link in x.upstream.links:
            link.close()
        if number % 2:
            await asyncio.sleep(0.01)
        tag = x.new_tag()
        reply = await x.ask(x.raw(b"POST", b"/x", b"Content-Length: 3", body=b"abc", tag=tag))
        count = sum(request.value("x-tag") == tag for request in x.upstream.requests)
        x.expect(count <= 1, f"the POST came {count} times")
        x.expect(reply.status in {200, 502}, f"status {reply.status}")
        if number % 2:
            x.expect(reply.status == 200, f"10 ms after the close: status {reply.status}")


@case(
    "exchange/idempotent-again",
    "a route that says so sends once more after a reset",
    "our contract",
    MAJOR,
    attacks="answer",
    variants=("idempotent",),
)
async def idempotent_again(x: Bench) -> None:
    left = 1

    async def behaviour(link: Link, request: Request) -> None:
        nonlocal left
        await link.body(request)
        if left:
            left -= 1
            link.reset()
            return
        link.send(own_answer(request))

    x.behave(behaviour)
    reply = await x.ask(x.raw(b"POST", b"/x", b"Content-Length: 3", body=b"abc"))
    x.expect(reply.text == b"tag=" + x.tag, f"{reply.start!r}")
    x.expect(
        len(x.upstream.requests) == 2 and x.upstream.requests[1].body == b"abc", f"{len(x.upstream.requests)} requests"
    )


@case(
    "exchange/idempotent-streamed",
    "what cannot be replayed is not sent again, whatever the route says",
    "our contract",
    CRITICAL,
    attacks="answer",
    variants=("idempotent",),
)
async def idempotent_streamed(x: Bench) -> None:
    body = b"a" * 3_000_000  # above `replay`

    async def behaviour(link: Link, request: Request) -> None:
        await link.body(request)
        link.reset()

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"Content-Length: %d" % len(body), body=body))
    reply = await x.reply(caller, seconds=8)
    x.expect_error(reply, 502, "Gateway.UpstreamUnreachable")
    x.expect(len(x.upstream.requests) == 1, f"{len(x.upstream.requests)} requests")


# Half-closed callers
def _half_closed(raw_parts: tuple[bytes, tuple[bytes, ...], bytes], version: bytes, wait_seconds: float) -> Run:
    async def run(x: Bench) -> None:
        async def behaviour(link: Link, request: Request) -> None:
            await link.body(request)
            await asyncio.sleep(wait_seconds)
            link.send(answer(b"a" * 200_000))

        x.behave(behaviour)
        caller = await x.caller()
        method, lines, body = raw_parts
        caller.send(x.raw(method, b"/x", *lines, body=body, version=version))
        caller.half_close()
        reply = await x.reply(caller)
        x.expect(
            reply.status == 200 and reply.complete and reply.body_bytes == 200_000,
            f"{reply.start!r}, {reply.body_bytes} bytes",
        )
        x.expect(await caller.closed(), "not closed after the answer")

    return run


for _version in (b"HTTP/1.1", b"HTTP/1.0"):
    for _id, _parts in (("get", (b"GET", (), b"")), ("post", (b"POST", (b"Content-Length: 3",), b"abc"))):
        for _when, _seconds in (("at-once", 0.0), ("slow", 0.8)):
            add(
                Case(
                    f"exchange/half-closed-{_id}-{_version[-3:].decode()}-{_when}",
                    f"a caller that has finished sending gets its answer ({_id}, {_version.decode()}, {_when})",
                    "RFC 9112 section 9.6; `nc` and old clients",
                    MINOR,
                    "request",
                    _half_closed(_parts, _version, _seconds),
                )
            )


# Pipelining
@case(
    "exchange/pipelining-order",
    "pipelined requests are answered in order, slow ones too",
    "RFC 9112 section 9.3.2",
    CRITICAL,
)
async def pipelining(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await link.body(request)
        if request.target.endswith(b"slow"):
            await asyncio.sleep(0.2)
        link.send(own_answer(request))

    x.behave(behaviour)
    tags = [x.new_tag() for _ in range(8)]
    paths = [b"/slow", b"/a", b"/b", b"/slow", b"/c", b"/d", b"/e", b"/f"]
    caller = await x.caller()
    caller.send(b"".join(x.raw(b"GET", path, tag=tag) for path, tag in zip(paths, tags, strict=True)))
    replies = await caller.replies(8)
    x.expect(
        [reply.text for reply in replies] == [b"tag=" + tag for tag in tags], f"{[reply.text for reply in replies]!r}"
    )


@case(
    "exchange/pipelining-mixed",
    "bodies, HEADs and refusals in one pipeline keep their places",
    "RFC 9112 section 9.3.2",
    CRITICAL,
)
async def pipelining_mixed(x: Bench) -> None:
    caller = await x.caller()
    caller.send(
        x.raw(b"POST", b"/1", b"Content-Length: 3", body=b"abc", tag=b"one")
        + x.raw(b"HEAD", b"/2", tag=b"two")
        + b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"
        + x.raw(b"POST", b"/4", b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n", tag=b"four")
        + x.raw(b"GET", b"/5", b"Connection: close", tag=b"five")
    )
    first = await x.reply(caller)
    second = await x.reply(caller, b"HEAD")
    third = await x.reply(caller)
    fourth = await x.reply(caller)
    fifth = await x.reply(caller)
    found = (first.text, second.value("x-tag"), third.status, fourth.text, fifth.text)
    x.expect(found == (b"tag=one", b"two", 404, b"tag=four", b"tag=five"), f"{found!r}")
    x.expect(await caller.closed(), "not closed at the end")


@case("exchange/pipelining-many", "two hundred pipelined requests", "RFC 9112 section 9.3.2", MAJOR)
async def pipelining_many(x: Bench) -> None:
    tags = [x.new_tag() for _ in range(200)]
    caller = await x.caller()
    caller.send(b"".join(x.raw(b"GET", b"/x", b"X-Pad: " + b"p" * 500, tag=tag) for tag in tags))
    for tag in tags:
        reply = await x.reply(caller)
        x.expect(reply.text == b"tag=" + tag, f"{tag!r} got {reply.text[:40]!r}")


@case(
    "exchange/pipelining-flood",
    "a pipeline without end costs bounded memory",
    "Netflix 2019 class of floods",
    MAJOR,
    alone=True,
)
async def pipelining_flood(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await link.until(lambda: link.eof, 3)

    x.behave(behaviour)
    before = x.memory_bytes()
    caller = await x.caller()
    raw = x.raw() * 1000
    sent = 0
    for _ in range(200):
        if not caller.writable or caller.lost:
            break
        caller.send(raw)
        sent += len(raw)
        await asyncio.sleep(0.005)
    x.expect(
        x.memory_bytes() - before < 5_000_000,
        f"{(x.memory_bytes() - before) / 1e6:.1f} MB more memory after {sent / 1e6:.1f} MB of requests",
    )
    x.expect(len(x.upstream.requests) == 1, f"{len(x.upstream.requests)} requests at once")


@case("exchange/pipelined-then-gone", "a pipeline whose caller has left is not served on", _GONE, MAJOR)
async def pipelined_gone(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await asyncio.sleep(0.3)
        link.send(own_answer(request))

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(b"".join(x.raw(b"POST", b"/x", b"Content-Length: 0", tag=x.new_tag()) for _ in range(5)))
    await x.request()
    caller.reset()
    await asyncio.sleep(1.0)
    x.expect(len(x.upstream.requests) <= 2, f"{len(x.upstream.requests)} requests were sent for a caller that has gone")


@case("exchange/keep-alive", "a connection serves many requests", "RFC 9112 section 9.3", MINOR)
async def keep_alive(x: Bench) -> None:
    caller = await x.caller()
    await x.sound(caller, times=20)
    x.expect(not caller.eof, "closed")
    x.expect(len(x.upstream.links) <= 2, f"{len(x.upstream.links)} upstream connections for one caller")


@case("exchange/connection-close", "Connection: close is heeded and said", "RFC 9112 section 9.6", MAJOR)
async def connection_close(x: Bench) -> None:
    for lines in ((b"Connection: close",), (b"connection: X-A, CLOSE",)):
        caller = await x.caller()
        caller.send(x.raw(b"GET", b"/x", *lines))
        reply = await x.reply(caller)
        x.expect(any(b"close" in value.lower() for value in reply.values("connection")), f"{reply.fields!r}")
        x.expect(await caller.closed(), "stayed open")


@case(
    "exchange/unreachable",
    "an upstream that nobody serves is a 502",
    "RFC 9209 section 2.3.6",
    MAJOR,
    attacks="answer",
    variants=("dead",),
)
async def unreachable(x: Bench) -> None:
    reply = await x.ask(x.raw())
    x.expect(reply.status in ({502} if x.ours else {502, 503}), f"status {reply.status}")
    if x.ours:
        x.expect_error(reply, 502, "Gateway.UpstreamUnreachable", "connection_refused")
        x.expect(b"127.0.0.1" not in reply.text, "the error names the upstream's address")


@case(
    "exchange/answers-of-two-callers",
    "a hundred callers at once each get their own answers",
    "response queue poisoning",
    CRITICAL,
    seconds=30,
)
async def many_callers(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await link.body(request)
        await asyncio.sleep(0.001 * (hash(request.value("x-tag")) % 7))
        link.send(own_answer(request))

    x.behave(behaviour)

    async def one() -> None:
        await x.sound(await x.caller(), times=5)

    await asyncio.gather(*(one() for _ in range(100)))


@case(
    "exchange/chaos",
    "answers stay with their callers while others leave, reset and send rubbish",
    "response queue poisoning",
    CRITICAL,
    attacks="both",
    seconds=30,
)
async def chaos(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await link.body(request)
        kind = request.target[-1:]
        if kind == b"a":
            link.send(own_answer(request)[:-2])
            link.close()
        elif kind == b"b":
            link.send(own_answer(request) + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        elif kind == b"c":
            link.reset()
        else:
            await asyncio.sleep(0.002)
            link.send(own_answer(request))

    x.behave(behaviour)

    async def hostile(number: int) -> None:
        for _ in range(10):
            caller = await x.caller()
            caller.send(x.raw(b"GET", b"/" + b"abcd"[number % 4 : number % 4 + 1], tag=x.new_tag()))
            await asyncio.sleep(0.003 * (number % 3))
            (caller.reset if number % 2 else caller.close)()

    async def honest() -> None:
        await x.sound(await x.caller(), times=20)

    await asyncio.gather(*(hostile(number) for number in range(12)), *(honest() for _ in range(12)))


@case(
    "exchange/linger-bounded",
    "a caller that uploads on for ever after its answer is cut off",
    "RFC 9112 section 9.6; a slow drain is a slowloris",
    MAJOR,
    variants=("limit",),
)
async def linger_bounded(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"Content-Length: 100000000"))
    x.expect(await caller.until(lambda: b" 413 " in caller.buffer, 3), "no 413 came")
    await asyncio.wait_for(caller.drip(b"a" * 200, 0.05), 12)
    x.expect(caller.lost, "still taken after 10 s")


@case(
    "exchange/expect-then-gone",
    "a caller that is invited and leaves has sent nothing",
    "RFC 9110 section 10.1.1",
    CRITICAL,
)
async def expect_then_gone(x: Bench) -> None:
    for leave in (Caller.close, Caller.reset, Caller.half_close):
        for line in (b"Content-Length: 10", b"Transfer-Encoding: chunked"):
            caller = await x.caller()
            caller.send(x.raw(b"POST", b"/x", b"Expect: 100-continue", line))
            await caller.until(partial(getattr, caller, "buffer"), 0.3)
            leave(caller)
    await asyncio.sleep(0.2)
    await x.nothing_upstream(cut=True)
    await x.sound()


@case(
    "exchange/extra-crlf",
    "an empty line behind a body, as old clients send it, does no harm",
    "RFC 9112 section 2.2",
    MINOR,
)
async def extra_crlf(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"Content-Length: 3", body=b"abc\r\n") + x.raw(b"GET", b"/y", tag=b"two"))
    first, second = await caller.replies(2)
    x.expect(first.status == 200 and second.text == b"tag=two", f"{first.start!r} {second.start!r}")


@case("exchange/crlf-flood", "empty lines without end are no request and end soon", "slowloris", MINOR)
async def crlf_flood(x: Bench) -> None:
    caller = await x.caller()
    await asyncio.wait_for(caller.drip(b"\r\n" * 5000, 0.005, 64), 12)
    x.expect(await caller.until(lambda: caller.eof, 5), "still open")
    await x.nothing_upstream()


@case(
    "exchange/large-pipeline-behind-upload",
    "requests behind a large upload wait their turn",
    "RFC 9112 section 9.3.2",
    MAJOR,
)
async def behind_upload(x: Bench) -> None:
    tags = [x.new_tag() for _ in range(100)]
    body = b"b" * 1_000_000
    caller = await x.caller()
    caller.send(
        x.raw(b"POST", b"/x", b"Content-Length: %d" % len(body), body=body)
        + b"".join(x.raw(b"GET", b"/x", b"X-Pad: " + b"p" * 2000, tag=tag) for tag in tags)
    )
    x.expect((await x.reply(caller)).text == b"tag=" + x.tag, "the upload's answer is another")
    for tag in tags:
        reply = await x.reply(caller)
        x.expect(reply.text == b"tag=" + tag, f"{tag!r} got {reply.text[:40]!r}")


@case(
    "exchange/slow-reader-pipeline",
    "a caller that pipelines and does not read costs bounded memory",
    "backpressure",
    MAJOR,
    alone=True,
)
async def slow_pipeline(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        link.send(answer(b"a" * 1_000_000))

    x.behave(behaviour)
    before = x.memory_bytes()
    caller = await x.caller(receive_bytes=65536)
    caller.pause()
    caller.send(x.raw() * 200)
    await asyncio.sleep(1.0)
    x.expect(x.memory_bytes() - before < 12_000_000, f"{(x.memory_bytes() - before) / 1e6:.1f} MB more memory")
    x.expect(
        len(x.upstream.requests) < 30,
        f"{len(x.upstream.requests)} answers were fetched for a caller that does not read",
    )
