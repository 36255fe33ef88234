"""Request lines, Host, names and bytes of a head; sizes of heads."""

import asyncio

from tests.conformance.bench import Bench
from tests.conformance.case import Case, Run, Severity, add, case

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR
_BAD = (400, "Gateway.BadRequest")
_PATH = (400, "Gateway.BadPath")
_H = b"Host: gateway.test"


def _refused(raw: bytes, statuses: set[int], ours: tuple[int, str], lenient: bool, closes: bool) -> Run:
    """``PATH`` in the bytes becomes the route's path."""

    async def run(x: Bench) -> None:
        data = raw.replace(b"PATH", x.prefix() + b"/x")
        if lenient and not x.ours:
            await x.refused_or_cleaned(data, statuses)
        else:
            await x.refused(data, statuses, ours, closes=closes)
        await x.sound(times=1)

    return run


def _table(
    id: str,
    title: str,
    source: str,
    severity: Severity,
    raw: bytes,
    *statuses: int,
    ours: tuple[int, str] = _BAD,
    lenient: bool = False,
    closes: bool = True,
) -> None:
    """``lenient``: the RFC lets others read it, as long as what leaves is one clean request."""
    run = _refused(raw, {400, *statuses}, ours, lenient, closes)
    add(Case(f"heads/{id}", title, source, severity, "request", run))


def _line(line: bytes) -> bytes:
    return line + b"\r\n" + _H + b"\r\nX-Tag: t\r\n\r\n"


def _field(line: bytes) -> bytes:
    return b"GET PATH HTTP/1.1\r\n" + _H + b"\r\nX-Tag: t\r\n" + line + b"\r\n\r\n"


_LINE = "RFC 9112 section 3"
_505 = (505, "Gateway.BadRequest")
_table(
    "http09", "a request line without a version (HTTP/0.9)", "RFC 9112 appendix C.1", MAJOR, b"GET PATH\r\n\r\n", 505
)
_table("http09-host", "a line without version, with headers", "RFC 9112 appendix C.1", MAJOR, _line(b"GET PATH"), 505)
for _id, _version, _ours in (
    ("1.2", b"HTTP/1.2", _505),
    ("2.0", b"HTTP/2.0", _505),
    ("0.9", b"HTTP/0.9", _505),
    ("1.10", b"HTTP/1.10", _BAD),
    ("01.1", b"HTTP/01.1", _BAD),
    ("1", b"HTTP/1", _BAD),
    ("1.", b"HTTP/1.", _BAD),
    ("x", b"HTTP/x.y", _BAD),
    ("lower", b"http/1.1", _BAD),
    ("other", b"XTTP/1.1", _BAD),
    ("9.9", b"HTTP/9.9", _505),
    ("comma", b"HTTP/1,1", _BAD),
    ("space", b"HTTP/ 1.1", _BAD),
    ("trailing-space", b"HTTP/1.1 ", _BAD),
    ("word", b"HTTP/1.1 x", _BAD),
):
    _table(
        f"version-{_id}",
        f"version {_version!r}",
        "RFC 9112 section 2.3",
        MINOR if _id in {"2.0", "9.9"} else MAJOR,
        _line(b"GET PATH " + _version),
        505,
        ours=_ours,
        lenient=_id in {"1.2", "trailing-space"},
    )
