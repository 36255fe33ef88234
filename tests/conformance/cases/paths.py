"""Paths: byte for byte, prefixes on segment boundaries, nothing escapes the upstream's base."""

from tests.conformance.bench import Bench
from tests.conformance.case import Case, NotApplicable, Run, Severity, add, case

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR


def _same(tail: bytes) -> Run:
    async def run(x: Bench) -> None:
        reply = await x.ask(x.raw(b"GET", tail))
        x.expect(reply.status == 200, f"status {reply.status}: {reply.text[:120]!r}")
        target = x.path_of(await x.request())
        x.expect(target == x.lane.base + tail, f"left as {target!r}, not {x.lane.base + tail!r}")

    return run


for _id, _tail in (
    ("nothing", b""),
    ("slash", b"/"),
    ("segments", b"/a/b/c"),
    ("trailing-slash", b"/a/"),
    ("double-slash", b"/a//b"),
    ("leading-double-slash", b"//a"),
    ("many-slashes", b"/a///b////"),
    ("encoded-slash", b"/a%2Fb"),
    ("encoded-slash-lower", b"/a%2fb"),
    ("encoded-letter", b"/%41%62"),
    ("encoded-percent", b"/a%25b"),
    ("double-encoded", b"/a%252Fb"),
    ("encoded-space", b"/a%20b"),
    ("plus", b"/a+b"),
    ("utf-8", b"/%E4%BD%A0"),
    ("utf-8-lower", b"/%e4%bd%a0"),
    ("mixed-escapes", b"/%3a%3A:"),
    ("sub-delims", b"/!$&'()*+,;=:@"),
    ("unreserved", b"/-._~"),
    ("tilde-encoded", b"/%7Ea"),
    ("brackets", b"/[a]"),
    ("braces", b'/{a}|^`"<>'),
    ("three-dots", b"/.../a"),
    ("dot-name", b"/.hidden/a.b"),
    ("dots-in-name", b"/a..b/..c/d.."),
    ("semicolon", b"/a;v=1/b"),
    ("colon-segment", b"/a:predict"),
    ("encoded-question", b"/a%3Fb"),
    ("encoded-hash", b"/a%23b"),
    ("long", b"/" + b"a" * 4000),
    ("star", b"/*"),
    ("at", b"/@"),
    ("prefix-again", b"/plain/x"),
    ("url-inside", b"/http://a/b"),
):
    _odd = _id in {"brackets", "braces", "star"}
    add(
        Case(
            f"paths/same-{_id}",
            f"path {_tail[:40]!r} leaves byte for byte",
            "RFC 3986 section 6; RFC 9110 section 7.7",
            MINOR if _odd else MAJOR,
            "request",
            _same(_tail),
        )
    )

for _id, _query in (
    ("plain", b"?a=b"),
    ("empty", b"?"),
    ("two-marks", b"?a?b"),
    ("empty-key", b"?=a"),
    ("no-value", b"?a"),
    ("ampersands", b"?&&a=b&"),
    ("order", b"?b=2&a=1&b=1"),
    ("plus", b"?a=b+c"),
    ("encoded", b"?a=%2F%2f%41%20"),
    ("semicolon", b"?a=1;b=2"),
    ("slash", b"?a=/b/../c"),
    ("brackets", b"?a[]=1"),
    ("braces", b'?q={"a":1}|^`'),
    ("utf-8", b"?q=%E4%BD%A0"),
    ("url", b"?u=http://a/b?c"),
    ("at", b"?a@b:c"),
    ("dots", b"?../.."),
    ("long", b"?a=" + b"b" * 6000),
):
    _odd = _id in {"brackets", "braces"}
    add(
        Case(
            f"paths/query-{_id}",
            f"query {_query[:40]!r} leaves byte for byte",
            "RFC 3986 section 3.4; Go TestReverseProxyQueryParameterSmuggling",
            MINOR if _odd else MAJOR,
            "request",
            _same(b"/x" + _query),
        )
    )

