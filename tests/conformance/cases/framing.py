"""Requests whose length has two readings: the raw material of request smuggling."""

from collections.abc import Collection

from tests.conformance.bench import Bench
from tests.conformance.case import Case, Run, Severity, add, case
from tests.conformance.messages import Ended

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR
_BAD = (400, "Gateway.BadRequest")
_SMUGGLE = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
_REFUSALS = {400, 403, 404, 405, 411, 413, 414, 417, 421, 422, 431, 501, 505}


def _ambiguous(
    lines: tuple[bytes, ...], body: bytes, ours: tuple[int, str], bodies: Collection[bytes], version: bytes
) -> Run:
    """Refused and closed; or, by others, forwarded as one request whose body is one of ``bodies``."""

    async def run(x: Bench) -> None:
        raw = x.raw(b"POST", b"/x", *lines, body=body, version=version)
        if x.ours:
            await x.refused(raw, {ours[0]}, ours, upstream_may_see_cut=False)
            await x.sound()
            return
        caller = await x.caller()
        caller.send(raw)
        try:
            first = await caller.reply(seconds=2.0)
        except (Ended, TimeoutError):
            first = None
        if first is not None and first.status not in _REFUSALS:
            x.expect(first.status == 200, f"status {first.status}")
            complete = [request for request in x.upstream.requests if request.complete]
            x.expect(len(complete) == 1, f"{len(complete)} requests reached the upstream")
            x.expect(bytes(complete[0].body) in bodies, f"forwarded with body {bytes(complete[0].body)!r}")
        else:
            await x.over(caller)
            await x.nothing_upstream(cut=True)
        await x.sound()

    return run


def _table(
    id: str,
    title: str,
    source: str,
    severity: Severity,
    *lines: bytes,
    body: bytes = b"",
    ours: tuple[int, str] = _BAD,
    bodies: Collection[bytes] = (),
    version: bytes = b"HTTP/1.1",
) -> None:
    add(Case(f"framing/{id}", title, source, severity, "request", _ambiguous(lines, body, ours, bodies, version)))


_CHUNKED = b"Transfer-Encoding: chunked"
_TE = "RFC 9112 section 6.1"
_CL = "RFC 9112 section 6.3 rule 5"
_501 = (501, "Gateway.BadRequest")

# Both framings at once. RFC 9112 section 6.3 rule 3 lets a server read it as chunked if it then closes; nothing of the
# bytes behind may become a request.
_table(
    "cl-te",
    "Content-Length before Transfer-Encoding",
    "RFC 9112 section 6.1; CVE class CL.TE",
    CRITICAL,
    b"Content-Length: %d" % (5 + len(_SMUGGLE)),
    _CHUNKED,
    body=b"0\r\n\r\n" + _SMUGGLE,
    bodies={b""},
)
_table(
    "te-cl",
    "Transfer-Encoding before Content-Length",
    "RFC 9112 section 6.1; CVE class TE.CL",
    CRITICAL,
    _CHUNKED,
    b"Content-Length: 5",
    body=b"0\r\n\r\n" + _SMUGGLE,
    bodies={b""},
)
_table(
    "te-cl-equal",
    "both framings that agree on the end",
    "RFC 9112 section 6.1",
    MAJOR,
    _CHUNKED,
    b"Content-Length: 5",
    body=b"0\r\n\r\n",
    bodies={b""},
)
_table(
    "te-cl-invalid",
    "Transfer-Encoding beside an invalid Content-Length",
    "RFC 9112 section 6.3; Go TestServerValidatesHeaders",
    CRITICAL,
    _CHUNKED,
    b"Content-Length: x",
    body=b"0\r\n\r\n" + _SMUGGLE,
    bodies={b""},
)
_table(
    "cl-twice-different",
    "two Content-Lengths that differ",
    _CL,
    CRITICAL,
    b"Content-Length: 0",
    b"Content-Length: %d" % len(_SMUGGLE),
    body=_SMUGGLE,
)
_table(
    "cl-twice-equal",
    "two equal Content-Lengths",
    _CL,
    MAJOR,
    b"Content-Length: 3",
    b"Content-Length: 3",
    body=b"abc",
    bodies={b"abc"},
)
_table(
    "cl-list-equal",
    "a list of equal Content-Lengths",
    _CL,
    MAJOR,
    b"Content-Length: 3, 3",
    body=b"abc",
    bodies={b"abc"},
)
_table(
    "cl-list-different", "a list of different Content-Lengths", _CL, CRITICAL, b"Content-Length: 0, 37", body=_SMUGGLE
)
for _id, _value in (
    ("plus", b"+3"),
    ("minus", b"-3"),
    ("hex", b"0x3"),
    ("empty", b""),
    ("fraction", b"3.0"),
    ("exponent", b"3e0"),
    ("letters", b"abc"),
    ("inner-space", b"1 3"),
    ("trailing-junk", b"3 x"),
    ("quoted", b'"3"'),
    ("underscore", b"1_0"),
    ("overflow-64", b"18446744073709551619"),
    ("overflow-wide", b"9" * 40),
    ("unicode-digit", "\u0663".encode()),
    ("semicolon", b"3;x"),
    ("comma", b"3,"),
    ("leading-comma", b",3"),
):
    _table(
        f"cl-{_id}",
        f"Content-Length {_value[:20]!r}",
        "RFC 9110 section 8.6",
        CRITICAL if "overflow" in _id else MAJOR,
        b"Content-Length: " + _value,
        body=b"abc",
        bodies={b"abc"} if _id in {"comma", "leading-comma"} else (),
    )
