"""Header fields: what crosses, what never does, and that the credential is the configured one."""

import asyncio

from tests.conformance.bench import Bench
from tests.conformance.case import Case, NotApplicable, Run, Severity, add, case
from tests.conformance.messages import Request
from tests.conformance.upstream import Link, answer, own_answer

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR
_HOP = "RFC 9110 section 7.6.1"


def _dropped(lines: tuple[bytes, ...], gone: tuple[bytes, ...], kept: tuple[bytes, ...] = ()) -> Run:
    async def run(x: Bench) -> None:
        reply = await x.ask(x.raw(b"GET", b"/x", *lines))
        if not x.ours and b"upgrade" in gone and reply.status in {400, 403, 426, 501}:
            return  # refused is not passed on, either
        x.expect(reply.status == 200, f"status {reply.status}: {reply.text[:100]!r}")
        names = (await x.request()).names()
        x.expect(not names & set(gone), f"reached the upstream: {names & set(gone)!r}")
        x.expect(set(kept) <= names, f"did not reach the upstream: {set(kept) - names!r}")

    return run


def _drop(
    id: str,
    title: str,
    source: str,
    severity: Severity,
    *lines: bytes,
    gone: tuple[bytes, ...],
    kept: tuple[bytes, ...] = (),
) -> None:
    add(Case(f"headers/{id}", title, source, severity, "request", _dropped(lines, gone, kept)))


for _name, _value in (("Keep-Alive", "timeout=5"), ("Proxy-Connection", "keep-alive"), ("TE", "gzip")):
    _drop(
        f"hop-{_name.lower()}",
        f"{_name} does not cross",
        _HOP,
        MAJOR,
        f"{_name}: {_value}".encode(),
        gone=(_name.lower().encode(),),
    )
_drop(
    "named",
    "a header named in Connection does not cross",
    f"{_HOP}; Go TestReverseProxyStripHeadersPresentInConnection",
    MAJOR,
    b"Connection: X-Hop, close",
    b"X-Hop: 1",
    b"X-End: 1",
    gone=(b"x-hop",),
    kept=(b"x-end",),
)
_drop(
    "named-two-lines",
    "Connection on two lines",
    _HOP,
    MAJOR,
    b"Connection: X-Hop",
    b"Connection: X-Other",
    b"X-Hop: 1",
    b"X-Other: 1",
    gone=(b"x-hop", b"x-other"),
)
_drop(
    "named-case",
    "names in Connection are compared without case",
    _HOP,
    MAJOR,
    b"connection: x-HOP",
    b"X-Hop: 1",
    gone=(b"x-hop",),
)
_drop(
    "named-empty",
    "empty members of Connection",
    f"{_HOP}; Go TestReverseProxyStripEmptyConnection",
    MINOR,
    b"Connection: , ,X-Hop,",
    b"X-Hop: 1",
    gone=(b"x-hop",),
)
_drop(
    "named-repeated",
    "every repetition of a named header goes",
    _HOP,
    MAJOR,
    b"Connection: X-Hop",
    b"X-Hop: 1",
    b"X-Hop: 2",
    gone=(b"x-hop",),
)
_H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
_drop(
    "upgrade-h2c", "Upgrade: h2c is dropped", "RFC 9113 section 3.1; h2c smuggling", CRITICAL, *_H2C, gone=(b"upgrade",)
)
_drop("http2-settings", "HTTP2-Settings is dropped", "RFC 7540 section 3.2.1", MINOR, *_H2C, gone=(b"http2-settings",))
_drop(
    "upgrade-other",
    "any other Upgrade is dropped",
    "RFC 9110 section 7.8",
    MAJOR,
    b"Connection: Upgrade",
    b"Upgrade: foo/2",
    gone=(b"upgrade",),
)
_drop(
    "upgrade-no-connection",
    "Upgrade without Connection: upgrade is dropped",
    "RFC 9110 section 7.8",
    MAJOR,
    b"Upgrade: h2c",
    gone=(b"upgrade",),
)
_drop(
    "end-to-end",
    "end-to-end headers cross, cookies too",
    _HOP,
    MAJOR,
    b"Cookie: a=b; c=d",
    b"Accept: */*",
    b"X-Custom: 1",
    b"traceparent: 00-1-2-01",
    b"tracestate: a=b",
    b"User-Agent: u",
    gone=(),
    kept=(b"cookie", b"accept", b"x-custom", b"traceparent", b"tracestate", b"user-agent"),
)
_FORWARDED = "RFC 7239; internal addresses are no business of the cloud"


