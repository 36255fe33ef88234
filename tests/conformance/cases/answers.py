"""Answers of a hostile or broken upstream: a 502 or a visible cut, never somebody else's answer."""

import asyncio

from tests.conformance.bench import Bench, own_answer
from tests.conformance.case import Case, Run, Severity, add, case
from tests.conformance.messages import Ended, Request
from tests.conformance.upstream import Link, answer

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR
_PROTOCOL = (502, "Gateway.UpstreamProtocolError")
_UNREACHABLE = (502, "Gateway.UpstreamUnreachable")
_POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


def _bad(raw: bytes, end: str, cleaned: bytes | None, ours: tuple[int, str], error: str | None) -> Run:
    """An error status; others may pass on a clean answer with ``cleaned`` as its body. Then everything is sound."""

    async def run(x: Bench) -> None:
        x.answers(raw, end=end)
        caller = await x.caller()
        caller.send(x.raw())
        try:
            reply = await x.reply(caller, seconds=4.0)
        except Exception:
            if x.ours or not caller.eof or caller.record:
                raise
            reply = None  # closed without an answer: visible, too
        if x.ours:
            assert reply is not None
            x.expect_error(reply, *ours, error)
        elif reply is not None and reply.status not in {502, 503, 504} and reply.complete:
            x.expect(cleaned is not None, f"passed on: {reply.start!r} {reply.text[:80]!r}")
            x.expect(reply.text == cleaned, f"passed on with body {reply.text[:80]!r}")
        if end:
            await asyncio.sleep(0.06)  # so that nobody meets the connection while it closes
        await x.sound(caller)
        await x.sound()

    return run


def _table(
    id: str,
    title: str,
    source: str,
    severity: Severity,
    raw: bytes,
    *,
    end: str = "",
    cleaned: bytes | None = None,
    ours: tuple[int, str] = _PROTOCOL,
    error: str | None = "http_protocol_error",
) -> None:
    add(Case(f"answers/{id}", title, source, severity, "answer", _bad(raw, end, cleaned, ours, error)))


def _with(*lines: bytes, body: bytes = b"abc") -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", *lines)) + b"\r\n\r\n" + body


_CL = "RFC 9112 section 6.3 rule 5"
for _id, _value, _severity in (
    ("plus", b"+3", MAJOR),
    ("minus", b"-3", MAJOR),
    ("hex", b"0x3", MAJOR),
    ("letters", b"abc", MAJOR),
    ("empty", b"", MAJOR),
    ("fraction", b"3.0", MAJOR),
    ("inner-space", b"1 3", MAJOR),
    ("different-list", b"3, 4", CRITICAL),
    ("overflow", b"18446744073709551619", CRITICAL),
    ("underscore", b"1_0", MAJOR),
    ("huge", b"9" * 40, CRITICAL),
):
    _table(
        f"cl-{_id}", f"Content-Length {_value[:24]!r}", _CL, _severity, _with(b"Content-Length: " + _value), end="close"
    )
_table(
    "cl-list-equal",
    "a list of equal Content-Lengths",
    f"{_CL}: a proxy may fold it",
    MINOR,
    _with(b"Content-Length: 3, 3"),
    end="close",
    cleaned=b"abc",
)
_table(
    "cl-twice-equal",
    "two equal Content-Lengths",
    f"{_CL}: a proxy may fold them",
    MINOR,
    _with(b"Content-Length: 3", b"Content-Length: 3"),
    cleaned=b"abc",
)
_table(
    "cl-twice-different",
    "two different Content-Lengths",
    _CL,
    CRITICAL,
    _with(b"Content-Length: 3", b"Content-Length: 40", body=b"abc" + _POISON),
)
_table(
    "cl-space-colon",
    "white space before Content-Length's colon",
    "RFC 9112 section 5.1: removed or refused",
    MAJOR,
    _with(b"Content-Length : 3"),
    end="close",
    cleaned=b"abc",
)
_TE = "RFC 9112 section 6.3 rule 3"
_table(
    "te-cl",
    "both framings",
    _TE,
    CRITICAL,
    _with(b"Transfer-Encoding: chunked", b"Content-Length: 3", body=b"3\r\nabc\r\n0\r\n\r\n"),
    cleaned=b"abc",
)
_table(
    "cl-te",
    "both framings, the length first",
    _TE,
    CRITICAL,
    _with(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + _POISON),
    cleaned=b"",
)
_table(
    "te-http10",
    "Transfer-Encoding in HTTP/1.0",
    "RFC 9112 section 6.1",
    CRITICAL,
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    end="close",
    cleaned=b"abc",
)
for _id, _value in (
    ("gzip", b"gzip"),
    ("unknown", b"xchunked"),
    ("gzip-chunked", b"gzip, chunked"),
    ("identity", b"identity"),
    ("twice", b"chunked, chunked"),
    ("parameter", b"chunked;q=1"),
    ("quoted", b'"chunked"'),
    ("empty", b""),
):
    _table(
        f"te-{_id}",
        f"Transfer-Encoding {_value!r}",
        "RFC 9112 section 6.1; read until close by lenient parsers",
        MAJOR,
        _with(b"Transfer-Encoding: " + _value, body=b"3\r\nabc\r\n0\r\n\r\n"),
        end="close",
    )