# Dot segments in every spelling. Ours refuses them all; others must at least not let them out of the base.
_DOTS = (
    b"/..", b"/../x", b"/../../x", b"/a/../x", b"/a/../../x", b"/.", b"/./x", b"/a/.", b"/a/..", b"/a/./b", b"/%2e%2e/x", b"/%2E%2E/x", b"/.%2e/x", b"/%2e./x", b"/%2e/x",
    b"/..%2fx", b"/..%2Fx", b"/%2e%2e%2fx", b"/a/%2e%2e/%2e%2e/x", b"/%252e%252e/x", b"/%25%32%65%25%32%65/x", b"/..;/x", b"/..;a=b/x", b"/.;/x", b"/%2e%2e;/x", b"/..%3b/x",
    b"/..\\x", b"/..%5cx", b"/..%5Cx", b"/a\\..\\x", b"/%5c..%5cx", b"//../x", b"/a//../../x", b"/...//../x", b"/..//x", b"/%2e%2e//x", b"/..%252fx", b"/%252e%252e%252fx",
    b"/..%00/x", b"/%00../x", b"/..%0d%0a/x", b"/.%00./x", b"/..%20/x", b"/%ff%2e%2e/x", b"/%c0%ae%c0%ae/x", b"/%e0%80%ae%e0%80%ae/x", b"/%uff0e%uff0e/x",
)  # fmt: skip
# These are ordinary names: a segment of ".. " is none of dots.
_NAMES = {b"/..%20/x"}


def _escape(tail: bytes) -> Run:
    async def run(x: Bench) -> None:
        reply = await x.ask(x.raw(b"GET", tail))
        if x.ours and tail not in _NAMES:
            x.expect_error(reply, 400, "Gateway.BadPath", "http_request_error")
            await x.nothing_upstream()
            return
        for request in x.upstream.requests:
            x.expect(not _leaves(x.path_of(request), x.lane.base), f"left as {request.target!r}")
        x.expect(reply.status in {200, 301, 302, 307, 308, 400, 403, 404}, f"status {reply.status}")

    return run


def _leaves(target: bytes, base: bytes) -> bool:
    """Whether an upstream that decodes often and is generous with separators would end up outside ``base``."""
    from urllib.parse import unquote_to_bytes

    path = target.partition(b"?")[0]
    for _ in range(4):
        path = unquote_to_bytes(path)
    depth, inside = 0, base.strip(b"/").count(b"/") + 1
    if not path.startswith(base):
        return True
    for segment in path.replace(b"\\", b"/").split(b"/"):
        name = segment.partition(b";")[0].replace(b"\0", b"")
        if name == b"..":
            depth -= 1
        elif name not in {b"", b"."}:
            depth += 1
        if depth < 0:
            return True
    found: list[bytes] = []
    for segment in path.replace(b"\\", b"/").split(b"/"):
        name = segment.partition(b";")[0].replace(b"\0", b"")
        if name == b"..":
            found[-1:] = []
        elif name not in {b"", b"."}:
            found.append(name)
    return b"/" + b"/".join(found[:inside]) != base


def _dot_severity(tail: bytes) -> Severity:
    """What a server that decodes once resolves is critical; what takes a stranger one is not."""
    from urllib.parse import unquote_to_bytes

    return CRITICAL if b".." in unquote_to_bytes(tail).split(b"/") else MINOR


for _number, _tail in enumerate(_DOTS):
    add(
        Case(
            f"paths/dots-{_number:02}",
            f"{_tail!r} does not leave the base path",
            "RFC 3986 section 5.2.4; OWASP path traversal; Orange Tsai 2018 ('..;')",
            _dot_severity(_tail),
            "request",
            _escape(_tail),
        )
    )