def _only_ours(run: Run) -> Run:
    """A promise of our contract, which other proxies do not make."""

    async def checked(x: Bench) -> None:
        if not x.ours:
            raise NotApplicable("a promise of our own")
        await run(x)

    return checked


for _name in ("Trailer", "Proxy-Authorization"):
    add(
        Case(
            f"headers/hop-{_name.lower()}",
            f"{_name} does not cross",
            f"{_HOP} leaves it open",
            MINOR,
            "request",
            _only_ours(_dropped((f"{_name}: x".encode(),), (_name.lower().encode(),))),
        )
    )
for _name in (
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Anything",
    "X_Forwarded_For",
    "Forwarded",
    "X-Real-IP",
):
    add(
        Case(
            f"headers/{_name.lower()}",
            f"{_name} from a caller is not passed to the cloud",
            _FORWARDED,
            MAJOR,
            "request",
            _only_ours(_dropped((f"{_name}: 10.1.2.3".encode(),), (_name.lower().encode(),))),
        )
    )


@case(
    "headers/forwarded-by-route",
    "a route that says so passes X-Forwarded-*",
    _FORWARDED,
    MINOR,
    variants=("forwarded",),
)
async def forwarded_by_route(x: Bench) -> None:
    await x.ask(x.raw(b"GET", b"/x", b"X-Forwarded-For: 10.1.2.3"))
    x.expect((await x.request()).values("x-forwarded-for") == [b"10.1.2.3"], "not passed")


# Whatever could pass for a credential never reaches the upstream beside ours.
_LOOK_ALIKES = (
    "Authorization", "Proxy-Authorization", "X-Auth-Token", "X-Subject-Token", "X-Apig-AppCode", "apikey", "X-API-Key", "X-Sdk-Date", "X-Sdk-Content-Sha256",
    "X-Security-Token", "X-HW-ID", "X-HW-APPKEY", "X-Project-Id", "X-Domain-Id", "X-Apig-Mode",
)  # fmt: skip


def _look_alike(spelling: str, *, always: bool) -> Run:
    async def run(x: Bench) -> None:
        if not (x.ours or always):
            raise NotApplicable("a promise of our own")
        reply = await x.ask(x.raw(b"GET", b"/x", f"{spelling}: evil-value".encode()))
        x.expect(reply.status in {200, 400}, f"status {reply.status}")
        wire = b"".join(bytes(link.record) for link in x.upstream.links)
        x.expect(b"evil-value" not in wire, f"{spelling} reached the upstream")

    return run


for _name in _LOOK_ALIKES:
    # Any proxy that adds X-Apig-AppCode must replace the caller's; the other names are Huawei's, and our contract.
    _always = _name == "X-Apig-AppCode"
    for _id, _spelling in (
        ("as-is", _name),
        ("upper", _name.upper()),
        ("lower", _name.lower()),
        ("underscore", _name.replace("-", "_")),
    ):
        if (_id, _spelling) in {("lower", _name), ("underscore", _name)}:
            continue
        add(
            Case(
                f"headers/credential-{_name.lower()}-{_id}",
                f"{_spelling} from a caller never reaches the upstream",
                "credential injection; CGI-style names",
                CRITICAL,
                "request",
                _look_alike(_spelling, always=_always),
            )
        )