_table(
    "h2-preface",
    "the HTTP/2 preface on an HTTP/1.1 port",
    "RFC 9113 section 3.4",
    MAJOR,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    405,
    501,
    505,
    ours=_505,
)
_table("two-spaces", "two spaces before the target", _LINE, MAJOR, _line(b"GET  PATH HTTP/1.1"), lenient=True)
_table("two-spaces-version", "two spaces before the version", _LINE, MAJOR, _line(b"GET PATH  HTTP/1.1"), lenient=True)
_table(
    "tab-separator",
    "a tab between method and target",
    _LINE,
    MAJOR,
    _line(b"GET\tPATH HTTP/1.1"),
    501,
    405,
    lenient=True,
)
_table("space-in-target", "a space inside the target", _LINE, CRITICAL, _line(b"GET PATH HTTP/1.1 HTTP/1.1"))
_table("leading-space", "a space before the method", _LINE, MAJOR, _line(b" GET PATH HTTP/1.1"), 501, lenient=True)
_table("empty-method", "no method", _LINE, MAJOR, _line(b"/ HTTP/1.1"), 501, 405)
_table(
    "method-bytes",
    "a method with a delimiter in it",
    "RFC 9110 section 5.6.2",
    MAJOR,
    _line(b"GE(T PATH HTTP/1.1"),
    405,
    501,
)
_table(
    "method-high",
    "a method with a byte above ASCII",
    "RFC 9110 section 9.1",
    MAJOR,
    _line(b"G\xc9T PATH HTTP/1.1"),
    405,
    501,
)
_table("method-nul", "a method with a NUL", "RFC 9110 section 9.1", MAJOR, _line(b"G\0T PATH HTTP/1.1"), 405, 501)
_table("target-nul", "a NUL in the target", "RFC 3986 section 3.3", CRITICAL, _line(b"GET PATH\0 HTTP/1.1"))
_table("target-control", "a control byte in the target", "RFC 3986 section 3.3", MAJOR, _line(b"GET PATH\x01 HTTP/1.1"))
_table("target-del", "DEL in the target", "RFC 3986 section 3.3", MAJOR, _line(b"GET PATH\x7f HTTP/1.1"))
_table(
    "target-high",
    "raw UTF-8 in the target",
    "RFC 3986 section 2",
    MAJOR,
    _line("GET PATH/é HTTP/1.1".encode()),
    ours=_PATH,
    closes=False,
)
_table(
    "target-fragment",
    "a fragment in the target",
    "RFC 9112 section 3.2",
    MAJOR,
    _line(b"GET PATH#f HTTP/1.1"),
    ours=_PATH,
    closes=False,
)
_table(
    "target-no-slash",
    "a target without a slash",
    "RFC 9112 section 3.2",
    MAJOR,
    _line(b"GET x HTTP/1.1"),
    404,
    ours=_PATH,
)
_table("target-empty", "no target", "RFC 9112 section 3", MAJOR, _line(b"GET HTTP/1.1"))
_table(
    "asterisk-get",
    "the asterisk form with GET",
    "RFC 9112 section 3.2.4",
    MINOR,
    _line(b"GET * HTTP/1.1"),
    404,
    ours=_PATH,
)
_table(
    "asterisk-options",
    "OPTIONS * is not passed on",
    "RFC 9112 section 3.2.4",
    MINOR,
    _line(b"OPTIONS * HTTP/1.1"),
    404,
    405,
    501,
    ours=_PATH,
)
_table(
    "absolute-other-scheme",
    "an absolute target of another scheme",
    "RFC 9112 section 3.2.2",
    MAJOR,
    _line(b"GET ftp://gateway.test/PATH HTTP/1.1"),
    404,
    ours=_PATH,
)
_table(
    "absolute-userinfo",
    "an absolute target with user information",
    "RFC 9110 section 4.2.4",
    MINOR,
    _line(b"GET http://user@gateway.testPATH HTTP/1.1"),
    403,
    ours=_PATH,
)
_table(
    "absolute-no-host",
    "an absolute target without a host",
    "RFC 9110 section 4.2.1",
    MAJOR,
    _line(b"GET http://PATH HTTP/1.1"),
    404,
    ours=_PATH,
)
_405 = (405, "Gateway.MethodNotAllowed")
_table(
    "connect",
    "CONNECT opens no tunnel",
    "RFC 9110 section 9.3.6",
    CRITICAL,
    _line(b"CONNECT gateway.test:443 HTTP/1.1"),
    404,
    405,
    501,
    ours=_405,
)
_table(
    "connect-path",
    "CONNECT with a path",
    "RFC 9112 section 3.2.3",
    MAJOR,
    _line(b"CONNECT PATH HTTP/1.1"),
    404,
    405,
    501,
    ours=_405,
)
_table(
    "trace",
    "TRACE reflects nothing (the credential would come back)",
    "RFC 9110 section 9.3.8",
    CRITICAL,
    _line(b"TRACE PATH HTTP/1.1"),
    404,
    405,
    501,
    ours=_405,
)
_table(
    "lower-method",
    "lower-case method names are other methods",
    "RFC 9110 section 9.1",
    MINOR,
    _line(b"get PATH HTTP/1.1"),
    405,
    501,
    ours=(501, "Gateway.BadRequest"),
    lenient=True,
)

