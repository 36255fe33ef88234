"""Limits in bytes, seconds and numbers; and every refusal of ours to the letter."""

import asyncio
from typing import Any

from tests.conformance.bench import Bench, now
from tests.conformance.case import Case, NotApplicable, Run, Severity, add, case
from tests.conformance.messages import Ended, Reply, Request
from tests.conformance.upstream import Link, answer, own_answer

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR
_LIMIT = 64 * 1024  # body limit of the variant `limit`; the deadline of `quick` is one second
_TE = b"Transfer-Encoding: chunked"


def _chunks(total: int, size: int = 8192) -> bytes:
    whole, rest = divmod(total, size)
    return (
        (b"%x\r\n%b\r\n" % (size, b"a" * size)) * whole
        + (b"%x\r\n%b\r\n" % (rest, b"a" * rest) if rest else b"")
        + b"0\r\n\r\n"
    )


# Body limit
@case(
    "limits/body-exact",
    "a body of exactly the limit passes",
    "our contract; nginx client_max_body_size",
    MAJOR,
    variants=("limit",),
)
async def body_exact(x: Bench) -> None:
    for lines, body in (((b"Content-Length: %d" % _LIMIT,), b"a" * _LIMIT), ((_TE,), _chunks(_LIMIT))):
        reply = await x.ask(x.raw(b"POST", b"/x", *lines, body=body))
        x.expect(reply.status == 200 and x.upstream.requests[-1].body_bytes == _LIMIT, f"{reply.start!r}")


@case(
    "limits/body-declared",
    "a declared body over the limit is a 413 before anything is sent",
    "RFC 9110 section 15.5.14",
    MAJOR,
    variants=("limit",),
)
async def body_declared(x: Bench) -> None:
    for length in (_LIMIT + 1, 10**12):
        reply = await x.ask(x.raw(b"POST", b"/x", b"Content-Length: %d" % length, body=b"a" * 100))
        x.expect_error(reply, 413, "Gateway.BodyTooLarge", "http_request_error")
        if x.ours:
            x.expect(
                b'details="limits.body"' in (reply.value("proxy-status") or b""), f"{reply.value('proxy-status')!r}"
            )
    await x.nothing_upstream()


@case(
    "limits/body-chunked",
    "a chunked body over the limit is a 413, and the upstream sees an aborted message",
    "Kong and HAProxy look at Content-Length only",
    CRITICAL,
    variants=("limit",),
)
async def body_chunked(x: Bench) -> None:
    for total in (_LIMIT + 1, 4 * _LIMIT, 100 * _LIMIT):
        caller = await x.caller()
        caller.send(x.raw(b"POST", b"/x", _TE, body=_chunks(total)))
        reply = await x.reply(caller)
        x.expect_error(reply, 413, "Gateway.BodyTooLarge", "http_request_error")
        await asyncio.sleep(0.05)
        x.expect(not any(request.complete for request in x.upstream.requests), "a shortened body was completed")
        x.expect(
            all(request.body_bytes <= _LIMIT + 65536 for request in x.upstream.requests),
            "far more than the limit went out",
        )
    await x.sound()


@case(
    "limits/body-endless",
    "an endless chunked body ends at the limit, memory flat",
    "unbounded uploads",
    MAJOR,
    variants=("limit",),
    alone=True,
)
async def body_endless(x: Bench) -> None:
    before = x.memory_bytes()
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", _TE))
    for _ in range(1000):
        if caller.eof or caller.lost:
            break
        await caller.send_all(b"10000\r\n" + b"a" * 65536 + b"\r\n", 0.5)
    x.expect(caller.record.startswith(b"HTTP/1.1 413") or caller.was_reset, f"{bytes(caller.record[:40])!r}")
    x.expect(caller.eof, "the connection is still open")
    x.expect(x.memory_bytes() - before < 5_000_000, f"{(x.memory_bytes() - before) / 1e6:.1f} MB more memory")
    x.expect(not any(request.complete for request in x.upstream.requests), "a shortened body was completed")


@case(
    "limits/refusal-is-read",
    "a 413 arrives at a caller that goes on uploading",
    "RFC 9112 section 9.6: a reset may destroy the answer",
    MAJOR,
    variants=("limit",),
)
async def refusal_read(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"Content-Length: 3000000"))
    for _ in range(30):
        await caller.send_all(b"a" * 100_000, 0.2)
        await asyncio.sleep(0.005)
    reply = await x.reply(caller)
    x.expect(reply.status == 413 and reply.complete, f"{reply.start!r}")