@case(
    "headers/credential-named-in-connection",
    "naming the credential in Connection changes nothing",
    f"{_HOP}; aad-auth-proxy",
    CRITICAL,
)
async def named_credential(x: Bench) -> None:
    if x.lane.credential is None:
        raise NotApplicable("no credential")
    name = x.lane.credential[0]
    for spelling in (name, name.lower(), name.replace(b"-", b"_"), b"close, " + name):
        reply = await x.ask(x.raw(b"GET", b"/x", b"Connection: " + spelling))
        x.expect(reply.status == 200, f"status {reply.status}")
    x.expect(len(x.upstream.requests) == 4, "not every request came")  # that each had it is checked after every case


@case(
    "headers/credential-repeated",
    "a caller that sends the credential header twice changes nothing",
    "credential injection",
    CRITICAL,
)
async def repeated_credential(x: Bench) -> None:
    if x.lane.credential is None:
        raise NotApplicable("no credential")
    name = x.lane.credential[0]
    await x.ask(x.raw(b"GET", b"/x", name + b": evil-1", name.upper() + b": evil-2"))
    wire = b"".join(bytes(link.record) for link in x.upstream.links)
    x.expect(b"evil" not in wire, "the caller's credential reached the upstream")


@case(
    "headers/credential-not-in-answers",
    "the credential never comes back, not even in errors",
    "disclosure",
    CRITICAL,
    attacks="both",
)
async def not_in_answers(x: Bench) -> None:
    if x.lane.credential is None:
        raise NotApplicable("no credential")
    value = x.lane.credential[1]
    x.answers(b"HTTP/1.1 abc broken\r\n\r\n", end="close")
    for raw in (x.raw(), b"\x00\r\n\r\n", x.raw(b"TRACE"), x.raw(b"OPTIONS"), x.raw(b"GET", b"/" + b"a" * 100_000)):
        caller = await x.caller()
        caller.send(raw)
        await caller.holds(b"\r\n\r\n", 3)
        await asyncio.sleep(0.02)
        x.expect(value not in caller.record, f"it came back to {raw[:20]!r}")


@case("headers/hosts-in-connection", "Connection cannot name Host, Content-Length or what we add away", _HOP, CRITICAL)
async def host_in_connection(x: Bench) -> None:
    reply = await x.ask(
        x.raw(b"POST", b"/x", b"Connection: Host, Content-Length, X-Request-Id, Via", b"Content-Length: 3", body=b"abc")
    )
    x.expect(reply.status in {200, 400}, f"status {reply.status}")
    if reply.status == 200:
        x.expect((await x.request()).body == b"abc", "the body was lost")


def _exact(line_sets: tuple[bytes, ...], name: str, wanted: list[bytes]) -> Run:
    async def run(x: Bench) -> None:
        reply = await x.ask(x.raw(b"GET", b"/x", *line_sets))
        x.expect(reply.status == 200, f"status {reply.status}: {reply.text[:100]!r}")
        values = (await x.request()).values(name)
        x.expect(values == wanted, f"left as {values!r}")

    return run