# Host
_HOST = "RFC 9112 section 3.2"
_table("host-missing", "no Host", _HOST, MAJOR, b"GET PATH HTTP/1.1\r\nX-Tag: t\r\n\r\n")
_table("host-twice", "two Hosts", _HOST, MAJOR, b"GET PATH HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n")
_table(
    "host-twice-equal", "two equal Hosts", _HOST, MAJOR, b"GET PATH HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n"
)
for _id, _host in (
    ("space", b"a b"),
    ("slash", b"a/b"),
    ("at", b"u@a"),
    ("list", b"a, b"),
    ("backslash", b"a\\b"),
    ("question", b"a?b"),
    ("port-letters", b"a:x"),
    ("two-ports", b"a:1:2"),
    ("high", b"\xe9.test"),
    ("bracket", b"[::1"),
    ("quote", b'"a"'),
):
    _table(
        f"host-{_id}",
        f"Host {_host!r}",
        f"{_HOST}; RFC 3986 section 3.2",
        MAJOR if _id in {"space", "slash", "at", "list"} else MINOR,
        b"GET PATH HTTP/1.1\r\nHost: " + _host + b"\r\nX-Tag: t\r\n\r\n",
        403,
        404,
    )
_table(
    "host-folded",
    "a folded Host",
    "RFC 9112 section 5.2",
    MAJOR,
    b"GET PATH HTTP/1.1\r\nHost: a\r\n .test\r\n\r\n",
    lenient=True,
)
_table(
    "host-space-colon",
    "white space before Host's colon",
    "RFC 9112 section 5.1",
    MAJOR,
    b"GET PATH HTTP/1.1\r\nHost : a\r\n\r\n",
)

# Field lines
_FIELD = "RFC 9112 section 5"
_table(
    "lf-lines",
    "lines that end in a bare LF",
    "RFC 9112 section 2.2 leaves it open; a recipient behind may differ",
    MAJOR,
    b"GET PATH HTTP/1.1\nHost: a\n\n",
    lenient=True,
)
_table(
    "lf-one",
    "one header line that ends in a bare LF",
    "RFC 9112 section 2.2; CVE-2022-32215 class",
    MAJOR,
    _field(b"X-A: 1\nX-B: 2"),
    lenient=True,
)
_table(
    "lf-final",
    "the empty line is a bare LF",
    "RFC 9112 section 2.2",
    MAJOR,
    b"GET PATH HTTP/1.1\r\nHost: a\r\n\n",
    lenient=True,
)
_table(
    "cr-value",
    "a bare CR in a value",
    "RFC 9112 section 2.2; RFC 9110 section 5.5",
    CRITICAL,
    _field(b"X-A: 1\rX-Auth-Token: 2"),
    lenient=True,
)
_table(
    "cr-line-end",
    "lines that end in a bare CR",
    "RFC 9112 section 2.2",
    MAJOR,
    b"GET PATH HTTP/1.1\rHost: a\r\r\r\n\r\n",
)
_table("nul-value", "a NUL in a value", "RFC 9110 section 5.5", CRITICAL, _field(b"X-A: a\0b"), lenient=True)
_table("control-value", "a control byte in a value", "RFC 9110 section 5.5", MAJOR, _field(b"X-A: a\x01b"))
_table("del-value", "DEL in a value", "RFC 9110 section 5.5", MINOR, _field(b"X-A: a\x7fb"))
_table(
    "esc-value", "an escape sequence in a value (log injection)", "RFC 9110 section 5.5", MINOR, _field(b"X-A: \x1b[2J")
)
_table("nul-name", "a NUL in a name", "RFC 9110 section 5.1", CRITICAL, _field(b"X\0A: a"))
_table("empty-name", "a line that begins with the colon", _FIELD, MAJOR, _field(b": a"))
_table("no-colon", "a line without a colon", _FIELD, MAJOR, _field(b"garbage"), lenient=True)
_table("space-name", "a space inside a name", _FIELD, CRITICAL, _field(b"X A: a"))
_table("space-colon", "a space before the colon", "RFC 9112 section 5.1", CRITICAL, _field(b"X-A : a"))
_table("delimiter-name", "a delimiter in a name", "RFC 9110 section 5.6.2", MAJOR, _field(b"X(A: a"), lenient=True)
_table("high-name", "a byte above ASCII in a name", "RFC 9110 section 5.6.2", MAJOR, _field(b"X-\xe9: a"), lenient=True)
_table("quoted-name", "quotes in a name", "RFC 9110 section 5.6.2", MAJOR, _field(b'"X-A": a'), lenient=True)
_table("folded", "a folded line", "RFC 9112 section 5.2", MAJOR, _field(b"X-A: a\r\n b"), lenient=True)
_table("folded-tab", "a line folded with a tab", "RFC 9112 section 5.2", MAJOR, _field(b"X-A: a\r\n\tb"), lenient=True)
_table(
    "folded-first",
    "the first line behind the request line begins with a space",
    "RFC 9112 section 2.2; section 5.2",
    CRITICAL,
    b"GET PATH HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n",
    lenient=True,
)
_table(
    "folded-empty",
    "a folded line of spaces only",
    "RFC 9112 section 5.2",
    MAJOR,
    _field(b"X-A: a\r\n  \r\nX-B: c"),
    lenient=True,
)
_table(
    "tls-hello",
    "a TLS hello on the plain port",
    "real callers do it; answered or closed at once",
    MINOR,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x80" * 60,
    431,
)
_table("binary", "binary rubbish", _LINE, MINOR, b"\x00\x01\x02\x03\r\n\r\n")
_table(
    "proxy-v1",
    "a PROXY line nobody configured",
    "HAProxy PROXY protocol",
    MAJOR,
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + _line(b"GET PATH HTTP/1.1"),
)


