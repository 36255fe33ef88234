"""Chunked request bodies, lengths that are not kept, data behind a message."""

import asyncio

from tests.conformance.bench import Bench
from tests.conformance.case import Case, Run, Severity, add, case
from tests.conformance.messages import Ended

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR
_BAD = (400, "Gateway.BadRequest")
_TE = b"Transfer-Encoding: chunked"
_SMUGGLE = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
_CHUNK = "RFC 9112 section 7.1"


def _broken(body: bytes, cleaned: set[bytes]) -> Run:
    """400 and closed, and the upstream sees no complete message; others may forward one of ``cleaned``."""

    async def run(x: Bench) -> None:
        raw = x.raw(b"POST", b"/x", _TE, body=body)
        caller = await x.caller()
        caller.send(raw)
        reply = None
        try:
            reply = await caller.reply(seconds=3.0)
        except Ended as error:
            x.expect(not x.ours, f"closed without an answer: {error}")
        except TimeoutError:
            x.fail("neither refused nor closed within 3 s")
        complete = [request for request in x.upstream.requests if request.complete]
        if reply is not None and reply.status == 200 and cleaned and not x.ours:
            x.expect(
                len(complete) == 1 and bytes(complete[0].body) in cleaned,
                f"forwarded as {[bytes(r.body) for r in complete]!r}",
            )
        else:
            if reply is not None:
                x.expect(reply.status in {400, 413, 431, 501, 502}, f"status {reply.status}")
                if x.ours:
                    x.expect_error(reply, *_BAD, "http_request_error")
            await x.over(caller)
            await asyncio.sleep(0.05)
            complete = [request for request in x.upstream.requests if request.complete]
            x.expect(not complete, f"completed for the upstream as {[bytes(r.body) for r in complete]!r}")
        await x.sound(times=1)

    return run


def _table(
    id: str, title: str, severity: Severity, body: bytes, source: str = _CHUNK, cleaned: set[bytes] | None = None
) -> None:
    add(Case(f"bodies/{id}", title, source, severity, "request", _broken(body, cleaned or set())))


_END = b"0\r\n\r\n"
_A = {b"abc"}
for _id, _size in (
    ("letters", b"xyz"),
    ("empty", b""),
    ("minus", b"-3"),
    ("plus", b"+3"),
    ("0x", b"0x3"),
    ("underscore", b"0_3"),
    ("dot", b"3.0"),
    ("leading-space", b" 3"),
    ("tab", b"\t3"),
    ("inner-space", b"0 3"),
    ("nul", b"3\x00"),
    ("quoted", b'"3"'),
    ("high", b"\xb3"),
):
    _table(
        f"size-{_id}",
        f"chunk size {_size!r}",
        CRITICAL if _id in {"0x", "underscore", "minus", "plus"} else MAJOR,
        _size + b"\r\nabc\r\n" + _END,
        cleaned=_A if _id in {"leading-space", "tab"} else None,
    )