_table(
    "te-two-lines",
    "two Transfer-Encoding lines",
    "RFC 9112 section 6.1",
    MAJOR,
    _with(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"3\r\nabc\r\n0\r\n\r\n"),
    end="close",
)

_STATUS = "RFC 9112 section 4"
for _id, _line, _severity in (
    ("none", b"garbage", MAJOR),
    ("four-digits", b"HTTP/1.1 2000 OK", CRITICAL),
    ("two-digits", b"HTTP/1.1 20 OK", MAJOR),
    ("letters", b"HTTP/1.1 abc OK", MAJOR),
    ("zero", b"HTTP/1.1 000 OK", MAJOR),
    ("099", b"HTTP/1.1 099 OK", MAJOR),
    ("600", b"HTTP/1.1 600 OK", MINOR),
    ("999", b"HTTP/1.1 999 OK", MINOR),
    ("minus", b"HTTP/1.1 -200 OK", MAJOR),
    ("plus", b"HTTP/1.1 +20 OK", MAJOR),
    ("no-status", b"HTTP/1.1", MAJOR),
    ("no-space", b"HTTP/1.1200 OK", MAJOR),
    ("http2", b"HTTP/2.0 200 OK", MINOR),
    ("http09", b"HTTP/0.9 200 OK", MINOR),
    ("icy", b"ICY 200 OK", MAJOR),
    ("lower", b"http/1.1 200 OK", MAJOR),
    ("two-spaces", b"HTTP/1.1  200 OK", MINOR),
    ("nul-reason", b"HTTP/1.1 200 O\0K", CRITICAL),
    ("cr-reason", b"HTTP/1.1 200 O\rK", CRITICAL),
    ("control-reason", b"HTTP/1.1 200 O\x01K", MAJOR),
    ("request", b"GET / HTTP/1.1", MAJOR),
    ("1.10", b"HTTP/1.10 200 OK", MINOR),
):
    _table(
        f"status-{_id}",
        f"status line {_line!r}",
        _STATUS,
        _severity,
        _line + b"\r\nContent-Length: 3\r\n\r\nabc",
        end="close",
        cleaned=b"abc" if _id in {"600", "999", "two-spaces", "cr-reason", "nul-reason", "control-reason"} else None,
    )
_table(
    "http09",
    "a body without any head (HTTP/0.9)",
    "RFC 9112 appendix C.1",
    MAJOR,
    b"<html>hello</html>\r\n",
    end="close",
)
_table("binary", "binary rubbish", _STATUS, MAJOR, bytes(range(256)) * 4, end="close")
_table(
    "tls-alert",
    "a TLS alert from an HTTPS port",
    "a frequent mistake in configurations",
    MAJOR,
    b"\x15\x03\x01\x00\x02\x02\x46",
    end="close",
)
_table(
    "h2-settings",
    "an HTTP/2 SETTINGS frame",
    "RFC 9113 section 3.4",
    MAJOR,
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    end="close",
)