# What must be read, and not refused
def _accepted(raw: bytes) -> Run:
    async def run(x: Bench) -> None:
        reply = await x.ask(raw.replace(b"PATH", x.prefix() + b"/x"))
        x.expect(reply.status == 200, f"status {reply.status}: {reply.text[:120]!r}")
        request = await x.request()
        x.expect(x.path_of(request) == x.lane.base + b"/x", f"left as {request.target!r}")

    return run


for _id, _title, _source, _raw in (
    (
        "empty-line-first",
        "one empty line before the request line is forgiven",
        "RFC 9112 section 2.2",
        b"\r\n" + _line(b"GET PATH HTTP/1.1"),
    ),
    (
        "absolute",
        "the absolute form is matched on its path",
        "RFC 9112 section 3.2.2",
        _line(b"GET http://gateway.testPATH HTTP/1.1"),
    ),
    (
        "absolute-other-host",
        "an absolute target overrides Host, and both choose no upstream",
        "RFC 9112 section 3.2.2",
        b"GET http://other.test:81PATH HTTP/1.1\r\nHost: gateway.test\r\n\r\n",
    ),
    (
        "absolute-upper",
        "the scheme of an absolute target in capitals",
        "RFC 3986 section 3.1",
        _line(b"GET HTTP://gateway.testPATH HTTP/1.1"),
    ),
    (
        "host-ipv6",
        "an IPv6 Host with a port",
        "RFC 3986 section 3.2.2",
        b"GET PATH HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
    ),
    (
        "host-no-space",
        "no white space behind a colon",
        "RFC 9112 section 5",
        b"GET PATH HTTP/1.1\r\nHost:gateway.test\r\nX-Tag:t\r\n\r\n",
    ),
    (
        "optional-space",
        "white space around a value",
        "RFC 9112 section 5.1",
        b"GET PATH HTTP/1.1\r\nHost: \t gateway.test \t\r\nX-A:   b  \r\n\r\n",
    ),
    ("http10-no-host", "HTTP/1.0 without a Host", "RFC 9112 section 3.2", b"GET PATH HTTP/1.0\r\n\r\n"),
    ("empty-value", "an empty value", "RFC 9110 section 5.5", _field(b"X-A:")),
    ("other-method", "a method nobody registered", "RFC 9110 section 16.1.1", _line(b"PROPFIND PATH HTTP/1.1")),
    (
        "delimiter-token",
        "every character that a name may have",
        "RFC 9110 section 5.6.2",
        _field(b"X!#$%&'*+-.^`|~9: a"),
    ),
    (
        "many-fields",
        "eighty fields",
        "RFC 9110 section 5.4",
        _field(b"\r\n".join(b"X-%d: %d" % (n, n) for n in range(80))),
    ),
):
    add(
        Case(
            f"heads/accepts-{_id}",
            _title,
            _source,
            MINOR if _id in {"other-method", "delimiter-token"} else MAJOR,
            "request",
            _accepted(_raw),
        )
    )


@case(
    "heads/host-is-ours",
    "the upstream's Host is the configured one, whatever the caller says",
    "RFC 9110 section 7.2; aws-sigv4-proxy",
    CRITICAL,
)
async def host_is_ours(x: Bench) -> None:
    await x.ask(
        x.raw(
            b"GET",
            b"/x",
            host=b"Host: evil.test",
        )
    )
    request = await x.request()
    x.expect(request.values("host") == [b"127.0.0.1:%d" % x.upstream.port], f"Host {request.values('host')!r}")


@case(
    "heads/http10-answer",
    "an HTTP/1.0 caller gets an answer that it can read, ended by length or close",
    "RFC 9112 section 2.3",
    MAJOR,
)
async def http10(x: Bench) -> None:
    x.answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    caller = await x.caller()
    caller.send(x.raw(version=b"HTTP/1.0"))
    reply = await x.reply(caller)
    x.expect(not reply.chunked, "chunked to an HTTP/1.0 caller")
    x.expect(reply.text == b"hello", f"{reply.text!r}")
    x.expect(await caller.closed(), "not closed without keep-alive")