_table(
    "size-trailing-space",
    "white space behind a chunk size",
    MINOR,
    b"3 \r\nabc\r\n" + _END,
    cleaned=_A,
    source=f"{_CHUNK}; old senders pad, others may read it",
)
_table(
    "size-overflow-64",
    "a size of 2**64 + 3",
    CRITICAL,
    b"10000000000000003\r\nabc\r\n" + _END,
    source=f"{_CHUNK}; CVE-2013-2028 class",
)
_table(
    "size-overflow-huge",
    "a size of forty digits",
    CRITICAL,
    b"f" * 40 + b"\r\nabc\r\n" + _END,
    source=f"{_CHUNK}; CVE-2013-2028 class",
)
_table(
    "size-long-zeros", "a size with a thousand leading zeros", MINOR, b"0" * 1000 + b"3\r\nabc\r\n" + _END, cleaned=_A
)
_table(
    "size-lf",
    "a size line that ends in a bare LF",
    CRITICAL,
    b"3\nabc\r\n" + _END,
    cleaned=_A,
    source=f"{_CHUNK}; nginx 1.29.4",
)
_table("size-cr", "a size line that ends in a bare CR", CRITICAL, b"3\rabc\r\n" + _END)
_table(
    "data-lf",
    "chunk data that ends in a bare LF",
    CRITICAL,
    b"3\r\nabc\n" + _END,
    cleaned=_A,
    source=f"{_CHUNK}; nginx 1.29.4",
)
_table("data-none", "chunk data without a line end", CRITICAL, b"3\r\nabc" + _END)
_table(
    "data-long",
    "chunk data longer than its size",
    CRITICAL,
    b"3\r\nabcdef\r\n" + _END,
    source=f"{_CHUNK}; Envoy completes it",
)
_table(
    "data-long-by-two",
    "two bytes in the place of the line end",
    CRITICAL,
    b"3\r\nabcXY" + _END,
    source=f"{_CHUNK}; CVE class of skipped CRLF",
)
_table("data-short", "a size beyond the data", MAJOR, b"6\r\nabc\r\n" + _END + b"xyz\r\n\r\n", source=_CHUNK)
_table(
    "extension-lf",
    "a bare LF in a chunk extension",
    CRITICAL,
    b"3;a\nabc\r\n" + _END,
    source=f"{_CHUNK}.1; CVE-2024-52304",
)
_table(
    "extension-cr",
    "a bare CR in a chunk extension",
    CRITICAL,
    b"3;a\rb\r\nabc\r\n" + _END,
    source=f"{_CHUNK}.1; CVE-2024-52304 class",
)
_table(
    "extension-nul", "a NUL in a chunk extension", MAJOR, b"3;a\0b\r\nabc\r\n" + _END, source=f"{_CHUNK}.1", cleaned=_A
)
_table(
    "extension-endless",
    "a chunk extension of 100 KB",
    MAJOR,
    b"3;" + b"a" * 100_000 + b"\r\nabc\r\n" + _END,
    source=f"{_CHUNK}.1; CVE-2023-39326 class",
    cleaned=_A,
)
_table("last-lf", "the last chunk ends in bare LFs", MAJOR, b"3\r\nabc\r\n0\n\n", cleaned=_A)
_table(
    "last-no-crlf",
    "a bare CR in the place of the empty line",
    MAJOR,
    b"3\r\nabc\r\n0\r\n\rX\r\n\r\n",
    source="RFC 9112 section 7.1.2",
)
_table(
    "trailer-cl",
    "Content-Length as a trailer",
    MAJOR,
    b"3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n",
    source="RFC 9110 section 6.5.1",
    cleaned=_A,
)
_table(
    "trailer-te",
    "Transfer-Encoding as a trailer",
    MAJOR,
    b"3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    source="RFC 9110 section 6.5.1",
    cleaned=_A,
)
_table(
    "trailer-nul",
    "a NUL in a trailer",
    MAJOR,
    b"3\r\nabc\r\n0\r\nT: a\0b\r\n\r\n",
    source="RFC 9110 section 5.5",
    cleaned=_A,
)
_table(
    "trailer-no-name",
    "a trailer without a colon",
    MAJOR,
    b"3\r\nabc\r\n0\r\nrubbish\r\n\r\n",
    source="RFC 9112 section 7.1.2",
    cleaned=_A,
)
_table(
    "trailer-lf",
    "a trailer that ends in a bare LF",
    MAJOR,
    b"3\r\nabc\r\n0\r\nT: a\nU: b\r\n\r\n",
    source="RFC 9112 section 2.2",
    cleaned=_A,
)
_table(
    "trailer-endless",
    "100 KB of trailers",
    MAJOR,
    b"3\r\nabc\r\n0\r\n" + b"T: aaaaaaaa\r\n" * 10_000 + b"\r\n",
    source="RFC 9112 section 7.1.2",
    cleaned=_A,
)


@case(
    "bodies/trailers-dropped",
    "credentials in trailers do not travel",
    "RFC 9110 section 6.5.1; HAProxy forwards them",
    CRITICAL,
)
async def trailers(x: Bench) -> None:
    names = (b"X-Auth-Token", b"Authorization", b"X-Apig-AppCode", b"apikey")
    body = b"3\r\nabc\r\n0\r\n" + b"".join(name + b": evil-value\r\n" for name in names) + b"\r\n"
    reply = await x.ask(x.raw(b"POST", b"/x", _TE, b"Trailer: X-Auth-Token", body=body))
    if x.ours:
        x.expect(reply.status == 200, f"status {reply.status}")
    await asyncio.sleep(0.02)
    wire = b"".join(bytes(link.record) for link in x.upstream.links)
    x.expect(b"evil-value" not in wire, "the trailers reached the upstream")


def _accepted(body: bytes, wanted: bytes) -> Run:
    async def run(x: Bench) -> None:
        caller = await x.caller()
        caller.send(x.raw(b"POST", b"/x", _TE, body=body))
        reply = await x.reply(caller)
        x.expect(reply.status == 200, f"status {reply.status}: {reply.text[:100]!r}")
        x.expect(bytes(x.upstream.requests[0].body) == wanted, f"body {bytes(x.upstream.requests[0].body)!r}")
        await x.sound(caller)

    return run