_FIELD = "RFC 9112 section 5"
for _id, _line, _severity, _ok in (
    ("nul", b"X-A: a\0b", CRITICAL, True),
    ("control", b"X-A: a\x01b", MAJOR, False),
    ("bare-cr", b"X-A: a\rSet-Cookie: b=c", CRITICAL, True),
    ("bare-lf", b"X-A: a\nX-B: b", MAJOR, True),
    ("no-colon", b"rubbish", MAJOR, True),
    ("empty-name", b": a", MAJOR, True),
    ("space-name", b"X A: a", MAJOR, True),
    ("space-colon", b"X-A : a", MAJOR, True),
    ("delimiter-name", b"X(A: a", MAJOR, True),
    ("high-name", b"X-\xe9: a", MAJOR, True),
    ("folded", b"X-A: a\r\n b", MAJOR, True),
    ("leading-space", b" X-A: a", MAJOR, True),
    ("nul-name", b"X\0A: a", CRITICAL, True),
    ("del", b"X-A: a\x7f", MINOR, False),
):
    _table(
        f"field-{_id}",
        f"field line {_line!r}",
        f"{_FIELD}; refused, or cleaned for the caller",
        _severity,
        _with(b"Content-Length: 3", _line),
        cleaned=b"abc" if _ok else None,
    )
_table(
    "lf-lines",
    "a head with bare LFs",
    "RFC 9112 section 2.2",
    MAJOR,
    b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
    end="close",
    cleaned=b"abc",
)
_table(
    "101-unasked",
    "101 that nobody asked for",
    "RFC 9110 section 15.2.2",
    CRITICAL,
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + _POISON,
)
_table(
    "1xx-flood",
    "a thousand informational answers",
    "Go Test1xxResponses",
    MAJOR,
    b"HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\n" * 1000,
    end="close",
)
_table(
    "close-no-answer",
    "closed without an answer",
    "RFC 9112 section 9.5",
    MAJOR,
    b"",
    end="close",
    ours=_UNREACHABLE,
    error="connection_terminated",
)
_table(
    "reset-no-answer",
    "reset without an answer",
    "RFC 9112 section 9.5",
    MAJOR,
    b"",
    end="reset",
    ours=_UNREACHABLE,
    error="connection_terminated",
)
_table(
    "cut-status-line",
    "closed inside the status line",
    "RFC 9112 section 8",
    MAJOR,
    b"HTTP/1.1 20",
    end="close",
    error="http_response_incomplete",
)
_table(
    "cut-head",
    "closed inside the head",
    "RFC 9112 section 8",
    MAJOR,
    b"HTTP/1.1 200 OK\r\nContent-Le",
    end="close",
    error="http_response_incomplete",
)
_table(
    "cut-head-reset",
    "reset inside the head",
    "RFC 9112 section 8",
    MAJOR,
    b"HTTP/1.1 200 OK\r\nContent-Le",
    end="reset",
    error="http_response_incomplete",
)
_table(
    "cut-head-line",
    "closed before the head's empty line",
    "RFC 9112 section 8",
    CRITICAL,
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
    end="close",
    error="http_response_incomplete",
)
_table(
    "cut-after-100",
    "closed behind a 100",
    "RFC 9112 section 8",
    MAJOR,
    b"HTTP/1.1 100 Continue\r\n\r\n",
    end="close",
    ours=_UNREACHABLE,
    error=None,
)


@case(
    "answers/endless-head",
    "a response head without end costs bounded memory and is a 502",
    "CVE class of unbounded heads",
    CRITICAL,
    attacks="answer",
    alone=True,
)
async def endless_head(x: Bench) -> None:
    before = x.memory_bytes()

    async def behaviour(link: Link, request: Request) -> None:
        if request.value("x-tag") != x.tag:
            link.send(own_answer(request))
            return
        link.send(b"HTTP/1.1 200 OK\r\n")
        for _ in range(200):
            if link.lost:
                return
            await link.send_all(b"X-A: b\r\n" * 12_000, 1.0)
        link.close()

    x.behave(behaviour)
    reply = await x.ask(x.raw(), seconds=8)
    x.expect(reply.status in {502, 503} or not reply.complete, f"{reply.start!r}")
    if x.ours:
        x.expect_error(reply, *_PROTOCOL)
    x.expect(x.memory_bytes() - before < 10_000_000, f"{(x.memory_bytes() - before) / 1e6:.1f} MB more memory")
    await x.sound()


@case(
    "answers/endless-status-line",
    "a status line without end",
    "CVE class of unbounded heads",
    CRITICAL,
    attacks="answer",
    alone=True,
)
async def endless_status(x: Bench) -> None:
    before = x.memory_bytes()

    async def behaviour(link: Link, request: Request) -> None:
        if request.value("x-tag") != x.tag:
            link.send(own_answer(request))
            return
        link.send(b"HTTP/1.1 200 O")
        for _ in range(200):
            if link.lost:
                return
            await link.send_all(b"o" * 100_000, 1.0)
        link.close()

    x.behave(behaviour)
    reply = await x.ask(x.raw(), seconds=8)
    x.expect(reply.status in {502, 503}, f"{reply.start[:80]!r}")
    x.expect(x.memory_bytes() - before < 10_000_000, f"{(x.memory_bytes() - before) / 1e6:.1f} MB more memory")
    await x.sound()