@case("heads/http10-keep-alive", "an HTTP/1.0 caller that asks for it is kept", "RFC 9112 appendix C.2.2", MINOR)
async def http10_keep(x: Bench) -> None:
    caller = await x.caller()
    for _ in range(2):
        caller.send(x.raw(b"GET", b"/x", b"Connection: keep-alive", version=b"HTTP/1.0"))
        reply = await x.reply(caller)
        x.expect(reply.text == b"tag=" + x.tag, f"{reply.start!r}")


@case(
    "heads/endless-line",
    "a request line without end is refused in bounded memory",
    "RFC 9112 section 3; 414",
    CRITICAL,
    alone=True,
)
async def endless_line(x: Bench) -> None:
    before = x.memory_bytes()
    caller = await x.caller()
    caller.send(b"GET " + x.prefix() + b"/")
    for _ in range(320):
        if caller.lost:
            break
        await caller.send_all(b"a" * 100_000, 1.0)
    try:
        reply = await caller.reply(seconds=2)
        x.expect_error(reply, 414, "Gateway.UriTooLong") if x.ours else x.expect(
            reply.status in {400, 414, 431}, f"{reply.status}"
        )
    except Exception:
        if x.ours and not caller.lost:
            raise
    x.expect(x.memory_bytes() - before < 8_000_000, f"{(x.memory_bytes() - before) / 1e6:.1f} MB more memory")
    await x.nothing_upstream()


@case(
    "heads/endless-fields",
    "headers without end are refused in bounded memory",
    "RFC 6585 section 5; 431",
    CRITICAL,
    alone=True,
)
async def endless_fields(x: Bench) -> None:
    before = x.memory_bytes()
    caller = await x.caller()
    caller.send(b"GET " + x.prefix() + b"/x HTTP/1.1\r\nHost: a\r\n")
    for _ in range(320):
        if caller.lost:
            break
        await caller.send_all(b"X-A: b\r\n" * 12_000, 1.0)
    x.expect(await caller.until(lambda: caller.eof or caller.lost, 5), "neither refused nor closed")
    x.expect(x.memory_bytes() - before < 8_000_000, f"{(x.memory_bytes() - before) / 1e6:.1f} MB more memory")
    await x.nothing_upstream()


def _too_large(raw: bytes, statuses: set[int], ours: tuple[int, str]) -> Run:
    async def run(x: Bench) -> None:
        await x.refused(raw.replace(b"PATH", x.prefix()), statuses, ours)

    return run


_431 = (431, "Gateway.HeadersTooLarge")
add(
    Case(
        "heads/uri-too-long",
        "a 100 KB target",
        "RFC 9110 section 15.5.15",
        MAJOR,
        "request",
        _too_large(
            b"GET PATH/" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            {400, 414, 431},
            (414, "Gateway.UriTooLong"),
        ),
    )
)
add(
    Case(
        "heads/field-too-large",
        "a 100 KB header",
        "RFC 6585 section 5",
        MAJOR,
        "request",
        _too_large(b"GET PATH/x HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n", {400, 413, 431}, _431),
    )
)
add(
    Case(
        "heads/too-many-fields",
        "20,000 small headers",
        "RFC 6585 section 5",
        MAJOR,
        "request",
        _too_large(b"GET PATH/x HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 20_000 + b"\r\n", {400, 413, 431}, _431),
    )
)


@case("heads/drip-head", "a head that comes byte by byte is read", "RFC 9112 section 2.1", MAJOR)
async def drip_head(x: Bench) -> None:
    caller = await x.caller()
    await caller.drip(x.raw(), 0.001)
    reply = await x.reply(caller)
    x.expect(reply.text == b"tag=" + x.tag, f"{reply.start!r}")


@case(
    "heads/split-everywhere",
    "a request cut into two reads at every place is the same request",
    "RFC 9112 section 2.1",
    MAJOR,
    seconds=30,
)
async def split_everywhere(x: Bench) -> None:
    raw = x.raw(b"POST", b"/x", b"Transfer-Encoding: chunked", body=b"3;a=b\r\nabc\r\n0\r\nT: 1\r\n\r\n")
    caller = await x.caller()
    for at in range(1, len(raw)):
        caller.send(raw[:at])
        await asyncio.sleep(0.002)
        caller.send(raw[at:])
        reply = await x.reply(caller)
        x.expect(reply.status == 200, f"cut at {at}: {reply.start!r}")
    x.expect(all(request.body == b"abc" for request in x.upstream.requests), "a body differed")