for _id, _title, _source, _lines, _name, _wanted in (
    (
        "duplicates",
        "repeated headers are kept in order",
        "RFC 9110 section 5.3",
        (b"X-A: 1", b"X-B: x", b"X-A: 2", b"X-A: 3"),
        "x-a",
        [b"1", b"2", b"3"],
    ),
    ("latin-1", "bytes above ASCII are kept", "RFC 9110 section 5.5", (b"X-A: caf\xe9",), "x-a", [b"caf\xe9"]),
    ("utf-8", "UTF-8 is kept", "RFC 9110 section 5.5", ("X-A: 你好".encode(),), "x-a", ["你好".encode()]),
    (
        "not-utf-8",
        "bytes that are no UTF-8 are kept",
        "RFC 9110 section 5.5",
        (b"X-A: \xff\xfe\x80",),
        "x-a",
        [b"\xff\xfe\x80"],
    ),
    ("comma", "commas and quotes are kept", "RFC 9110 section 5.6", (b'X-A: a, "b, c",,d',), "x-a", [b'a, "b, c",,d']),
    (
        "tabs-inside",
        "white space inside a value is kept",
        "RFC 9110 section 5.5",
        (b"X-A: a \t  b",),
        "x-a",
        [b"a \t  b"],
    ),
    ("empty", "an empty value is kept", "RFC 9110 section 5.5", (b"X-A:", b"X-A: b"), "x-a", [b"", b"b"]),
    ("long", "a value of 30 KB is kept", "RFC 9110 section 5.4", (b"X-A: " + b"a" * 30_000,), "x-a", [b"a" * 30_000]),
    (
        "cookies",
        "two Cookie lines are kept",
        "RFC 6265; RFC 9113 section 8.2.3",
        (b"Cookie: a=b", b"Cookie: c=d"),
        "cookie",
        [b"a=b", b"c=d"],
    ),
    ("nothing-invented-accept", "Accept is not invented", "aiohttp adds it", (), "accept", []),
    ("nothing-invented-encoding", "Accept-Encoding is not invented", "aiohttp adds it", (), "accept-encoding", []),
    ("nothing-invented-agent", "User-Agent is not invented", "aiohttp adds it", (), "user-agent", []),
    ("nothing-invented-type", "Content-Type is not invented", "aiohttp adds it", (), "content-type", []),
):
    add(
        Case(
            f"headers/exact-{_id}",
            _title,
            _source,
            MINOR if _id in {"cookies", "long", "empty"} else MAJOR,
            "request",
            _exact(_lines, _name, _wanted),
        )
    )


def _answer_exact(lines: tuple[bytes, ...], name: str, wanted: list[bytes]) -> Run:
    async def run(x: Bench) -> None:
        x.answers(answer(b"ok", *lines))
        reply = await x.ask(x.raw())
        x.expect(reply.status == 200 and reply.text == b"ok", f"{reply.start!r}")
        x.expect(reply.values(name) == wanted, f"came as {reply.values(name)!r}")

    return run


_more: tuple[bytes, ...]
for _id, _title, _source, _more, _name, _wanted in (
    (
        "set-cookie",
        "every Set-Cookie is kept, in order",
        "RFC 6265 section 3",
        tuple(b"Set-Cookie: c%d=%d; Path=/" % (n, n) for n in range(20)),
        "set-cookie",
        [b"c%d=%d; Path=/" % (n, n) for n in range(20)],
    ),
    (
        "duplicates",
        "repeated headers of answers are kept in order",
        "RFC 9110 section 5.3",
        (b"X-A: 1", b"X-A: 2"),
        "x-a",
        [b"1", b"2"],
    ),
    (
        "latin-1",
        "bytes above ASCII of answers are kept",
        "RFC 9110 section 5.5",
        (b"X-A: \xe9\xff",),
        "x-a",
        [b"\xe9\xff"],
    ),
    ("hop-keep-alive", "Keep-Alive of an answer does not cross", _HOP, (b"Keep-Alive: timeout=9",), "keep-alive", []),
    (
        "hop-named",
        "a header named in an answer's Connection does not cross",
        _HOP,
        (b"Connection: X-Hop", b"X-Hop: 1"),
        "x-hop",
        [],
    ),
    (
        "hop-proxy-connection",
        "Proxy-Connection of an answer does not cross",
        _HOP,
        (b"Proxy-Connection: keep-alive",),
        "proxy-connection",
        [],
    ),
    (
        "hop-upgrade",
        "Upgrade of an answer does not cross",
        "RFC 9110 section 7.8",
        (b"Connection: Upgrade", b"Upgrade: h2c"),
        "upgrade",
        [],
    ),
    ("hop-te", "TE of an answer does not cross", _HOP, (b"TE: trailers",), "te", []),
    (
        "www-authenticate",
        "two WWW-Authenticate are kept",
        "RFC 9110 section 11.6.1",
        (b"WWW-Authenticate: A", b"WWW-Authenticate: B"),
        "www-authenticate",
        [b"A", b"B"],
    ),
    (
        "date",
        "Date is passed on",
        "RFC 9110 section 6.6.1",
        (b"Date: Tue, 15 Nov 1994 08:12:31 GMT",),
        "date",
        [b"Tue, 15 Nov 1994 08:12:31 GMT"],
    ),
    ("server", "Server is passed on", "RFC 9110 section 10.2.4", (b"Server: api-gateway",), "server", [b"api-gateway"]),
    (
        "long",
        "an answer's header of 20 KB (an IAM token) is kept",
        "IAM tokens are long",
        (b"X-Subject: " + b"a" * 20_000,),
        "x-subject",
        [b"a" * 20_000],
    ),
    (
        "location",
        "Location is not rewritten",
        "RFC 9110 section 10.2.2",
        (b"Location: http://other.test/a?b#c",),
        "location",
        [b"http://other.test/a?b#c"],
    ),
):
    add(
        Case(
            f"headers/answer-{_id}",
            _title,
            _source,
            MINOR if _id in {"date", "server", "long"} else MAJOR,
            "answer",
            _answer_exact(_more, _name, _wanted),
        )
    )