def _cut(raw: bytes, end: str, whole: bytes | None = None) -> Run:
    """The head may be out already: an error status or a body that is visibly not whole (unless ``whole``)."""

    async def run(x: Bench) -> None:
        x.answers(raw, end=end)
        reply = await x.visible(x.raw()) if whole is None else await x.ask(x.raw())
        if whole is not None:
            assert reply is not None
            x.expect(
                reply.complete and reply.text == whole,
                f"{reply.start!r} {reply.text[:80]!r}, complete {reply.complete}",
            )
        await x.sound()

    return run


def _cut_table(
    id: str, title: str, source: str, severity: Severity, raw: bytes, end: str = "", whole: bytes | None = None
) -> None:
    add(Case(f"answers/{id}", title, source, severity, "answer", _cut(raw, end, whole)))


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
_8 = "RFC 9112 section 8"
for _end_id in ("close", "reset"):
    _cut_table(f"cut-length-{_end_id}", f"a length not kept, {_end_id}", _8, CRITICAL, _LENGTH + b"abc", _end_id)
    _cut_table(f"cut-length-nothing-{_end_id}", f"a length and no body, {_end_id}", _8, CRITICAL, _LENGTH, _end_id)
    _cut_table(f"cut-chunk-{_end_id}", f"inside a chunk, {_end_id}", _8, CRITICAL, _CHUNKED + b"5\r\nabc", _end_id)
    _cut_table(
        f"cut-chunk-end-{_end_id}", f"between two chunks, {_end_id}", _8, CRITICAL, _CHUNKED + b"3\r\nabc\r\n", _end_id
    )
    _cut_table(
        f"cut-chunk-size-{_end_id}",
        f"inside a chunk size, {_end_id}",
        _8,
        CRITICAL,
        _CHUNKED + b"3\r\nabc\r\n5",
        _end_id,
    )
    _cut_table(
        f"cut-last-chunk-{_end_id}",
        f"before the empty line of the last chunk, {_end_id}",
        _8,
        MAJOR,
        _CHUNKED + b"3\r\nabc\r\n0\r\n",
        _end_id,
    )
    _cut_table(
        f"cut-trailer-{_end_id}",
        f"inside a trailer, {_end_id}",
        _8,
        MAJOR,
        _CHUNKED + b"3\r\nabc\r\n0\r\nX-T: ",
        _end_id,
    )
_cut_table("cut-half-length", "half-closed inside a length", _8, CRITICAL, _LENGTH + b"abc", "half")
_cut_table("cut-half-chunk", "half-closed inside a chunk", _8, CRITICAL, _CHUNKED + b"5\r\nabc", "half")
_cut_table(
    "until-close",
    "an answer that ends with its connection",
    "RFC 9112 section 6.3 rule 8",
    MAJOR,
    b"HTTP/1.1 200 OK\r\n\r\nhello",
    "close",
    whole=b"hello",
)
_cut_table(
    "until-close-empty",
    "an empty answer that ends with its connection",
    "RFC 9112 section 6.3 rule 8",
    MAJOR,
    b"HTTP/1.1 200 OK\r\n\r\n",
    "close",
    whole=b"",
)
_cut_table(
    "until-close-http10",
    "an HTTP/1.0 answer",
    "RFC 9112 section 6.3 rule 8",
    MAJOR,
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    "close",
    whole=b"hello",
)
_cut_table(
    "until-close-half",
    "an answer that ends with a half-close",
    "RFC 9112 section 9.6",
    MAJOR,
    b"HTTP/1.1 200 OK\r\n\r\nhello",
    "half",
    whole=b"hello",
)
_cut_table(
    "until-close-reset",
    "an answer without framing, reset: never a whole-looking one",
    "RFC 9112 section 8",
    CRITICAL,
    b"HTTP/1.1 200 OK\r\n\r\nhello",
    "reset",
)