_table(
    "cl-tab-value",
    "Content-Length with a vertical tab before the number",
    "RFC 9110 section 5.5",
    MAJOR,
    b"Content-Length: \x0b3",
    body=b"abc",
)

for _id, _value, _ours in (
    ("identity", b"identity", _BAD),
    ("gzip", b"gzip", _BAD),
    ("unknown", b"xchunked", _BAD),
    ("prefix", b"chunkedx", _BAD),
    ("gzip-chunked", b"gzip, chunked", _501),
    ("chunked-gzip", b"chunked, gzip", _BAD),
    ("chunked-twice", b"chunked, chunked", _BAD),
    ("identity-chunked", b"identity, chunked", _501),
    ("empty", b"", _BAD),
    ("quoted", b'"chunked"', _BAD),
    ("parameter", b"chunked;q=1", _BAD),
    ("comma", b"chunked,", _BAD),
    ("leading-comma", b",chunked", _501),
    ("tab-inside", b"chun\tked", _BAD),
    ("vertical-tab", b"\x0bchunked", _BAD),
    ("trailing-0c", b"chunked\x0c", _BAD),
    ("nul", b"chunked\x00", _BAD),
    ("nbsp", b"\xa0chunked", _BAD),
    ("high-k", "chun\u212aed".encode(), _BAD),
):
    _ok = {b"abc"} if _id in {"gzip-chunked", "identity-chunked", "comma", "leading-comma", "parameter"} else set()
    _table(
        f"te-{_id}",
        f"Transfer-Encoding {_value!r}",
        f"{_TE}; CVE class TE.TE",
        CRITICAL if _id not in {"gzip-chunked", "comma", "leading-comma"} else MAJOR,
        b"Transfer-Encoding: " + _value,
        body=b"3\r\nabc\r\n0\r\n\r\n",
        ours=_ours,
        bodies=_ok,
    )