# Time
def _within(seconds: float, low: float, high: float, x: Bench) -> None:
    x.expect(low <= seconds <= high, f"it took {seconds:.2f} s, not {low} to {high}")


_OURS_ONLY = "our contract; only Envoy has a total deadline among the peers"


@case("limits/head-slow", "a head that does not come is a 408, or a close", "RFC 9110 section 15.5.9; slowloris", MAJOR)
async def head_slow(x: Bench) -> None:
    caller = await x.caller()
    started = now()
    caller.send(b"GET " + x.prefix() + b"/x HTTP/1.1\r\nHost: a\r\n")
    try:
        reply = await caller.reply(seconds=6)
        x.expect_error(reply, 408, "Gateway.RequestTimeout", "http_request_error")
    except (Ended, TimeoutError):
        x.expect(caller.eof and not x.ours, "neither answered nor closed")
    _within(now() - started, 1.5, 4.5, x)
    x.expect(await caller.closed(), "not closed")


@case("limits/head-drip", "a head that comes drop by drop ends all the same", "slowloris", MAJOR)
async def head_drip(x: Bench) -> None:
    caller = await x.caller()
    started = now()
    caller.send(b"GET " + x.prefix() + b"/x HTTP/1.1\r\nHost: a\r\n")
    await caller.drip(b"X-A: b\r\n" * 20, 0.1, 3)
    x.expect(await caller.until(lambda: caller.eof, 2), "still open")
    _within((caller.ended_at or now()) - started, 1.5, 4.5, x)
    if x.ours:
        x.expect(b" 408 " in caller.record[:30], f"{bytes(caller.record[:40])!r}")


@case("limits/head-nothing", "a connection that says nothing is closed", "slowloris", MINOR)
async def head_nothing(x: Bench) -> None:
    caller = await x.caller()
    x.expect(await caller.until(lambda: caller.eof, 5), "still open after 5 s")


@case(
    "limits/slowloris",
    "two hundred connections that drip are harmless to the others",
    "slowloris",
    CRITICAL,
    alone=True,
)
async def slowloris(x: Bench) -> None:
    callers = [await x.caller() for _ in range(200)]
    for caller in callers:
        caller.send(b"POST " + x.prefix() + b"/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nX-A")
    slowest = 0.0
    for number in range(20):
        for caller in callers[number::20]:
            caller.send(b"a")
        started = now()
        await x.sound(times=1)
        slowest = max(slowest, now() - started)
    x.expect(slowest < 0.5, f"an ordinary request took {slowest:.2f} s")
    if x.ours:
        await asyncio.sleep(2.8)
        x.expect(
            all(caller.eof for caller in callers), f"{sum(not caller.eof for caller in callers)} of them are still open"
        )