for _id, _bytes, _severity in (
    ("size-letters", b"xyz\r\nabc\r\n0\r\n\r\n", MAJOR),
    ("size-0x", b"0x3\r\nabc\r\n0\r\n\r\n", CRITICAL),
    ("size-minus", b"-3\r\nabc\r\n0\r\n\r\n", CRITICAL),
    ("size-empty", b"\r\nabc\r\n0\r\n\r\n", MAJOR),
    ("size-overflow", b"10000000000000003\r\nabc\r\n0\r\n\r\n", CRITICAL),
    ("size-plus", b"+3\r\nabc\r\n0\r\n\r\n", MAJOR),
    ("data-long", b"3\r\nabcdef\r\n0\r\n\r\n", CRITICAL),
    ("data-none", b"3\r\nabc0\r\n\r\n", CRITICAL),
    ("extension-lf", b"3;a\nb\r\nabc\r\n0\r\n\r\n", MAJOR),
    ("extension-endless", b"3;" + b"a" * 200_000 + b"\r\nabc\r\n0\r\n\r\n", MINOR),
    ("trailer-nul", b"3\r\nabc\r\n0\r\nX: a\0b\r\n\r\n", MINOR),
    ("trailer-rubbish", b"3\r\nabc\r\n0\r\nrubbish\r\n\r\n", MINOR),
    ("second-size-bad", b"3\r\nabc\r\nzz\r\nabc\r\n0\r\n\r\n", MAJOR),
):

    def _chunk_case(body: bytes, ok: bool) -> Run:
        async def run(x: Bench) -> None:
            x.answers(_CHUNKED + body)
            caller = await x.caller()
            caller.send(x.raw())
            try:
                reply = await x.reply(caller, seconds=3)
            except Exception:
                if x.ours or not caller.eof:
                    raise
            else:
                if x.ours or not ok:
                    x.expect(reply.status == 502 or not reply.complete, f"passed on whole: {reply.text[:60]!r}")
                else:
                    x.expect(reply.status == 502 or not reply.complete or reply.text == b"abc", f"{reply.text[:60]!r}")
            await x.sound()

        return run

    add(
        Case(
            f"answers/chunk-{_id}",
            f"chunked answer {_bytes[:24]!r}",
            "RFC 9112 section 7.1",
            _severity,
            "answer",
            _chunk_case(_bytes, _id in {"extension-endless", "trailer-nul", "trailer-rubbish"}),
        )
    )


@case(
    "answers/endless-chunk-line",
    "a chunk size line without end",
    "CVE-2023-39326 class",
    CRITICAL,
    attacks="answer",
    alone=True,
)
async def endless_chunk_line(x: Bench) -> None:
    before = x.memory_bytes()

    async def behaviour(link: Link, request: Request) -> None:
        if request.value("x-tag") != x.tag:
            link.send(own_answer(request))
            return
        link.send(_CHUNKED + b"3\r\nabc\r\n3;")
        for _ in range(300):
            if link.lost:
                return
            await link.send_all(b"a" * 100_000, 1.0)
        link.close()

    x.behave(behaviour)
    await x.visible(x.raw())
    x.expect(x.memory_bytes() - before < 10_000_000, f"{(x.memory_bytes() - before) / 1e6:.1f} MB more memory")
    await x.sound()


def _stray(first: bytes, delay: float, method: bytes = b"GET") -> Run:
    """Bytes behind an answer, at once or later, become nobody's answer."""

    async def run(x: Bench) -> None:
        async def behaviour(link: Link, request: Request) -> None:
            await link.body(request)
            if request.value("x-tag") == x.tag:
                if not delay:
                    link.send(first + _POISON)
                    return
                link.send(first)
                await asyncio.sleep(delay)
                link.send(_POISON)
            else:
                link.send(own_answer(request))

        x.behave(behaviour)
        caller = await x.caller()
        caller.send(x.raw(method))
        try:
            reply = await caller.reply(method, 4.0)
        except Ended:
            reply = None
        x.expect(reply is None or b"poison" not in reply.text, "the stray bytes were passed on")
        x.expect(b"poison" not in caller.record, "the stray bytes reached the caller")
        await asyncio.sleep(delay * 2)
        await x.sound(caller, times=3)
        await x.sound(times=3)

    return run