_table(
    "te-beside-cl-identity",
    "Transfer-Encoding: identity beside Content-Length",
    f"{_TE}; CVE-2021-22960 class",
    CRITICAL,
    b"Transfer-Encoding: identity",
    b"Content-Length: 3",
    body=b"abc",
    bodies={b"abc"},
)
_table("te-twice", "two Transfer-Encoding lines", _TE, CRITICAL, _CHUNKED, _CHUNKED, body=b"0\r\n\r\n" + _SMUGGLE)
_table(
    "te-two-lines-identity",
    "chunked, then identity, on two lines",
    f"{_TE}; CVE class TE.TE",
    CRITICAL,
    _CHUNKED,
    b"Transfer-Encoding: identity",
    body=b"0\r\n\r\n" + _SMUGGLE,
)
_table(
    "te-two-lines-x",
    "x, then chunked, on two lines",
    f"{_TE}; CVE class TE.TE",
    CRITICAL,
    b"Transfer-Encoding: x",
    _CHUNKED,
    body=b"0\r\n\r\n" + _SMUGGLE,
    ours=_501,
)
_table(
    "te-http10",
    "Transfer-Encoding in HTTP/1.0",
    _TE,
    CRITICAL,
    _CHUNKED,
    b"Connection: keep-alive",
    body=b"0\r\n\r\n" + _SMUGGLE,
    version=b"HTTP/1.0",
    bodies={b""},
)
_table(
    "te-http10-cl",
    "both framings in HTTP/1.0",
    _TE,
    CRITICAL,
    _CHUNKED,
    b"Content-Length: 5",
    b"Connection: keep-alive",
    body=b"0\r\n\r\n" + _SMUGGLE,
    version=b"HTTP/1.0",
    bodies={b""},
)
_table(
    "space-before-colon-cl",
    "white space before the colon of Content-Length",
    "RFC 9112 section 5.1",
    CRITICAL,
    b"Content-Length : %d" % len(_SMUGGLE),
    body=_SMUGGLE,
)
_table(
    "space-before-colon-te",
    "white space before the colon of Transfer-Encoding",
    "RFC 9112 section 5.1; CVE-2019-16869 class",
    CRITICAL,
    b"Transfer-Encoding : chunked",
    body=b"0\r\n\r\n" + _SMUGGLE,
)
_table(
    "tab-before-colon-te",
    "a tab before the colon of Transfer-Encoding",
    "RFC 9112 section 5.1",
    CRITICAL,
    b"Transfer-Encoding\t: chunked",
    b"Content-Length: 3",
    body=b"abc",
)
_table(
    "folded-te",
    "Transfer-Encoding folded onto a second line",
    "RFC 9112 section 5.2",
    CRITICAL,
    b"Transfer-Encoding:\r\n chunked",
    body=b"0\r\n\r\n" + _SMUGGLE,
    bodies={b""},
)
_table(
    "folded-cl",
    "Content-Length folded onto a second line",
    "RFC 9112 section 5.2",
    CRITICAL,
    b"Content-Length:\r\n 3",
    body=b"abc",
    bodies={b"abc"},
)
_table(
    "hidden-by-cr",
    "Transfer-Encoding behind a bare CR",
    "RFC 9112 section 2.2",
    CRITICAL,
    b"X-A: b\rTransfer-Encoding: chunked",
    b"Content-Length: 3",
    body=b"abc",
    bodies={b"abc"},
)
_table(
    "hidden-by-lf",
    "Transfer-Encoding behind a bare LF",
    "RFC 9112 section 2.2",
    CRITICAL,
    b"X-A: b\nTransfer-Encoding: chunked",
    b"Content-Length: 3",
    body=b"abc",
)
_table(
    "leading-space-te",
    "a space before the name Transfer-Encoding",
    "RFC 9112 section 5.2",
    CRITICAL,
    b" Transfer-Encoding: chunked",
    b"Content-Length: 3",
    body=b"abc",
    bodies={b"abc"},
)


@case(
    "framing/look-alikes",
    "Transfer_Encoding and Content_Length are no framing and do not travel",
    "RFC 9112 section 6; CVE class of CGI-style names",
    CRITICAL,
)
async def look_alikes(x: Bench) -> None:
    reply = await x.ask(
        x.raw(b"POST", b"/x", b"Content-Length: 3", b"Transfer_Encoding: chunked", b"content_length: 0", body=b"abc")
    )
    if x.ours or reply.status == 200:
        x.expect(reply.status == 200, f"status {reply.status}")
        request = await x.request()
        left = {name.replace(b"_", b"-") for name in request.names() if b"_" in name}
        x.expect(not left & {b"transfer-encoding", b"content-length"}, f"{left!r} reached the upstream")
        x.expect(request.body == b"abc", f"body {bytes(request.body)!r}")