def _bad_path(tail: bytes) -> Run:
    async def run(x: Bench) -> None:
        caller = await x.caller()
        caller.send(x.raw(b"GET", tail))
        reply = await x.reply(caller)
        if x.ours:
            x.expect_error(reply, 400, "Gateway.BadPath", "http_request_error")
            await x.nothing_upstream()
        elif reply.status == 200:
            target = x.path_of(await x.request())
            x.expect(target.lower() == (x.lane.base + tail).lower(), f"left as {target!r}")
        else:
            x.expect(reply.status in {400, 403, 404}, f"status {reply.status}")

    return run


for _id, _tail in (
    ("backslash", b"/a\\b"),
    ("encoded-backslash", b"/a%5Cb"),
    ("encoded-nul", b"/a%00b"),
    ("encoded-newline", b"/a%0ab"),
    ("encoded-crlf", b"/a%0d%0aX-A:b"),
    ("encoded-del", b"/a%7Fb"),
    ("encoded-escape", b"/%1b"),
    ("broken-escape", b"/a%zzb"),
    ("cut-escape", b"/a%2"),
    ("percent", b"/100%"),
    ("percent-u", b"/%u0041"),
    ("not-utf-8", b"/%ff"),
    ("overlong", b"/%c0%af"),
    ("surrogate", b"/%ed%a0%80"),
    ("query-backslash", b"/x?a\\b"),
    ("query-nul", b"/x?a=%00"),
    ("query-crlf", b"/x?a=%0d%0aX:1"),
    ("query-broken-escape", b"/x?a=%zz"),
    ("query-not-utf-8", b"/x?a=%ff"),
    ("fragment-query", b"/x?a#b"),
):
    add(
        Case(
            f"paths/bad-{_id}",
            f"{_tail!r} is refused, never cleaned",
            "RFC 3986 section 2.1; RFC 9110 section 17",
            MAJOR if _id != "fragment-query" else MINOR,
            "request",
            _bad_path(_tail),
        )
    )


@case("paths/boundary", "a prefix matches on segment boundaries only", "aiohttp proxies' startswith()", CRITICAL)
async def boundary(x: Bench) -> None:
    for tail in (b"x", b"x/y", b"-x", b"%2Fx", b".x", b";a/b", b"%20"):
        reply = await x.ask(x.raw(b"GET", tail))
        if x.ours:
            x.expect_error(reply, 404, "Gateway.RouteNotFound", "destination_not_found")
            await x.nothing_upstream()
        for request in x.upstream.requests:  # others may decode, but then what leaves is the decoded reading
            x.expect(request.target.startswith(x.lane.base + b"/"), f"{tail!r} left as {request.target!r}")
        x.expect(reply.status in {200, 400, 404}, f"{tail!r}: status {reply.status}")