for _id, _title, _first, _method in (
    ("length", "an answer with a length", answer(b"abc"), b"GET"),
    ("chunked", "a chunked answer", _CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", b"GET"),
    ("204", "a 204", b"HTTP/1.1 204 No Content\r\n\r\n", b"GET"),
    ("304", "a 304 that announces a length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"GET"),
    ("204-length", "a 204 that announces a length", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"GET"),
    ("head", "the answer to a HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HEAD"),
    ("empty", "an empty answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"GET"),
):
    for _when, _delay in (("at-once", 0.0), ("later", 0.05)):
        add(
            Case(
                f"answers/stray-{_id}-{_when}",
                f"stray bytes {_when.replace('-', ' ')} behind {_title}",
                "RFC 9112 section 9.2; response queue poisoning; nginx proxy_extra_data.t",
                CRITICAL,
                "answer",
                _stray(_first, _delay, _method),
            )
        )


@case(
    "answers/before-request",
    "an answer before there is a request is nobody's",
    "RFC 9112 section 9.2; Go 'Unsolicited response'",
    CRITICAL,
    attacks="answer",
)
async def before_request(x: Bench) -> None:
    await x.sound()
    for link in x.upstream.links:
        link.send(_POISON)
    await asyncio.sleep(0.05)
    await x.sound(times=4)


@case(
    "answers/before-request-fresh",
    "an answer on a fresh connection, before the request",
    "RFC 9112 section 9.2",
    MINOR,
    attacks="answer",
)
async def before_request_fresh(x: Bench) -> None:
    x.upstream.greeting = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi!"
    caller = await x.caller()
    caller.send(x.raw())
    await caller.until(lambda: b"\r\n\r\n" in caller.buffer or caller.eof, 3)
    x.upstream.greeting = b""
    await asyncio.sleep(0.05)
    await x.sound(times=3)


def _bodiless(head: bytes, method: bytes, status: int) -> Run:
    async def run(x: Bench) -> None:
        x.answers(head)
        caller = await x.caller()
        caller.send(x.raw(method))
        reply = await x.reply(caller, method)
        if not x.ours and b"chunked" in head and reply.status in {502, 503}:
            return  # RFC 9112 section 6.1: the upstream must not have said so
        x.expect(reply.status == status, f"{reply.start!r}")
        if status == 204:
            x.expect(not reply.chunked and reply.length in {None, 0}, "204 with framing")
        await asyncio.sleep(0.02)
        x.expect(not caller.buffer, f"a body came: {bytes(caller.buffer[:60])!r}")
        await x.sound(caller)

    return run


for _id, _head, _method, _status in (
    ("204", b"HTTP/1.1 204 No Content\r\n\r\n", b"GET", 204),
    ("204-length", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"GET", 204),
    ("304", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n', b"GET", 304),
    ("304-length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", b"GET", 304),
    ("head-length", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", b"HEAD", 200),
    ("head-chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HEAD", 200),
    ("204-chunked", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", b"GET", 204),
    ("304-chunked", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"GET", 304),
    ("head-404", b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n", b"HEAD", 404),
):
    add(
        Case(
            f"answers/bodiless-{_id}",
            f"{_head.split(chr(13).encode())[0].decode()} to {_method.decode()} has no body",
            "RFC 9112 section 6.3 rule 1",
            CRITICAL,
            "answer",
            _bodiless(_head, _method, _status),
        )
    )


@case(
    "answers/head-length-kept",
    "the length that a HEAD announces is passed on",
    "RFC 9110 section 9.3.2",
    MINOR,
    attacks="answer",
)
async def head_length(x: Bench) -> None:
    x.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    reply = await x.ask(x.raw(b"HEAD"), b"HEAD")
    x.expect(reply.length == 500, f"Content-Length {reply.values('content-length')!r}")


@case("answers/drip", "an answer that comes byte by byte is read", "RFC 9112 section 2.1", MAJOR, attacks="answer")
async def drip(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await link.drip(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\nT: u\r\n\r\n",
            0.002,
        )

    x.behave(behaviour)
    reply = await x.ask(x.raw())
    x.expect(
        reply.text == b"abcde" and reply.complete and reply.value("x-a") == b"b", f"{reply.start!r} {reply.text!r}"
    )


@case("answers/no-reason", "a status line without a reason phrase", "RFC 9112 section 4", MAJOR, attacks="answer")
async def no_reason(x: Bench) -> None:
    x.answers(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok")
    reply = await x.ask(x.raw())
    x.expect(reply.status == 200 and reply.text == b"ok", f"{reply.start!r}")


@case("answers/reason-kept", "status and reason phrase pass through", "RFC 9112 section 4", MINOR, attacks="answer")
async def reason_kept(x: Bench) -> None:
    x.answers(answer(b"ok", status=b"418 Very Much A Teapot"))
    reply = await x.ask(x.raw())
    x.expect(reply.start == b"HTTP/1.1 418 Very Much A Teapot", f"{reply.start!r}")


@case("answers/unknown-status", "a status nobody registered passes", "RFC 9110 section 15", MAJOR, attacks="answer")
async def unknown_status(x: Bench) -> None:
    x.answers(answer(b"ok", status=b"599 Mine"))
    reply = await x.ask(x.raw())
    x.expect(reply.status == 599 and reply.text == b"ok", f"{reply.start!r}")


@case(
    "answers/error-passes",
    "an upstream's own error passes untouched, without Proxy-Status",
    "Huawei errors; RFC 9209 section 2",
    MAJOR,
    attacks="answer",
)
async def error_passes(x: Bench) -> None:
    body = b'{"error_msg":"Incorrect app authentication information","error_code":"APIG.0303","request_id":"r"}'
    x.answers(answer(body, b"Content-Type: application/json", b"X-Request-Id: theirs", status=b"401 Unauthorized"))
    reply = await x.ask(x.raw())
    x.expect(reply.status == 401 and reply.text == body, f"{reply.start!r}")
    x.expect(reply.values("x-request-id") == [b"theirs"], f"X-Request-Id {reply.values('x-request-id')!r}")
    x.expect(not reply.values("proxy-status"), "Proxy-Status on what the upstream said")


@case(
    "answers/proxy-status-not-forged",
    "an upstream cannot write our Proxy-Status",
    "RFC 9209 section 2",
    MINOR,
    attacks="answer",
    variants=("plain", "limit"),
)
async def proxy_status(x: Bench) -> None:
    x.answers(
        answer(b"ok", b"Proxy-Status: modelarts-gateway; error=proxy_internal_error", b"X-Gateway-Request-Id: forged")
    )
    reply = await x.ask(x.raw())
    if x.ours:
        x.expect(
            not reply.values("proxy-status") and reply.values("x-gateway-request-id") != [b"forged"],
            f"{reply.fields!r}",
        )


@case(
    "answers/redirect-passes",
    "a redirect is passed on, not followed",
    "RFC 9110 section 15.4; credential leak to another host",
    CRITICAL,
    attacks="answer",
)
async def redirect(x: Bench) -> None:
    x.answers(answer(b"", b"Location: http://127.0.0.1:%d/elsewhere" % x.upstream.port, status=b"302 Found"))
    reply = await x.ask(x.raw())
    x.expect(
        reply.status == 302 and len(x.upstream.requests) == 1, f"{reply.start!r}, {len(x.upstream.requests)} requests"
    )


@case("answers/gzip-untouched", "an encoded answer passes as it is", "RFC 9110 section 8.4", MAJOR, attacks="answer")
async def gzip_untouched(x: Bench) -> None:
    import gzip

    body = gzip.compress(b"y" * 5000)
    x.answers(answer(body, b"Content-Encoding: gzip"))
    reply = await x.ask(x.raw())
    x.expect(
        reply.text == body and reply.value("content-encoding") == b"gzip" and reply.length == len(body),
        "it was changed",
    )


@case(
    "answers/trailers-of-answer",
    "trailers of an answer are dropped or kept, never headers",
    "RFC 9110 section 6.5",
    MINOR,
    attacks="answer",
)
async def answer_trailers(x: Bench) -> None:
    x.answers(_CHUNKED + b"3\r\nabc\r\n0\r\nSet-Cookie: evil=1\r\n\r\n")
    caller = await x.caller()
    caller.send(x.raw())
    reply = await x.reply(caller)
    x.expect(reply.text == b"abc" and not reply.values("set-cookie"), f"{reply.fields!r}")
    await x.sound(caller)


@case(
    "answers/keep-alive-refused",
    "an upstream's Connection: close is heeded",
    "RFC 9112 section 9.6",
    MAJOR,
    attacks="answer",
)
async def close_heeded(x: Bench) -> None:
    x.answers(answer(b"ok", b"Connection: close"))
    caller = await x.caller()
    caller.send(x.raw())
    await x.reply(caller)
    await x.sound(caller)
    x.expect(len(x.upstream.links[0].requests) == 1, "another request was sent on a connection that said close")


@case(
    "answers/http10-not-kept",
    "an HTTP/1.0 upstream connection is not reused",
    "RFC 9112 section 9.3",
    MAJOR,
    attacks="answer",
)
async def http10_not_kept(x: Bench) -> None:
    x.answers(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
    caller = await x.caller()
    caller.send(x.raw())
    reply = await x.reply(caller)
    x.expect(reply.text == b"ok", f"{reply.start!r}")
    await x.sound(caller)
    x.expect(len(x.upstream.links[0].requests) == 1, "reused without keep-alive")


def _cut_for_http10(head: bytes, end: str) -> Run:
    async def run(x: Bench) -> None:
        x.answers(head, end=end)
        caller = await x.caller()
        caller.send(x.raw(version=b"HTTP/1.0"))
        try:
            reply = await caller.reply(seconds=4)
        except Ended:
            return
        x.expect(reply.status == 502 or not reply.complete, f"it looks whole: {reply.start!r} {reply.text[:60]!r}")

    return run


for _id, _head in (
    ("chunked", _CHUNKED + b"5\r\nhello\r\n"),
    ("mid-chunk", _CHUNKED + b"9\r\nhello"),
    ("length", _LENGTH + b"hello"),
    ("large", _CHUNKED + b"40000\r\n" + b"a" * 0x40000 + b"\r\n"),
):
    for _end_id in ("close", "reset"):
        add(
            Case(
                f"answers/cut-for-http10-{_id}-{_end_id}",
                f"a {_id} answer, broken off ({_end_id}), does not look whole to an HTTP/1.0 caller",
                "RFC 9112 section 8: without framing only a reset shows it",
                MAJOR,
                "answer",
                _cut_for_http10(_head, _end_id),
            )
        )


@case(
    "answers/named-framing",
    "an answer cannot name its framing or cookies away in Connection",
    "RFC 9110 section 7.6.1",
    CRITICAL,
    attacks="answer",
)
async def named_framing(x: Bench) -> None:
    x.answers(answer(b"ok", b"Connection: Content-Length, Transfer-Encoding, Date", b"Set-Cookie: a=b"))
    caller = await x.caller()
    caller.send(x.raw())
    reply = await x.reply(caller)
    x.expect(reply.status == 200 and reply.text == b"ok" and reply.complete, f"{reply.start!r} {reply.text!r}")
    await x.sound(caller)


@case(
    "answers/interim-framing",
    "an interim answer that announces a body has none",
    "RFC 9110 section 15.2",
    CRITICAL,
    attacks="answer",
)
async def interim_framing(x: Bench) -> None:
    for line in (b"Content-Length: 40", b"Transfer-Encoding: chunked"):
        x.answers(b"HTTP/1.1 103 Early Hints\r\n" + line + b"\r\n\r\n" + answer(b"ok"))
        caller = await x.caller()
        caller.send(x.raw())
        reply = await x.reply(caller)
        x.expect((reply.status == 200 and reply.text == b"ok") or reply.status in {502, 503}, f"{reply.start!r}")
        for interim in reply.interims:
            x.expect(
                not interim.values("content-length") and not interim.values("transfer-encoding"), f"{interim.fields!r}"
            )
        await x.sound(caller)


@case(
    "answers/half-closed-then-next",
    "an upstream that half-closes a kept connection gets no further request on it",
    "RFC 9112 section 9.6",
    CRITICAL,
    attacks="answer",
)
async def half_closed_kept(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await link.body(request)
        link.send(own_answer(request))
        if request.value("x-tag") == x.tag:
            link.half_close()

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(x.raw())
    await x.reply(caller)
    await asyncio.sleep(0.05)
    for _ in range(3):
        tag = x.new_tag()
        reply = await x.ask(x.raw(b"POST", b"/x", b"Content-Length: 3", body=b"abc", tag=tag))
        x.expect(reply.text == b"tag=" + tag, f"{reply.start!r}")
    x.expect(len(x.upstream.links[0].requests) == 1, "a request went to a side that has finished")


@case(
    "answers/idempotent-stalled-error",
    "a route that may try again does not wait for ever for an error's body",
    "our contract",
    MAJOR,
    attacks="answer",
    variants=("idempotent",),
)
async def stalled_error(x: Bench) -> None:
    async def behaviour(link: Link, request: Request) -> None:
        await link.body(request)
        link.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1000\r\n\r\n{")
        await link.until(lambda: link.eof, 10)

    x.behave(behaviour)
    caller = await x.caller()
    caller.send(x.raw())
    x.expect(await caller.until(lambda: b" 503 " in caller.buffer, 6), "no answer within 6 s")
    x.expect(len(x.upstream.requests) <= 2, f"{len(x.upstream.requests)} requests")