@case(
    "headers/te-trailers",
    "TE: trailers is not passed on as if trailers were",
    f"{_HOP}; RFC 9110 section 10.1.4",
    MINOR,
)
async def te_trailers(x: Bench) -> None:
    await x.ask(x.raw(b"GET", b"/x", b"TE: trailers", b"Connection: TE"))
    request = await x.request()
    x.expect(request.values("te") in ([], [b"trailers"]), f"TE {request.values('te')!r}")
    if x.ours:
        x.expect(not request.values("te"), "TE travelled")


@case("headers/connection-not-passed", "the caller's Connection stays here", _HOP, MAJOR)
async def connection_not_passed(x: Bench) -> None:
    await x.ask(x.raw(b"GET", b"/x", b"Connection: close, X-Hop"))
    request = await x.request()
    x.expect(
        all(b"x-hop" not in value.lower() for value in request.values("connection")),
        f"{request.values('connection')!r}",
    )


@case("headers/via-added", "Via names this proxy, behind what is there", "RFC 9110 section 7.6.3", MINOR)
async def via_added(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("few gateways do")
    await x.ask(x.raw(b"GET", b"/x", b"Via: 1.0 fred"))
    via = b", ".join((await x.request()).values("via"))
    x.expect(via.startswith(b"1.0 fred, 1.1 modelarts-gateway"), f"Via {via!r}")


@case(
    "headers/via-loop",
    "a request that has been here before is a 508",
    "RFC 9110 section 7.6.3; RFC 5842 section 7.2",
    MAJOR,
)
async def via_loop(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("a promise of our own")
    await x.ask(x.raw())
    via = b", ".join((await x.request()).values("via"))
    seen = len(x.upstream.requests)
    for line in (b"Via: " + via, b"via: 1.1 other, " + via + b", 1.1 more", b"Via: 1.1 a\r\nVia: " + via):
        reply = await x.ask(x.raw(b"GET", b"/x", line))
        x.expect_error(reply, 508, "Gateway.Loop", "proxy_loop_detected")
    x.expect(len(x.upstream.requests) == seen, "it went out again")


@case("headers/via-other", "another gateway's Via is no loop", "RFC 9110 section 7.6.3", MAJOR)
async def via_other(x: Bench) -> None:
    reply = await x.ask(x.raw(b"GET", b"/x", b"Via: 1.1 modelarts-gateway, 1.1 modelarts-gateway-other"))
    x.expect(reply.status == 200, f"status {reply.status}")


# Expect
_EXPECT = b"Expect: 100-continue"
_EXPECT_SOURCE = "RFC 9110 section 10.1.1"


async def _inviting(link: Link, request: Request) -> None:
    """A proxy may leave the 100 to the upstream."""
    if request.values("expect"):
        link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await link.body(request)
    link.send(own_answer(request))


@case("headers/expect-accepted", "an accepted upload is invited, then served", _EXPECT_SOURCE, MAJOR)
async def expect_accepted(x: Bench) -> None:
    x.behave(_inviting)
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", _EXPECT, b"Content-Length: 3"))
    x.expect(await caller.until(lambda: b"\r\n\r\n" in caller.buffer, 3), "no 100 Continue came")
    x.expect(caller.buffer.startswith(b"HTTP/1.1 100"), f"{bytes(caller.buffer[:40])!r}")
    caller.send(b"abc")
    reply = await x.reply(caller)
    x.expect(reply.status == 200 and x.upstream.requests[0].body == b"abc", f"{reply.start!r}")
    if x.ours:
        x.expect(not x.upstream.requests[0].values("expect"), "Expect travelled")
    await x.sound(caller)


@case("headers/expect-chunked", "a chunked upload is invited, too", _EXPECT_SOURCE, MAJOR)
async def expect_chunked(x: Bench) -> None:
    x.behave(_inviting)
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"expect: 100-Continue", b"Transfer-Encoding: chunked"))
    x.expect(await caller.until(lambda: b"\r\n\r\n" in caller.buffer, 3), "no 100 Continue came")
    caller.send(b"3\r\nabc\r\n0\r\n\r\n")
    reply = await x.reply(caller)
    x.expect(reply.status == 200 and x.upstream.requests[0].body == b"abc", f"{reply.start!r}")