@case(
    "limits/deadline-head",
    "an upstream that never answers is a 504 at the deadline",
    "RFC 9110 section 15.6.5",
    MAJOR,
    attacks="answer",
    variants=("quick",),
)
async def deadline_head(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await link.until(lambda: link.eof, 10)

    x.behave(behaviour)
    started = now()
    reply = await x.ask(x.raw())
    x.expect_error(reply, 504, "Gateway.DeadlineExceeded", "http_response_timeout")
    _within(now() - started, 0.9, 2.5, x)
    if x.ours:
        x.expect(b"limits.deadline" in reply.text, "the message does not name the setting")
    await x.gone(x.upstream.links[0], 1)


@case(
    "limits/deadline-trickled-answer",
    "an answer that trickles is cut at the deadline",
    _OURS_ONLY,
    MAJOR,
    attacks="answer",
    variants=("quick",),
    seconds=6,
)
async def deadline_answer(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not link.eof:
            link.send(b"1\r\na\r\n")
            await asyncio.sleep(0.05)
        link.close()

    x.behave(behaviour)
    started = now()
    reply = await x.ask(x.raw())
    x.expect(not reply.complete, "it looks whole")
    _within(now() - started, 0.9, 2.5, x)
    await x.gone(x.upstream.links[0], 1)


@case(
    "limits/deadline-trickled-head",
    "a response head that trickles is a 504 at the deadline",
    _OURS_ONLY,
    MAJOR,
    attacks="answer",
    variants=("quick",),
)
async def deadline_drip_head(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        link.send(b"HTTP/1.1 200 OK\r\n")
        await link.drip(b"X-A: b\r\n" * 100, 0.05)

    x.behave(behaviour)
    started = now()
    reply = await x.ask(x.raw())
    x.expect(reply.status in {502, 504}, f"{reply.start!r}")
    _within(now() - started, 0.9, 2.5, x)


@case(
    "limits/deadline-trickled-upload",
    "an upload that trickles is a 408 at the deadline, aborted upstream",
    _OURS_ONLY,
    MAJOR,
    variants=("quick",),
)
async def deadline_upload(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"Content-Length: 100000"))
    started = now()
    drip = asyncio.ensure_future(caller.drip(b"a" * 100_000, 0.05))
    try:
        reply = await x.reply(caller)
    finally:
        drip.cancel()
    x.expect_error(reply, 408, "Gateway.RequestTimeout", "http_request_error")
    _within(now() - started, 0.9, 2.5, x)
    x.expect(not any(request.complete for request in x.upstream.requests), "completed")


@case(
    "limits/deadline-not-reading",
    "a caller that does not read is cut at the deadline",
    _OURS_ONLY,
    MAJOR,
    variants=("quick",),
)
async def deadline_not_reading(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(1000):
            if link.lost:
                return
            await link.send_all(b"a" * 100_000, 5)

    x.behave(behaviour)
    caller = await x.caller(receive_bytes=8192)
    caller.send(x.raw())
    await caller.until(lambda: caller.received_bytes, 3)
    caller.pause()
    await x.gone(x.upstream.links[0], 3)
    caller.resume()
    x.expect(await caller.until(lambda: caller.eof, 5), "not cut")
    x.expect(caller.received_bytes < 90_000_000, "it came whole")


def _shortened(line: bytes, low: float, high: float) -> Run:
    async def run(x: Bench) -> None:
        if not x.ours:
            raise NotApplicable("a promise of our own")

        async def behaviour(link: Link, request: Request) -> None:
            await link.until(lambda: link.eof, 10)

        x.behave(behaviour)
        started = now()
        reply = await x.ask(x.raw(b"GET", b"/x", line))
        x.expect_error(reply, 504, "Gateway.DeadlineExceeded")
        _within(now() - started, low, high, x)
        names = (await x.request()).names()
        x.expect(b"x-request-timeout" not in names and b"x-envoy-expected-rq-timeout-ms" not in names, "it travelled")

    return run


for _id, _line, _low, _high in (("seconds", b"X-Request-Timeout: 0.3", 0.25, 0.8), ("envoy", b"x-envoy-expected-rq-timeout-ms: 300", 0.25, 0.8),
                                ("never-longer", b"X-Request-Timeout: 600", 0.9, 2.0), ("zero-point", b"X-Request-Timeout: 0.05", 0.0, 0.6)):  # fmt: skip
    add(
        Case(
            f"limits/caller-deadline-{_id}",
            f"{_line.decode()} may shorten the deadline, never lengthen it",
            "our contract; Envoy's field",
            MAJOR,
            "request",
            _shortened(_line, _low, _high),
            ("quick",),
        )
    )


@case("limits/caller-deadline-rubbish", "a deadline that is no number is a 400", "our contract", MINOR)
async def deadline_rubbish(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("a promise of our own")
    for value in (b"x", b"-1", b"1s", b"1e3", b"", b"inf", b"nan", b"1, 2"):
        reply = await x.ask(x.raw(b"GET", b"/x", b"X-Request-Timeout: " + value))
        x.expect_error(reply, 400, "Gateway.BadRequest")
    await x.nothing_upstream()


@case(
    "limits/first-byte",
    "limits.first_byte is a 504 of its own",
    "our contract; proxy_read_timeout",
    MAJOR,
    attacks="answer",
    variants=("first",),
)
async def first_byte(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await link.until(lambda: link.eof, 10)

    x.behave(behaviour)
    started = now()
    reply = await x.ask(x.raw())
    x.expect_error(reply, 504, "Gateway.UpstreamTimeout", "http_response_timeout")
    _within(now() - started, 0.4, 1.5, x)


@case(
    "limits/idle-answer",
    "an answer that falls silent is cut",
    "our contract",
    MAJOR,
    attacks="answer",
    variants=("idle",),
)
async def idle_answer(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await link.until(lambda: link.eof, 10)

    x.behave(behaviour)
    started = now()
    reply = await x.ask(x.raw())
    x.expect(not reply.complete and reply.text == b"abc", f"{reply.start!r} complete {reply.complete}")
    _within(now() - started, 0.4, 1.5, x)


@case("limits/idle-upload", "an upload that falls silent is a 408", "our contract", MAJOR, variants=("idle",))
async def idle_upload(x: Bench) -> None:
    caller = await x.caller()
    started = now()
    caller.send(x.raw(b"POST", b"/x", b"Content-Length: 10", body=b"abc"))
    reply = await x.reply(caller)
    x.expect_error(reply, 408, "Gateway.RequestTimeout", "http_request_error")
    _within(now() - started, 0.4, 1.5, x)
    x.expect(not any(request.complete for request in x.upstream.requests), "completed")


@case(
    "limits/idle-not-while-thinking",
    "idle does not count while the upstream thinks",
    "our contract: request sent to response head is first_byte's",
    MAJOR,
    attacks="answer",
    variants=("idle",),
)
async def idle_thinking(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await link.body(request)
        await asyncio.sleep(1.2)
        link.send(own_answer(request))

    x.behave(behaviour)
    reply = await x.ask(x.raw(b"POST", b"/x", b"Content-Length: 3", body=b"abc"))
    x.expect(reply.status == 200, f"{reply.start!r}")


@case(
    "limits/idle-moving",
    "a slow answer that moves is not cut",
    "our contract",
    MAJOR,
    attacks="answer",
    variants=("idle",),
)
async def idle_moving(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        await link.drip(b"abcdefgh", 0.25)

    x.behave(behaviour)
    reply = await x.ask(x.raw())
    x.expect(reply.complete and reply.text == b"abcdefgh", f"{reply.text!r}")


# Numbers
@case(
    "limits/in-flight",
    "above in_flight it is a 503 at once, with Retry-After; below it serves again",
    "our contract",
    MAJOR,
    variants=("busy",),
)
async def in_flight(x: Bench) -> None:
    release = asyncio.Event()

    async def behaviour(link: Link, request: Request) -> None:
        await release.wait()
        link.send(own_answer(request))

    x.behave(behaviour)
    first = await x.caller()
    first.send(x.raw())
    await x.request()
    started = now()
    second = await x.ask(x.raw())
    x.expect_error(second, 503, "Gateway.Overloaded", "connection_limit_reached")
    x.expect(second.values("retry-after") and now() - started < 0.5, "no Retry-After, or late")
    release.set()
    x.expect((await x.reply(first)).status == 200, "the first one was lost")
    x.expect((await x.ask(x.raw())).status == 200, "not served again")


@case(
    "limits/in-flight-given-back",
    "callers that leave give their place back",
    "our contract",
    CRITICAL,
    variants=("busy",),
)
async def in_flight_back(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        if request.value("x-tag") != x.tag:
            await link.body(request)
            link.send(own_answer(request))
            return
        await link.until(lambda: link.eof, 5)
        link.close()

    x.behave(behaviour)
    for leave in ("close", "reset"):
        caller = await x.caller()
        caller.send(x.raw(b"POST", b"/x", b"Content-Length: 10", body=b"abc"))
        await asyncio.sleep(0.1)
        getattr(caller, leave)()
        await asyncio.sleep(0.3)
        await x.sound(times=1)


@case("limits/rate", "above the rate it is a 429 with Retry-After", "RFC 6585 section 4", MAJOR, variants=("rate",))
async def rate(x: Bench) -> None:
    replies = [await x.ask(x.raw()) for _ in range(3)]
    x.expect(replies[0].status == 200, f"{replies[0].start!r}")
    x.expect_error(replies[2], 429, "Gateway.RateLimited", "http_request_denied")
    x.expect(replies[2].values("retry-after"), "no Retry-After")


@case(
    "limits/breaker",
    "after so many failures in a row the upstream is left alone: 503",
    "our contract",
    MAJOR,
    attacks="answer",
    variants=("breaker",),
)
async def breaker(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        link.close()

    x.behave(behaviour)
    for _ in range(2):
        x.expect((await x.ask(x.raw())).status == 502, "no failure")
    reply = await x.ask(x.raw())
    x.expect_error(reply, 503, "Gateway.CircuitOpen", "destination_unavailable")
    x.expect(reply.values("retry-after"), "no Retry-After")
    x.expect(len(x.upstream.requests) == 2, "the upstream was asked again")


# Refusals
@case(
    "limits/methods",
    "a method that the route does not take is a 405 with Allow",
    "RFC 9110 section 15.5.6",
    MAJOR,
    variants=("post",),
)
async def methods(x: Bench) -> None:
    for method in (b"GET", b"DELETE", b"OPTIONS"):
        reply = await x.ask(x.raw(method))
        x.expect_error(reply, 405, "Gateway.MethodNotAllowed", "http_request_error")
        x.expect(reply.values("allow") == [b"POST, PUT"], f"Allow {reply.values('allow')!r}")
    reply = await x.ask(x.raw(b"HEAD"), b"HEAD")
    x.expect(reply.status == 405 and not reply.body, f"{reply.start!r}")
    await x.nothing_upstream()
    x.expect((await x.ask(x.raw(b"PUT", b"/x", b"Content-Length: 0"))).status == 200, "PUT is refused, too")


@case(
    "limits/no-credential",
    "without a usable credential nothing reaches the upstream: 503",
    "fail closed: proxies that send on without a token",
    CRITICAL,
    variants=("unready",),
)
async def no_credential(x: Bench) -> None:
    for raw in (
        x.raw(),
        x.raw(b"POST", b"/x", b"Content-Length: 3", body=b"abc"),
        x.raw(b"GET", b"/x", b"X-Auth-Token: evil"),
    ):
        reply = await x.ask(raw, seconds=8)
        x.expect_error(reply, 503, "Gateway.CredentialUnavailable", "proxy_internal_error")
        x.expect(reply.values("retry-after"), "no Retry-After")
    await x.nothing_upstream()
    x.expect(not x.upstream.links, "a connection was made")


@case(
    "limits/no-credential-kind-none",
    "a route without a credential sends none",
    "our contract",
    MAJOR,
    variants=("open",),
)
async def open_route(x: Bench) -> None:
    x.check_credential = False
    await x.ask(x.raw(b"GET", b"/x", b"Authorization: Bearer callers-own", b"X-Apig-AppCode: callers-own"))
    wire = bytes(x.upstream.links[0].record)
    x.expect(b"callers-own" not in wire and b"conformance-secret" not in wire, "a credential left")


_PAGE = b"Origin: https://evil.example.com"
_CONSOLE = b"Origin: https://console.example.com"


@case(
    "limits/origin",
    "a browser's page may not spend the credential",
    "Fetch Standard; DNS rebinding and localhost attacks",
    CRITICAL,
)
async def origin(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("a promise of our own")
    for line in (_PAGE, _CONSOLE, b"Origin: null", b"Origin:", b"origin: http://127.0.0.1"):
        reply = await x.ask(x.raw(b"POST", b"/x", line, b"Content-Type: text/plain", b"Content-Length: 3", body=b"abc"))
        x.expect_error(reply, 403, "Gateway.OriginNotAllowed", "http_request_denied")
    reply = await x.ask(x.raw(b"OPTIONS", b"/x", _PAGE, b"Access-Control-Request-Method: POST"))
    x.expect(reply.status == 403 and not reply.values("access-control-allow-origin"), f"{reply.start!r}")
    await x.nothing_upstream()


@case(
    "limits/cors",
    "the page that a route names may, and nobody else",
    "Fetch Standard, 'CORS protocol'",
    CRITICAL,
    variants=("cors",),
)
async def cors(x: Bench) -> None:
    refused = (_PAGE, b"Origin: null", b"Origin: https://console.example.com.evil.com", b"Origin: http://console.example.com", b"Origin: https://console.example.com:444",
               _CONSOLE + b"\r\n" + _PAGE)  # fmt: skip
    for line in refused:
        reply = await x.ask(x.raw(b"GET", b"/x", line))
        x.expect_error(reply, 403, "Gateway.OriginNotAllowed")
        x.expect(not reply.values("access-control-allow-origin"), "the page may read the refusal")
    await x.nothing_upstream()
    x.answers(
        answer(b"ok", b"Access-Control-Allow-Origin: *", b"Access-Control-Allow-Credentials: true", b"Vary: Accept")
    )
    reply = await x.ask(x.raw(b"GET", b"/x", _CONSOLE))
    x.expect(reply.values("access-control-allow-origin") == [b"https://console.example.com"], f"{reply.fields!r}")
    x.expect(not reply.values("access-control-allow-credentials"), "the upstream's CORS header came through")
    vary = b",".join(reply.values("vary")).lower()
    x.expect(b"origin" in vary and b"accept" in vary, f"Vary {vary!r}")
    exposed = b",".join(reply.values("access-control-expose-headers")).lower()
    for name in (b"x-request-id", b"x-gateway-request-id", b"retry-after", b"proxy-status"):
        x.expect(name in exposed, f"{name!r} is not exposed")
    x.expect(any(b"Origin" in v for v in (await x.ask(x.raw())).values("vary")), "no Vary: Origin without an Origin")


@case(
    "limits/cors-vary",
    "CORS routes say Vary: Origin even where they refuse",
    "Fetch Standard, 'CORS protocol and HTTP caches'",
    MAJOR,
    variants=("cors",),
)
async def cors_vary(x: Bench) -> None:
    for raw in (x.raw(b"GET", b"/x", _PAGE), x.raw(b"OPTIONS", b"/x", _PAGE, b"Access-Control-Request-Method: POST")):
        reply = await x.ask(raw)
        x.expect(reply.status == 403, f"{reply.start!r}")
        x.expect(any(b"origin" in value.lower() for value in reply.values("vary")), "no Vary: Origin on a refusal")


@case(
    "limits/cors-preflight",
    "preflights are answered here and never forwarded",
    "Fetch Standard, 'CORS-preflight request'",
    MAJOR,
    variants=("cors",),
)
async def preflight(x: Bench) -> None:
    reply = await x.ask(
        x.raw(
            b"OPTIONS",
            b"/x",
            _CONSOLE,
            b"Access-Control-Request-Method: POST",
            b"Access-Control-Request-Headers: content-type, x-a",
        )
    )
    x.expect(reply.status == 204, f"{reply.start!r}")
    x.expect(reply.values("access-control-allow-origin") == [b"https://console.example.com"], f"{reply.fields!r}")
    x.expect(reply.values("access-control-max-age") == [b"600"], f"{reply.fields!r}")
    x.expect(b"content-type" in b",".join(reply.values("access-control-allow-headers")), f"{reply.fields!r}")
    bad = await x.ask(x.raw(b"OPTIONS", b"/x", _PAGE, b"Access-Control-Request-Method: POST"))
    x.expect(bad.status == 403, f"{bad.start!r}")
    await x.nothing_upstream()


@case(
    "limits/error-shape",
    "an error of ours is JSON with a length, for HEAD without a body, and with our own request id",
    "our contract; RFC 9209",
    MAJOR,
)
async def error_shape(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("a promise of our own")
    import json

    caller = await x.caller()
    caller.send(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Request-Id: my-id\r\n\r\n")
    reply = await x.reply(caller)
    x.expect_error(reply, 404, "Gateway.RouteNotFound", "destination_not_found")
    x.expect(
        reply.values("x-request-id") == [b"my-id"] and reply.values("content-type") == [b"application/json"],
        f"{reply.fields!r}",
    )
    document: Any = json.loads(reply.text)  # Any: JSON
    x.expect(set(document) == {"error_code", "error_msg", "request_id", "error"}, f"{document!r}")
    x.expect(
        document["error"]
        == {"code": document["error_code"], "message": document["error_msg"], "type": "invalid_request_error"},
        f"{document!r}",
    )
    caller.send(b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
    head: Reply = await x.reply(caller, b"HEAD")
    x.expect(head.status == 404, f"{head.start!r}")
    await x.sound(caller)


@case("limits/admin-not-here", "nothing of the admin listener is on the callers' port", "our contract", MAJOR)
async def admin_not_here(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("a promise of our own")
    for path in (b"/healthz", b"/readyz", b"/metrics", b"/status", b"/"):
        reply = await x.ask(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        x.expect(reply.status == 404, f"{path!r}: {reply.start!r}")