@case(
    "paths/other-spellings",
    "no other spelling of the prefix matches",
    "matching and forwarding agree on one reading",
    MAJOR,
)
async def other_spellings(x: Bench) -> None:
    prefix = x.prefix()
    for path in (
        b"/" + prefix + b"/x",
        prefix.upper() + b"/x",
        b"/%" + b"%02x" % prefix[1] + prefix[2:] + b"/x",
        b"/x/.." + prefix,
        b"//x" + prefix,
    ):
        reply = await x.ask(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nX-Tag: " + x.tag + b"\r\n\r\n")
        if x.ours:
            x.expect(reply.status in {400, 404}, f"{path!r}: status {reply.status}")
        for request in x.upstream.requests:
            x.expect(request.target.startswith(x.lane.base), f"left as {request.target!r}")
    if x.ours:
        await x.nothing_upstream()


@case("paths/no-route", "no route is a 404, before the upstream is thought of", "our contract; Secretless", MAJOR)
async def no_route(x: Bench) -> None:
    for path in (b"/", b"/nowhere", b"/%20"):
        reply = await x.ask(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        x.expect_error(reply, 404, "Gateway.RouteNotFound", "destination_not_found")
    await x.nothing_upstream()


@case("paths/absolute-with-query", "an absolute target keeps its query", "RFC 9112 section 3.2.2", MAJOR)
async def absolute_query(x: Bench) -> None:
    reply = await x.ask(b"GET http://any.test:80" + x.prefix() + b"/a%2Fb?c=d HTTP/1.1\r\nHost: any.test:80\r\n\r\n")
    x.expect(reply.status == 200, f"status {reply.status}")
    x.expect(x.path_of(await x.request()) == x.lane.base + b"/a%2Fb?c=d", f"left as {x.upstream.requests[0].target!r}")


@case(
    "paths/absolute-dots",
    "dot segments in an absolute target are no way out either",
    "RFC 9112 section 3.2.2",
    CRITICAL,
)
async def absolute_dots(x: Bench) -> None:
    reply = await x.ask(b"GET http://any.test" + x.prefix() + b"/../x HTTP/1.1\r\nHost: any.test\r\n\r\n")
    x.expect(
        reply.status in {400, 403, 404} or not any(_leaves(x.path_of(r), x.lane.base) for r in x.upstream.requests),
        f"left as {x.upstream.requests!r}",
    )


# Signed routes: what leaves is what was signed.
def _signed(tail: bytes, wanted: bytes | None) -> Run:
    async def run(x: Bench) -> None:
        x.check_credential = False
        reply = await x.ask(x.raw(b"GET", tail))
        if wanted is None:
            x.expect_error(reply, 400, "Gateway.BadPath", "http_request_error")
            await x.nothing_upstream()
            return
        x.expect(reply.status == 200, f"status {reply.status}: {reply.text[:120]!r}")
        request = await x.request()
        x.expect(request.target == x.lane.base + wanted, f"left as {request.target!r}")
        x.expect((request.value("authorization") or b"").startswith(b"SDK-HMAC-SHA256 "), "not signed")

    return run


_GUIDE = "API Request Signing Guide, 'Constructing a Standard Request'"
for _id, _tail, _wanted in (
    ("plain", b"/a/b", b"/a/b"),
    ("lower-escape", b"/%e4%bd%a0", b"/%E4%BD%A0"),
    ("needless-escape", b"/%41", b"/A"),
    ("sub-delims", b"/a+b:c", b"/a%2Bb%3Ac"),
    ("query-sorted", b"/x?b=2&a=1&b=1", b"/x?a=1&b=1&b=2"),
    ("query-plus", b"/x?a=b+c", b"/x?a=b%20c"),
    ("query-semicolon", b"/x?a=1;b=2", b"/x?a=1%3Bb%3D2"),
    ("query-no-value", b"/x?a", b"/x?a="),
    ("query-empty", b"/x?", b"/x"),
    ("query-tilde", b"/x?a=%7E", b"/x?a=~"),
    ("double-slash", b"/a//b", None),
    ("encoded-slash", b"/a%2Fb", None),
    ("empty-key", b"/x?=a", None),
    ("empty-pair", b"/x?a=1&&b=2", None),
    ("dots", b"/../x", None),
):
    add(
        Case(
            f"paths/signed-{_id}",
            f"signed route: {_tail!r} " + ("is refused" if _wanted is None else f"leaves as {_wanted!r}"),
            _GUIDE,
            MAJOR,
            "request",
            _signed(_tail, _wanted),
            ("signed",),
        )
    )


@case(
    "paths/signed-verifies",
    "the signature fits what left, whatever the caller put into headers and body",
    _GUIDE,
    CRITICAL,
    variants=("signed",),
)
async def signed_verifies(x: Bench) -> None:
    import hashlib
    import hmac
    import re

    x.check_credential = False
    if x.lane.credential is None:
        raise NotApplicable("the secret is not known")
    secret = x.lane.credential[1]
    for lines, body in (
        ((), b""), ((b"Content-Length: 5",), b"hello"), ((b"Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n"),
        ((b"X-Sdk-Date: 20200101T000000Z", b"Authorization: SDK-HMAC-SHA256 Access=x", b"Content-Length: 1"), b"a"),
    ):  # fmt: skip
        await x.ask(x.raw(b"POST", b"/p%41th?b=2&a=1", *lines, body=body))
        request = x.upstream.requests[-1]
        found = re.fullmatch(
            rb"SDK-HMAC-SHA256 Access=conformance-key, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
            request.value("authorization") or b"",
        )
        if found is None:
            x.fail(f"Authorization {request.values('authorization')!r}")
        path, _, query = request.target.partition(b"?")
        names = found[1].split(b";")
        signed = b"".join(name + b":" + b",".join(request.values(name.decode())) + b"\n" for name in names)
        digest = request.value("x-sdk-content-sha256") or hashlib.sha256(bytes(request.body)).hexdigest().encode()
        canonical = b"\n".join((request.method, path.rstrip(b"/") + b"/", query, signed, found[1], digest))
        text = b"\n".join(
            (b"SDK-HMAC-SHA256", request.value("x-sdk-date") or b"", hashlib.sha256(canonical).hexdigest().encode())
        )
        x.expect(
            hmac.new(secret, text, hashlib.sha256).hexdigest().encode() == found[2],
            f"the signature does not fit {request.head_bytes!r}",
        )


@case("paths/longest-prefix", "the longest prefix wins, on segment boundaries", "our contract", MAJOR)
async def longest(x: Bench) -> None:
    if not x.ours:
        raise NotApplicable("one route a kind")
    for tail, wanted in (
        (b"/deep", b"/deep"),
        (b"/deep/x", b"/deep/x"),
        (b"/deepx", b"/base/deepx"),
        (b"/x/deep", b"/base/x/deep"),
        (b"/deep%2Fx", b"/base/deep%2Fx"),
        (b"/Deep/x", b"/base/Deep/x"),
        (b"//deep/x", b"/base//deep/x"),
    ):
        reply = await x.ask(x.raw(b"GET", tail))
        x.expect(reply.status == 200, f"{tail!r}: status {reply.status}")
        x.expect(x.upstream.requests[-1].target == wanted, f"{tail!r} left as {x.upstream.requests[-1].target!r}")


@case(
    "paths/signed-bodies",
    "what is signed is what leaves: hashed with its length up to `replay`, unsigned beyond, nothing for no body",
    _GUIDE,
    MAJOR,
    variants=("signed", "streamed"),
)
async def signed_bodies(x: Bench) -> None:
    import hashlib

    x.check_credential = False
    await x.ask(x.raw(b"POST", b"/x", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"))
    request = x.upstream.requests[-1]
    x.expect(request.length == 5 and request.body == b"hello", f"{request.head_bytes!r}")
    x.expect(
        request.values("x-sdk-content-sha256") in ([hashlib.sha256(b"hello").hexdigest().encode()], []),
        f"{request.head_bytes!r}",
    )
    await x.ask(x.raw(b"POST", b"/x", b"Content-Length: 0"))
    x.expect(not x.upstream.requests[-1].values("x-sdk-content-sha256"), "a content hash without content")
    await x.ask(
        x.raw(b"POST", b"/x", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n", variant="streamed")
    )
    request = x.upstream.requests[-1]
    x.expect(
        request.values("x-sdk-content-sha256") == [b"UNSIGNED-PAYLOAD"] and request.body == b"hello",
        f"{request.head_bytes!r}",
    )


@case(
    "paths/signed-upload-cut",
    "an upload that is cut before it could be signed never leaves",
    "a signature over half a prompt",
    CRITICAL,
    variants=("signed",),
)
async def signed_cut(x: Bench) -> None:
    import asyncio

    x.check_credential = False
    for leave in ("close", "reset", "half_close"):
        for lines, part in (((b"Content-Length: 10",), b"abc"), ((b"Transfer-Encoding: chunked",), b"3\r\nabc\r\n")):
            caller = await x.caller()
            caller.send(x.raw(b"POST", b"/x", *lines, body=part))
            await asyncio.sleep(0.05)
            getattr(caller, leave)()
    await asyncio.sleep(0.2)
    await x.nothing_upstream(cut=True)