for _id, _title, _body, _wanted in (
    ("plain", "a chunked body", b"3\r\nabc\r\n" + _END, b"abc"),
    ("empty", "an empty chunked body", _END, b""),
    (
        "upper",
        "chunk sizes in upper and lower case",
        b"A\r\n0123456789\r\nb\r\n01234567890\r\n" + _END,
        b"012345678901234567890",
    ),
    ("zeros", "leading zeros", b"0003\r\nabc\r\n00\r\n\r\n", b"abc"),
    ("extension", "chunk extensions", b'3;a=b;c="d;e"\r\nabc\r\n0;x\r\n\r\n', b"abc"),
    ("trailer", "a trailer", b"3\r\nabc\r\n0\r\nX-T: a\r\nX-U: b\r\n\r\n", b"abc"),
    ("crlf-inside", "line ends inside the data", b"6\r\na\r\n0\r\n\r\n" + _END, b"a\r\n0\r\n"),
    ("binary", "every byte", b"100\r\n" + bytes(range(256)) + b"\r\n" + _END, bytes(range(256))),
    ("one-byte-chunks", "a thousand chunks of one byte", b"1\r\na\r\n" * 1000 + _END, b"a" * 1000),
):
    add(Case(f"bodies/accepts-{_id}", _title, _CHUNK, MAJOR, "request", _accepted(_body, _wanted)))


@case(
    "bodies/size-overflow-32",
    "a chunk of 2**32 + 3 bytes is not read as one of 3",
    f"{_CHUNK}; CVE class of integer truncation",
    CRITICAL,
)
async def overflow_32(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", _TE, body=b"100000003\r\nabc\r\n" + _END + _SMUGGLE))
    await caller.until(lambda: caller.buffer or caller.eof, 0.5)
    x.expect(b" 200 " not in caller.buffer[:20], "answered as if it were whole")
    x.expect(not any(request.complete for request in x.upstream.requests), "completed for the upstream")


@case("bodies/drip-chunks", "a chunked body that comes byte by byte", _CHUNK, MAJOR)
async def drip(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", _TE))
    await caller.drip(b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: x\r\n\r\n", 0.002)
    reply = await x.reply(caller)
    x.expect(reply.status == 200 and x.upstream.requests[0].body == b"abc0123456789", f"{reply.start!r}")


@case(
    "bodies/overrun-is-next",
    "bytes behind a Content-Length body are the next request, or nothing",
    "RFC 9112 section 6.3",
    CRITICAL,
)
async def overrun(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"Content-Length: 3", body=b"abcdef"))
    first = await x.reply(caller)
    if first.status == 200:
        x.expect(x.upstream.requests[0].body == b"abc", "the body took more than its length")
        caller.send(b"\r\n\r\n")
        reply = await x.reply(caller)
        x.expect(reply.status in {400, 405, 501}, f"'def' was read as a request: {reply.status}")
    x.expect(len(x.upstream.requests) == 1, "more than one request reached the upstream")


@case(
    "bodies/data-after-close",
    "bytes behind a request with Connection: close are no request",
    "RFC 9112 section 9.6",
    CRITICAL,
)
async def after_close(x: Bench) -> None:
    caller = await x.caller()
    second = x.raw(b"GET", b"/never", tag=b"never")
    caller.send(x.raw(b"GET", b"/x", b"Connection: close") + second)
    reply = await x.reply(caller)
    x.expect(reply.status in {200, 400}, f"status {reply.status}")
    x.expect(await caller.closed(), "more came behind an answer that closes")
    await asyncio.sleep(0.05)
    x.expect(
        all(request.value("x-tag") != b"never" for request in x.upstream.requests), "the second request was served"
    )


@case("bodies/chunked-then-pipelined", "the request behind a chunked one is found", "RFC 9112 section 9.3.2", MAJOR)
async def chunked_pipelined(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", _TE, body=b"3\r\nabc\r\n" + _END) + x.raw(b"GET", b"/y", tag=b"two"))
    first, second = await caller.replies(2)
    x.expect(first.text == b"tag=" + x.tag and second.text == b"tag=two", f"{first.text!r} {second.text!r}")


@case("bodies/gzip-untouched", "an encoded body passes as it is", "RFC 9110 section 8.4; aiohttp decodes it", MAJOR)
async def gzip_untouched(x: Bench) -> None:
    import gzip

    body = gzip.compress(b"x" * 1000)
    reply = await x.ask(x.raw(b"POST", b"/x", b"Content-Encoding: gzip", b"Content-Length: %d" % len(body), body=body))
    request = await x.request()
    x.expect(
        reply.status == 200 and request.body == body and request.value("content-encoding") == b"gzip", "it was changed"
    )


@case(
    "bodies/one-byte-chunk-flood",
    "200,000 chunks of one byte cost bounded memory and little time",
    "CVE-2025-69225 class",
    MAJOR,
    alone=True,
)
async def chunk_flood(x: Bench) -> None:
    before = x.memory_bytes()
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", _TE))
    for _ in range(100):
        await caller.send_all(b"1\r\na\r\n" * 2_000)
    caller.send(_END)
    reply = await x.reply(caller, seconds=15)
    x.expect(reply.status == 200 and x.upstream.requests[0].body_bytes == 200_000, f"{reply.start!r}")
    x.expect(x.memory_bytes() - before < 10_000_000, f"{(x.memory_bytes() - before) / 1e6:.1f} MB more memory")
