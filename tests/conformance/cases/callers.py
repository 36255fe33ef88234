"""Who is asking: callers known by token, on a gateway that has a list of them."""

import asyncio

from tests.conformance.bench import Bench
from tests.conformance.case import Case, Run, Severity, add, case
from tests.conformance.target import ALPHA, BETA

CRITICAL, MAJOR, MINOR = Severity.CRITICAL, Severity.MAJOR, Severity.MINOR
_ALPHA = b"Authorization: Bearer " + ALPHA
_GUARDED = ("guarded", "private")
_SOURCE = "RFC 9110 section 11.4; our contract"


def _unknown(lines: tuple[bytes, ...]) -> Run:
    async def run(x: Bench) -> None:
        for raw in (
            x.raw(b"GET", b"/x", *lines),
            b"GET /nowhere HTTP/1.1\r\nHost: a\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n",
        ):
            reply = await x.ask(raw)
            x.expect_error(reply, 401, "Gateway.CallerUnknown", "http_request_denied")
            x.expect(b'"authentication_error"' in reply.text, "the OpenAI type is another")
            for line in lines:
                token = line.rpartition(b" ")[2]
                x.expect(len(token) < 6 or token not in reply.text + reply.head_bytes, "the answer repeats the token")
        await x.nothing_upstream()

    return run


for _id, _lines in (
    ("none", ()), ("wrong", (b"Authorization: Bearer wrong-token",)), ("basic", (b"Authorization: Basic " + ALPHA,)), ("bare", (b"Authorization: " + ALPHA,)),
    ("prefix", (b"Authorization: Bearer " + ALPHA[:-1],)), ("longer", (b"Authorization: Bearer " + ALPHA + b"x",)), ("upper", (b"Authorization: Bearer " + ALPHA.upper(),)),
    ("empty", (b"Authorization: Bearer ",)), ("twice", (_ALPHA, b"Authorization: Bearer " + BETA)), ("list", (b"Authorization: Bearer " + ALPHA + b", Bearer " + BETA,)),
    ("underscore", (b"X_API_Key: " + ALPHA,)), ("query-like", (b"X-Api-Key2: " + ALPHA,)), ("key-wrong", (b"X-API-Key: wrong-token",)), ("not-ascii", (b"Authorization: Bearer \xff\xfe",)),
    ("bearer-wins", (b"Authorization: Bearer wrong-token", b"X-API-Key: " + ALPHA)), ("proxy-authorization", (b"Proxy-Authorization: Bearer " + ALPHA,)),
):  # fmt: skip
    add(
        Case(
            f"callers/unknown-{_id}",
            f"who comes with {_id.replace('-', ' ')} token is unknown, whatever the route",
            _SOURCE,
            CRITICAL,
            "request",
            _unknown(_lines),
            _GUARDED,
        )
    )


@case(
    "callers/known",
    "a token in Authorization or X-API-Key opens the door and stays here",
    _SOURCE,
    CRITICAL,
    variants=_GUARDED,
)
async def known(x: Bench) -> None:
    for line in (_ALPHA, b"authorization: bearer " + ALPHA, b"X-API-Key: " + ALPHA, b"x-api-key:" + ALPHA):
        reply = await x.ask(x.raw(b"GET", b"/x", line))
        x.expect(reply.status == 200, f"{line[:20]!r}: status {reply.status}")
    wire = b"".join(bytes(link.record) for link in x.upstream.links)
    x.expect(ALPHA not in wire, "the caller's token reached the upstream")


@case("callers/not-allowed", "a known caller on another's route is a 403", _SOURCE, CRITICAL, variants=_GUARDED)
async def not_allowed(x: Bench) -> None:
    reply = await x.ask(x.raw(b"GET", b"/x", _ALPHA, variant="private"))
    x.expect_error(reply, 403, "Gateway.CallerNotAllowed", "http_request_denied")
    await x.nothing_upstream()
    reply = await x.ask(x.raw(b"GET", b"/x", b"Authorization: Bearer " + BETA, variant="private"))
    x.expect(reply.status == 200, f"status {reply.status}")


@case(
    "callers/per-request",
    "a connection proves nothing: each request is asked again",
    "connection reuse by load balancers",
    CRITICAL,
    variants=_GUARDED,
)
async def per_request(x: Bench) -> None:
    caller = await x.caller()
    caller.send(
        x.raw(b"GET", b"/x", _ALPHA)
        + x.raw(b"GET", b"/x")
        + x.raw(b"GET", b"/x", b"Authorization: Bearer " + BETA, variant="private")
        + x.raw(b"GET", b"/x", _ALPHA, variant="private")
    )
    found = [reply.status for reply in await caller.replies(4)]
    x.expect(found == [200, 401, 200, 403], f"{found!r}")


@case(
    "callers/refused-before-upload",
    "an unknown caller's upload is refused before it starts",
    "RFC 9110 section 10.1.1",
    MAJOR,
    variants=_GUARDED,
)
async def before_upload(x: Bench) -> None:
    caller = await x.caller()
    caller.send(x.raw(b"POST", b"/x", b"Expect: 100-continue", b"Content-Length: 100000"))
    reply = await x.reply(caller)
    x.expect(not reply.interims, "invited")
    x.expect_error(reply, 401, "Gateway.CallerUnknown")
    await asyncio.sleep(0.02)
    await x.nothing_upstream()
