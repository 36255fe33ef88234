"""WebSocket as a tunnel of untouched frames, and every Upgrade that is none."""

import asyncio
import base64
import hashlib
from functools import partial

from tests.conformance.bench import Bench, now
from tests.conformance.caller import Caller
from tests.conformance.case import Case, NotApplicable, Run, Severity, add, case
from tests.conformance.messages import Request
from tests.conformance.upstream import Link, answer, own_answer

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR
_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_HANDSHAKE = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: " + _KEY,
)
_ACCEPT = base64.b64encode(hashlib.sha1(_KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
_101 = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
    + _ACCEPT
    + b"\r\n"
)
_WS = ("ws",)


async def _open(
    x: Bench, *lines: bytes, first: bytes = b"", said: bytes = b"", fields: bytes = b""
) -> tuple[Caller, Link, bytes]:
    """A tunnel: the caller, the upstream's end and the head of the 101. ``first`` goes behind the request, ``said`` behind the 101."""

    async def behaviour(link: Link, request: Request) -> None:
        if b"websocket" not in b"".join(request.values("upgrade")).lower():
            link.send(own_answer(request))
            return
        link.send(_101 + fields + b"\r\n" + said)
        await link.until(lambda: link.lost, 30)

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(x.raw(b"GET", b"/x", *_HANDSHAKE, *lines) + first)
    reply = await x.reply(caller)
    x.expect(reply.status == 101, f"{reply.start!r} {reply.text[:80]!r}")
    x.expect(reply.values("sec-websocket-accept") == [_ACCEPT], f"{reply.fields!r}")
    x.expect([v.lower() for v in reply.values("upgrade")] == [b"websocket"], f"{reply.fields!r}")
    x.expect(any(b"upgrade" in v.lower() for v in reply.values("connection")), f"{reply.fields!r}")
    x.expect(not reply.values("content-length") and not reply.values("transfer-encoding"), "a 101 with framing")
    return caller, x.upstream.links[0], reply.head_bytes


async def _passes(x: Bench, source: Caller | Link, sink: Caller | Link, data: bytes) -> None:
    source.send(data)
    x.expect(
        await sink.until(lambda: len(sink.buffer) >= len(data), 5), f"{len(sink.buffer)} of {len(data)} bytes came"
    )
    x.expect(sink.take(len(data)) == data, "the bytes were changed")


@case(
    "tunnels/handshake",
    "the handshake carries the credential, the key and nothing invented",
    "RFC 6455 section 4.1",
    CRITICAL,
    variants=_WS,
)
async def handshake(x: Bench) -> None:
    await _open(
        x, b"Sec-WebSocket-Protocol: chat, v2", b"Authorization: Bearer evil", fields=b"Sec-WebSocket-Protocol: v2\r\n"
    )
    request = await x.request()
    x.expect(
        request.values("sec-websocket-key") == [_KEY] and request.values("sec-websocket-version") == [b"13"],
        f"{request.fields!r}",
    )
    x.expect([v.lower() for v in request.values("upgrade")] == [b"websocket"], f"{request.fields!r}")
    x.expect(any(b"upgrade" in v.lower() for v in request.values("connection")), f"{request.fields!r}")
    x.expect(not request.values("sec-websocket-extensions"), "an extension was invented")
    x.expect(request.values("sec-websocket-protocol") == [b"chat, v2"], f"{request.fields!r}")
    x.expect(not request.chunked and not request.length, "a handshake with a body")


@case(
    "tunnels/subprotocol-and-extensions",
    "what was agreed on is passed on, both ways",
    "RFC 6455 section 9.1",
    MAJOR,
    variants=_WS,
)
async def agreed(x: Bench) -> None:
    _, _, head = await _open(
        x,
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        b"Sec-WebSocket-Protocol: chat",
        fields=b"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat\r\nX-A: 1\r\nX-A: 2\r\n",
    )
    x.expect(
        x.upstream.requests[0].values("sec-websocket-extensions") == [b"permessage-deflate; client_max_window_bits"],
        "the offer was changed",
    )
    for line in (b"permessage-deflate", b"chat", b"X-A: 1", b"X-A: 2"):
        x.expect(line.lower() in head.lower(), f"{line!r} was lost")


@case(
    "tunnels/frames",
    "frames of every kind pass untouched",
    "RFC 6455 section 5; opcodes, masks, reserved bits, fragments",
    CRITICAL,
    variants=_WS,
)
async def frames(x: Bench) -> None:
    caller, link, _ = await _open(x)
    for frame in (
        b"\x81\x85\x01\x02\x03\x04" + bytes(a ^ b for a, b in zip(b"hello", b"\x01\x02\x03\x04\x01", strict=True)),
        b"\x01\x83\x00\x00\x00\x00abc", b"\x80\x83\x00\x00\x00\x00def", b"\x89\x80\x00\x00\x00\x00", b"\x8a\x84\x00\x00\x00\x00ping",
        b"\xc1\x83\x00\x00\x00\x00xyz", b"\xf3\x80\x00\x00\x00\x00", b"\x82\xfe\x01\x00\x00\x00\x00\x00" + bytes(256), b"\x81\x03abc",
        b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", bytes(range(256)),
    ):  # fmt: skip
        await _passes(x, caller, link, frame)
        await _passes(x, link, caller, frame)


@case(
    "tunnels/large",
    "4 MB pass in each direction at once",
    "aiohttp caps messages at 4 MiB",
    MAJOR,
    variants=_WS,
    seconds=30,
)
async def large(x: Bench) -> None:
    caller, link, _ = await _open(x)
    data = bytes(range(256)) * 16_384
    await asyncio.gather(_passes(x, caller, link, data), _passes(x, link, caller, data[::-1]))


@case(
    "tunnels/first-bytes-of-upstream",
    "bytes that come with the 101 are kept",
    "RFC 6455 section 4.2.2; lost by proxies that parse",
    CRITICAL,
    attacks="answer",
    variants=_WS,
)
async def first_of_upstream(x: Bench) -> None:
    caller, link, _ = await _open(x, said=b"\x81\x05hello")
    x.expect(await caller.until(lambda: len(caller.buffer) >= 7, 3), f"{bytes(caller.buffer)!r}")
    x.expect(caller.take(7) == b"\x81\x05hello", "they were changed")
    await _passes(x, link, caller, b"\x81\x02ok")


@case(
    "tunnels/first-bytes-of-caller",
    "bytes that come with the handshake are kept, and wait for the 101",
    "RFC 6455 section 4.1 forbids it; some clients do it",
    MAJOR,
    variants=_WS,
)
async def first_of_caller(x: Bench) -> None:
    caller, link, _ = await _open(x, first=b"\x81\x80\x00\x00\x00\x00")
    x.expect(await link.until(lambda: len(link.buffer) >= 6, 3), f"{bytes(link.buffer)!r}")
    x.expect(link.take(6) == b"\x81\x80\x00\x00\x00\x00", "they were changed")
    await _passes(x, caller, link, b"\x81\x81\x00\x00\x00\x00a")


@case(
    "tunnels/early-bytes-after-refusal",
    "bytes behind a handshake that is refused are the next request, or nothing: never sent on",
    "websocket smuggling (0ang3el 2019)",
    CRITICAL,
    attacks="both",
    variants=_WS,
)
async def early_bytes_refused(x: Bench) -> None:
    x.answers(answer(b"no", status=b"426 Upgrade Required"))
    caller = await x.caller()
    caller.send(x.raw(b"GET", b"/x", *_HANDSHAKE) + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    reply = await x.reply(caller)
    x.expect(reply.status == 426, f"{reply.start!r}")
    await asyncio.sleep(0.1)
    wire = b"".join(bytes(link.record) for link in x.upstream.links)
    x.expect(b"smuggled" not in wire, "they reached the upstream")


@case(
    "tunnels/close-codes",
    "close frames keep code and reason, and the connections end",
    "RFC 6455 section 7.4",
    MAJOR,
    variants=_WS,
)
async def close_codes(x: Bench) -> None:
    caller, link, _ = await _open(x)
    await _passes(x, link, caller, b"\x88\x08\x0f\xa1reason")
    await _passes(x, caller, link, b"\x88\x88\x00\x00\x00\x00\x0f\xa1reason")
    link.close()
    x.expect(await caller.until(lambda: caller.eof, 2), "the caller's connection stayed open")


def _ends(who: str, how: str) -> Run:
    async def run(x: Bench) -> None:
        caller, link, _ = await _open(x)
        await _passes(x, caller, link, b"\x89\x80\x00\x00\x00\x00")
        leaving, other = (caller, link) if who == "caller" else (link, caller)
        {"close": leaving.close, "reset": leaving.reset}[how]()
        x.expect(await other.until(lambda: other.eof, 1 if who == "caller" else 2), "the other side is still open")
        await x.sound()

    return run


for _who in ("caller", "upstream"):
    for _how in ("close", "reset"):
        add(
            Case(
                f"tunnels/{_who}-{_how}",
                f"a tunnel ends at once when the {_who} leaves ({_how})",
                "RFC 6455 section 7",
                MAJOR,
                "request" if _who == "caller" else "answer",
                _ends(_who, _how),
                _WS,
            )
        )


@case("tunnels/last-bytes", "bytes just before the close arrive", "RFC 6455 section 7.1.1", CRITICAL, variants=_WS)
async def last_bytes(x: Bench) -> None:
    data = b"\x82\x7e\xff\xff" + b"z" * 65_535
    for _ in range(3):
        caller, link, _ = await _open(x)
        link.send(data)
        link.close()
        x.expect(await caller.until(partial(getattr, caller, "eof"), 3), "still open")
        x.expect(bytes(caller.buffer) == data, f"{len(caller.buffer)} of {len(data)} bytes from the upstream")
        x.upstream.links.clear()
        caller, link, _ = await _open(x)
        caller.send(data)
        await asyncio.sleep(0)
        caller.close()
        x.expect(await link.until(partial(getattr, link, "eof"), 3), "still open")
        x.expect(bytes(link.buffer) == data, f"{len(link.buffer)} of {len(data)} bytes from the caller")
        x.upstream.links.clear()


@case(
    "tunnels/backpressure",
    "a tunnel to a side that does not read costs a few MB",
    "backpressure",
    CRITICAL,
    variants=_WS,
    alone=True,
)
async def backpressure(x: Bench) -> None:
    before = x.memory_bytes()
    for stuck in ("caller", "upstream"):
        x.upstream.links.clear()
        caller, link, _ = await _open(x)
        reader, writer = (caller, link) if stuck == "caller" else (link, caller)
        reader.pause()
        sent = 0
        started = now()
        while now() - started < 1.0 and sent < 60_000_000:
            if writer.writable:
                writer.send(b"z" * 100_000)
                sent += 100_000
            await asyncio.sleep(0)
        x.expect(sent < 50_000_000, f"{sent / 1e6:.0f} MB went into a tunnel whose {stuck} does not read")
        more = x.memory_bytes() - before
        x.expect(more < 10_000_000, f"{more / 1e6:.1f} MB more memory")
        reader.resume()
        writer.close()
        await asyncio.sleep(0.2)


@case(
    "tunnels/longer-than-the-deadline",
    "after the handshake silence counts, not the deadline",
    "our contract",
    MAJOR,
    variants=_WS,
)
async def longer(x: Bench) -> None:
    caller, link, _ = await _open(x)
    await asyncio.sleep(1.6)  # the route's deadline is one second
    x.expect(not caller.eof and not link.eof, "cut at the deadline")
    await _passes(x, caller, link, b"\x89\x80\x00\x00\x00\x00")
    await _passes(x, link, caller, b"\x8a\x00")


@case(
    "tunnels/deadline-of-handshake",
    "a handshake that is never answered ends at the deadline",
    "our contract",
    MAJOR,
    attacks="answer",
    variants=_WS,
)
async def handshake_deadline(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("the route's deadline is ours")

    async def behaviour(link: Link, request: Request) -> None:
        await link.until(lambda: link.lost, 10)

    x.behave(behaviour)
    started = now()
    reply = await x.ask(x.raw(b"GET", b"/x", *_HANDSHAKE))
    x.expect_error(reply, 504, "Gateway.DeadlineExceeded")
    x.expect(now() - started < 2, "late")


def _refusal(status: bytes, body: bytes) -> Run:
    async def run(x: Bench) -> None:
        x.answers(answer(body, b"X-Why: b", status=status))
        caller = await x.caller()
        caller.send(x.raw(b"GET", b"/x", *_HANDSHAKE))
        reply = await x.reply(caller)
        x.expect(
            b"%d" % reply.status == status[:3] and reply.text == body and reply.value("x-why") == b"b",
            f"{reply.start!r} {reply.text!r}",
        )
        await x.sound(caller)
        await x.sound()

    return run


for _status in (
    b"401 Unauthorized",
    b"403 Forbidden",
    b"404 Not Found",
    b"426 Upgrade Required",
    b"503 Service Unavailable",
    b"200 OK",
):
    add(
        Case(
            f"tunnels/refusal-{_status[:3].decode()}",
            f"a handshake that the upstream answers {_status.decode()!r}: passed on, with its body",
            "RFC 6455 section 4.2.2",
            MAJOR,
            "answer",
            _refusal(_status, b"because of the upstream"),
            _WS,
        )
    )


def _no_tunnel(
    variant: str, lines: tuple[bytes, ...], method: bytes = b"GET", version: bytes = b"HTTP/1.1", body: bytes = b""
) -> Run:
    """No Upgrade reaches the upstream, and its 101, should it send one, opens nothing."""

    async def run(x: Bench) -> None:
        caller = await x.caller()
        caller.send(x.raw(method, b"/x", *lines, version=version, body=body))
        reply = await x.reply(caller)
        x.expect(reply.status in {200, 400, 426, 501} or (not x.ours and reply.status == 403), f"{reply.start!r}")
        for request in x.upstream.requests:
            x.expect(not request.values("upgrade"), f"Upgrade {request.values('upgrade')!r} reached the upstream")
        await x.sound(caller)

    return run


for _id, _title, _variant, _lines, _method, _version, _body in (
    (
        "h2c",
        "h2c, with its settings",
        "ws",
        (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
        b"GET",
        b"HTTP/1.1",
        b"",
    ),
    (
        "h2c-with-body",
        "h2c with a body behind it",
        "ws",
        (b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 3"),
        b"POST",
        b"HTTP/1.1",
        b"abc",
    ),
    ("tls", "TLS", "ws", (b"Connection: Upgrade", b"Upgrade: TLS/1.0"), b"GET", b"HTTP/1.1", b""),
    (
        "list",
        "a list with websocket in it",
        "ws",
        (b"Connection: Upgrade", b"Upgrade: h2c, websocket", *_HANDSHAKE[2:]),
        b"GET",
        b"HTTP/1.1",
        b"",
    ),
    ("http10", "WebSocket in HTTP/1.0", "ws", _HANDSHAKE, b"GET", b"HTTP/1.0", b""),
    ("post", "WebSocket by POST", "ws", (*_HANDSHAKE, b"Content-Length: 0"), b"POST", b"HTTP/1.1", b""),
    ("body", "WebSocket with a body", "ws", (*_HANDSHAKE, b"Content-Length: 3"), b"GET", b"HTTP/1.1", b"abc"),
    (
        "version",
        "WebSocket of another version",
        "ws",
        (*_HANDSHAKE[:2], b"Sec-WebSocket-Version: 777", _HANDSHAKE[3]),
        b"GET",
        b"HTTP/1.1",
        b"",
    ),
    ("no-key", "WebSocket without a key", "ws", _HANDSHAKE[:3], b"GET", b"HTTP/1.1", b""),
    ("no-connection", "WebSocket not named in Connection", "ws", _HANDSHAKE[1:], b"GET", b"HTTP/1.1", b""),
    ("route", "WebSocket on a route that does not say so", "plain", _HANDSHAKE, b"GET", b"HTTP/1.1", b""),
):
    _weight = (
        MINOR
        if _id in {"no-key", "version", "post", "body", "http10", "list"}
        else CRITICAL
        if _id.startswith("h2c")
        else MAJOR
    )
    add(
        Case(
            f"tunnels/dropped-{_id}",
            f"no tunnel: {_title}",
            "RFC 9110 section 7.8; RFC 6455 section 4.2.1; h2c and WebSocket smuggling",
            _weight,
            "request",
            _no_tunnel(_variant, _lines, _method, _version, _body),
            (_variant,),
        )
    )


@case(
    "tunnels/version-smuggling",
    "a 101 to a handshake that was not passed on opens nothing",
    "websocket smuggling (0ang3el 2019)",
    CRITICAL,
    attacks="both",
    variants=_WS,
)
async def version_smuggling(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        if request.value("x-tag") == x.tag:
            link.send(answer(b"no", b"Sec-WebSocket-Version: 13", status=b"426 Upgrade Required"))
        else:
            link.send(own_answer(request))

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(x.raw(b"GET", b"/x", *_HANDSHAKE[:2], b"Sec-WebSocket-Version: 777", _HANDSHAKE[3]))
    await x.reply(caller)
    if not caller.said_close and not caller.eof:
        caller.send(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.1)
    wire = b"".join(bytes(link.record) for link in x.upstream.links)
    x.expect(b"smuggled" not in wire, "the upstream connection became a tunnel")


@case(
    "tunnels/broken-101",
    "a 101 with a NUL in a header opens nothing",
    "RFC 9110 section 5.5",
    MAJOR,
    attacks="answer",
    variants=_WS,
)
async def broken_101(x: Bench) -> None:
    x.answers(_101 + b"X-A: a\0b\r\n\r\n")
    reply = await x.ask(x.raw(b"GET", b"/x", *_HANDSHAKE))
    x.expect(reply.status == 502, f"{reply.start!r}")


@case(
    "tunnels/origin",
    "a page's WebSocket is refused before it reaches the upstream",
    "cross-site WebSocket hijacking",
    CRITICAL,
    variants=_WS,
)
async def origin(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("a promise of our own")
    reply = await x.ask(x.raw(b"GET", b"/x", *_HANDSHAKE, b"Origin: https://evil.example.com"))
    x.expect_error(reply, 403, "Gateway.OriginNotAllowed")
    await x.nothing_upstream()


@case(
    "tunnels/refusal-until-close",
    "a refusal without a length is passed on whole",
    "RFC 9112 section 6.3 rule 8",
    MAJOR,
    attacks="answer",
    variants=_WS,
)
async def refusal_until_close(x: Bench) -> None:
    x.answers(b"HTTP/1.1 403 Forbidden\r\n\r\nbecause", end="close")
    reply = await x.ask(x.raw(b"GET", b"/x", *_HANDSHAKE))
    x.expect(reply.status == 403 and reply.text == b"because" and reply.complete, f"{reply.start!r} {reply.text!r}")


@case(
    "tunnels/caller-half-close",
    "a caller that half-closes its tunnel still gets what the upstream sends, or both sides end",
    "RFC 6455 section 7.1.1",
    MINOR,
    variants=_WS,
)
async def half_close(x: Bench) -> None:
    caller, link, _ = await _open(x)
    await _passes(x, caller, link, b"\x89\x80\x00\x00\x00\x00")
    caller.half_close()
    x.expect(await link.until(lambda: link.eof, 2), "the upstream does not hear of it")


@case("tunnels/silent", "a tunnel that falls silent ends after idle", "our contract", MAJOR, variants=_WS, seconds=15)
async def silent(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("the route's idle is ours")
    caller, link, _ = await _open(x)
    started = now()
    x.expect(await caller.until(lambda: caller.eof, 8) and await link.until(lambda: link.eof, 1), "still open")
    x.expect(4 < now() - started < 7, f"after {now() - started:.1f} s")


@case(
    "tunnels/gone-before-101",
    "a caller that leaves before the 101 ends the handshake",
    "RFC 6455 section 4.1",
    MAJOR,
    variants=_WS,
)
async def gone_before(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        if request.value("x-tag") != x.tag:
            link.send(own_answer(request))
            return
        await link.until(lambda: link.eof, 5)

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(x.raw(b"GET", b"/x", *_HANDSHAKE))
    await x.request()
    caller.reset()
    await x.gone(x.upstream.links[0], 1)
    await x.sound()


@case(
    "tunnels/many", "fifty tunnels at once stay apart", "response queue poisoning", CRITICAL, variants=_WS, seconds=30
)
async def many(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        link.send(_101 + b"\r\n")
        while not link.eof:
            if link.buffer:
                link.send(link.take(len(link.buffer)))
            else:
                await link.changed()
        link.close()

    x.behave(behaviour)

    async def one(number: int) -> None:
        caller = await x.caller()
        caller.send(x.raw(b"GET", b"/x", *_HANDSHAKE))
        x.expect((await x.reply(caller)).status == 101, "no tunnel")
        for turn in range(10):
            await _passes(x, caller, caller, b"%04d-%04d;" % (number, turn))

    await asyncio.gather(*(one(number) for number in range(50)))