@case(
    "framing/look-alike-names-underscore",
    "fields that other servers fold into Host and Connection do not travel",
    "nginx underscores_in_headers",
    MAJOR,
)
async def look_alike_hop(x: Bench) -> None:
    reply = await x.ask(
        x.raw(b"GET", b"/x", b"Proxy_Connection: a", b"CONNECTION_: b", b"Keep_Alive: c", b"Http2_Settings: d")
    )
    if x.ours or reply.status == 200:
        names = (await x.request()).names()
        x.expect(not names & {b"proxy_connection", b"keep_alive", b"http2_settings"}, f"{names!r}")


@case(
    "framing/get-with-body",
    "a GET with a body is one request",
    "RFC 9110 section 9.3.1; CVE class of GET body desync",
    CRITICAL,
)
async def get_body(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"GET", b"/x", b"Content-Length: %d" % len(_SMUGGLE), body=_SMUGGLE))
    reply = await x.reply(caller)
    if reply.status == 200:
        x.expect((await x.request()).body == _SMUGGLE, "the body did not arrive as a body")
    await x.sound(caller)


for _method in (b"HEAD", b"DELETE", b"OPTIONS"):

    def _with_body(method: bytes) -> Run:
        async def run(x: Bench) -> None:
            caller = await x.caller()
            caller.send(x.raw(method, b"/x", b"Content-Length: %d" % len(_SMUGGLE), body=_SMUGGLE))
            reply = await x.reply(caller, method)
            if reply.status == 200:
                x.expect((await x.request()).body == _SMUGGLE, "the body did not arrive as a body")
            await x.sound(caller)

        return run

    add(
        Case(
            f"framing/{_method.decode().lower()}-with-body",
            f"{_method.decode()} with a body is one request",
            "RFC 9112 section 6",
            CRITICAL,
            "request",
            _with_body(_method),
        )
    )


@case(
    "framing/reframed-length", "a length that is known leaves as the one Content-Length", "RFC 9112 section 6.2", MAJOR
)
async def reframed_length(x: Bench) -> None:
    reply = await x.ask(x.raw(b"POST", b"/x", b"content-LENGTH:\t 0005 ", body=b"hello"))
    x.expect(reply.status in {200, 400}, f"status {reply.status}")
    if reply.status == 200:
        request = await x.request()
        x.expect(request.body == b"hello" and not request.chunked, f"{request.head_bytes!r}")


@case("framing/reframed-chunked", "an unknown length leaves chunked, framed anew", "RFC 9112 section 7.1", MAJOR)
async def reframed_chunked(x: Bench) -> None:
    body = b"00005;name=value\r\nhello\r\n6\r\n world\r\n000\r\nX-Trailer: dropped\r\n\r\n"
    reply = await x.ask(x.raw(b"POST", b"/x", b"TRANSFER-encoding:   CHUNKED  ", body=body))
    x.expect(reply.status == 200, f"status {reply.status}")
    request = await x.request()
    x.expect(request.body == b"hello world", f"body {bytes(request.body)!r}")
    wire = bytes(x.upstream.links[0].record)
    x.expect(b"name=value" not in wire, "the chunk extension travelled")


@case(
    "framing/no-body-no-framing",
    "a request without a body leaves without chunked framing",
    "RFC 9112 section 6.3",
    MINOR,
)
async def no_framing(x: Bench) -> None:
    await x.ask(x.raw(b"GET", b"/x"))
    request = await x.request()
    x.expect(not request.chunked and request.length in {None, 0}, f"{request.head_bytes!r}")


@case("framing/empty-post", "an empty POST announces Content-Length: 0", "RFC 9110 section 8.6", MINOR)
async def empty_post(x: Bench) -> None:
    await x.ask(x.raw(b"POST", b"/x", b"Content-Length: 0"))
    request = await x.request()
    x.expect(request.length == 0 or request.chunked, f"{request.head_bytes!r}")


@case("framing/post-without-length", "a POST without any framing has no body", "RFC 9112 section 6.3 rule 7", CRITICAL)
async def post_without_length(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x") + x.raw(b"GET", b"/second", tag=b"second"))
    first = await x.reply(caller)
    if first.status == 200:
        second = await x.reply(caller)
        x.expect(second.text == b"tag=second", f"the second request got {second.text!r}")
    else:
        x.expect(first.status in {400, 411}, f"status {first.status}")