@case("headers/expect-not-waited", "a caller that does not wait for the 100 is served once", _EXPECT_SOURCE, MAJOR)
async def expect_not_waited(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", _EXPECT, b"Content-Length: 3", body=b"abc"))
    reply = await x.reply(caller)
    x.expect(reply.status == 200 and x.upstream.requests[0].body == b"abc", f"{reply.start!r}")
    await x.sound(caller)


@case("headers/expect-no-body", "Expect without a body gets no 100, only the answer", _EXPECT_SOURCE, MINOR)
async def expect_no_body(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"GET", b"/x", _EXPECT))
    reply = await x.reply(caller)
    x.expect(reply.status == 200, f"{reply.start!r}")
    if x.ours:
        x.expect(not reply.interims, "a 100 without a body")
    await x.sound(caller)


@case("headers/expect-http10", "Expect of an HTTP/1.0 caller is ignored", _EXPECT_SOURCE, MINOR)
async def expect_http10(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", _EXPECT, b"Content-Length: 3", version=b"HTTP/1.0"))
    await asyncio.sleep(0.1)
    x.expect(not caller.buffer.startswith(b"HTTP/1.1 100"), "a 100 to an HTTP/1.0 caller")
    caller.send(b"abc")
    reply = await x.reply(caller)
    x.expect(reply.status == 200, f"{reply.start!r}")


@case("headers/expect-unknown", "another expectation is a 417", _EXPECT_SOURCE, MINOR)
async def expect_unknown(x: Bench) -> None:
    reply = await x.ask(x.raw(b"POST", b"/x", b"Expect: 200-maybe", b"Content-Length: 3", body=b"abc"))
    if x.ours:
        x.expect_error(reply, 417, "Gateway.BadRequest")
        await x.nothing_upstream()
    else:
        x.expect(reply.status in {417, 200, 400}, f"status {reply.status}")


@case(
    "headers/expect-refused-declared",
    "an upload over the limit is refused before it starts",
    f"{_EXPECT_SOURCE}; RFC 9110 section 15.5.14",
    MAJOR,
    variants=("limit",),
)
async def expect_refused(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", _EXPECT, b"Content-Length: 5000000"))
    reply = await x.reply(caller)
    x.expect(not reply.interims, "the caller was told to go on")
    x.expect_error(reply, 413, "Gateway.BodyTooLarge", "http_request_error")
    await x.nothing_upstream()


@case("headers/expect-refused-route", "an upload to nowhere is refused before it starts", _EXPECT_SOURCE, MAJOR)
async def expect_refused_route(x: Bench) -> None:
    caller = await x.caller()
    caller.send(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 50000\r\n\r\n")
    reply = await x.reply(caller)
    x.expect(not reply.interims, "the caller was told to go on")
    x.expect_error(reply, 404, "Gateway.RouteNotFound")


@case(
    "headers/expect-refused-then-body",
    "a refused upload that comes anyway is no request",
    _EXPECT_SOURCE,
    CRITICAL,
    variants=("limit",),
)
async def expect_refused_then_body(x: Bench) -> None:
    caller = await x.caller()
    body = (b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n" * 3000)[:80_000]
    caller.send(x.raw(b"POST", b"/x", _EXPECT, b"Content-Length: %d" % len(body)))
    await caller.until(lambda: caller.buffer, 1)
    if x.ours or (caller.buffer and not caller.buffer.startswith(b"HTTP/1.1 100")):
        reply = await x.reply(caller)
        x.expect(reply.status == 413, f"{reply.start!r}")
        caller.send(body)
    else:  # one that invites, and looks at the body first
        caller.send(body)
        x.expect((await x.reply(caller)).status == 413, "not refused")
    await caller.until(lambda: caller.eof or caller.buffer, 3)
    x.expect(not caller.buffer, f"the body was answered: {bytes(caller.buffer[:60])!r}")


@case(
    "headers/100-from-upstream",
    "a 100 of the upstream is not the answer",
    "RFC 9110 section 15.2.1",
    MAJOR,
    attacks="answer",
)
async def upstream_100(x: Bench) -> None:
    x.answers(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"ok"))
    caller = await x.caller()
    caller.send(x.raw())
    reply = await x.reply(caller)
    x.expect(reply.status == 200 and reply.text == b"ok", f"{reply.start!r}")
    await x.sound(caller)


@case(
    "headers/103-forwarded",
    "103 Early Hints are forwarded before the answer",
    "RFC 8297; nginx proxy_early_hints.t",
    MINOR,
    attacks="answer",
)
async def early_hints(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        if request.value("x-tag") != x.tag:
            link.send(own_answer(request))
            return
        link.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n")
        await asyncio.sleep(0.2)
        link.send(answer(b"ok"))

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(x.raw())
    came = await caller.until(lambda: b"\r\n\r\n" in caller.buffer, 0.15)
    reply = await x.reply(caller)
    x.expect(reply.status == 200, f"{reply.start!r}")
    x.expect(len(reply.interims) == 1 and reply.interims[0].status == 103, "no 103 came")
    x.expect(came, "the 103 waited for the answer")
    x.expect(
        reply.interims[0].values("link") == [b"</a.css>"] and not reply.interims[0].values("x-hop"),
        f"{reply.interims[0].fields!r}",
    )
    await x.sound(caller)


@case("headers/103-http10", "no interim answer to an HTTP/1.0 caller", "RFC 9110 section 15.2", MAJOR, attacks="answer")
async def early_hints_http10(x: Bench) -> None:
    x.answers(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + answer(b"ok"))
    caller = await x.caller()
    caller.send(x.raw(version=b"HTTP/1.0"))
    reply = await x.reply(caller)
    x.expect(reply.status == 200 and not reply.interims, f"{reply.start!r}, {len(reply.interims)} interim")


@case(
    "headers/request-id",
    "a good X-Request-Id is kept, a bad one replaced, and every answer carries it",
    "our contract",
    MAJOR,
)
async def request_id(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("a promise of our own")
    reply = await x.ask(x.raw(b"GET", b"/x", b"X-Request-Id: abc-123._:/+="))
    x.expect(reply.values("x-gateway-request-id") == [b"abc-123._:/+="], f"{reply.fields!r}")
    x.expect(x.upstream.requests[0].values("x-request-id") == [b"abc-123._:/+="], "not sent upstream")
    for bad in (b"a b", b"a" * 129, b'"', b"\xe9", b"", b"a\r\nX-Request-Id: b"):
        reply = await x.ask(x.raw(b"GET", b"/x", b"X-Request-Id: " + bad))
        made = reply.values("x-gateway-request-id")
        x.expect(
            len(made) == 1 and made[0] != bad and x.upstream.requests[-1].values("x-request-id") == made,
            f"{bad!r} -> {made!r}",
        )
