"""What leaves for what came in."""

from typing import Any, cast

import pytest

from gateway.body import Body
from gateway.errors import BadPath
from gateway.outbound import Outbound, Outline
from gateway.routes import Match, Route, UpstreamUrl
from gateway.wire.request_head import parse_request

URL = UpstreamUrl("https", "up.example.com", 8443, "up.example.com:8443", "/v1/infers/S")
BODY = cast(Body, object())  # only handed on


def left(
    target: str = "/r/x", *fields: str, method: str = "POST", without: tuple[bytes, ...] = (), **route: Any
) -> Outline:
    """What leaves on a route for a request with these fields."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway.example", *fields]
    head = parse_request("\r\n".join(lines).encode())
    settings: dict[str, Any] = {"signed": False} | route
    match = Match(Route("r", "/r", URL, "c", **settings), "/v1/infers/S/x")
    return Outline(head, match, b"1.1 modelarts-gateway-me", without=without)


def crossing(outline: Outline) -> list[bytes]:
    """The caller's lines among those that leave, behind Host and before ours."""
    return outline.beginning.split(b"\r\n")[2 : -len(outline.fields)]


def test_method_target_and_host() -> None:
    """The method stays, the path is the upstream's, Host is the upstream's as its URL wrote it."""
    outbound = left("/r/x?a=1", method="PUT")

    assert (outbound.method, outbound.target, outbound.authority) == (
        "PUT",
        "/v1/infers/S/x?a=1",
        "up.example.com:8443",
    )
    assert outbound.beginning.startswith(b"PUT /v1/infers/S/x?a=1 HTTP/1.1\r\nHost: up.example.com:8443\r\n")


@pytest.mark.parametrize(
    ("query", "plain", "signed"),
    [
        pytest.param("", "", "", id="none"),
        pytest.param("?", "?", "", id="empty"),
        pytest.param("?b=2&a=1", "?b=2&a=1", "?a=1&b=2", id="order"),
        pytest.param("?q=a+b", "?q=a+b", "?q=a%20b", id="plus"),
        pytest.param("?a=%7e&%e4=", None, None, id="not UTF-8"),
        pytest.param("?a=\\", None, None, id="backslash"),
        pytest.param("?=1", "?=1", None, id="empty key"),
        pytest.param("?a&&b", "?a&&b", None, id="empty pair"),
    ],
)
@pytest.mark.parametrize("is_signed", [False, True], ids=["plain route", "signed route"])
def test_queries(query: str, plain: str | None, signed: str | None, is_signed: bool) -> None:
    """Byte for byte on plain routes, canonical on signed ones, refused where it has two readings."""
    expected = signed if is_signed else plain
    if expected is None:
        with pytest.raises(BadPath):
            left(f"/r/x{query}", signed=is_signed)
    else:
        assert left(f"/r/x{query}", signed=is_signed).target == f"/v1/infers/S/x{expected}"


def test_our_own_fields() -> None:
    """The request's id and our mark in Via; what came in Via stays in front."""
    assert Outbound(left(), BODY, "id-1").fields == [(b"X-Request-Id", b"id-1")]
    assert left().fields == [(b"Via", b"1.1 modelarts-gateway-me")]
    assert left("/r", "Via: 1.0 a", "Via: 1.1 b").fields == [(b"Via", b"1.0 a, 1.1 b, 1.1 modelarts-gateway-me")]


def test_the_beginning_is_what_was_decided() -> None:
    """The bytes that leave first hold the request line, Host, the caller's fields and ours, each once."""
    outline = left("/r/x?a=1", "Accept: a", "X-Stage: RELEASE", "Authorization: Bearer theirs")

    assert outline.beginning.split(b"\r\n") == [
        b"POST /v1/infers/S/x?a=1 HTTP/1.1",
        b"Host: up.example.com:8443",
        b"Accept: a",
        b"Via: 1.1 modelarts-gateway-me",
        b"X-Stage: RELEASE",
    ]


def test_fields_that_stay_behind() -> None:
    """What somebody else is going to write is left out, in any spelling."""
    outline = left(
        "/r", "TraceParent: 00-1-2-03", "tracestate: a=b", "X-Trace: 1", without=(b"traceparent", b"tracestate")
    )

    assert crossing(outline) == [b"X-Trace: 1"]
    assert b"tracestate" not in outline.beginning


def test_the_callers_fields() -> None:
    """End-to-end fields in their order and spelling, and nothing of what the caller may not say."""
    outbound = left(
        "/r",
        "content-TYPE: a/b",
        "Authorization: Bearer theirs",
        "X-Auth-Token: theirs",
        "Cookie: a=1",
        "Connection: X-Hop",
        "X-Hop: 1",
        "X-Request-Id: theirs",
        "Expect: 100-continue",
        "X-Request-Timeout: 5",
        "traceparent: 00-1-2-03",
        "Accept: a",
        "Accept: b",
    )

    assert crossing(outbound) == [
        b"content-TYPE: a/b",
        b"Cookie: a=1",
        b"traceparent: 00-1-2-03",
        b"Accept: a",
        b"Accept: b",
    ]


@pytest.mark.parametrize("forwarded", [False, True])
def test_where_the_request_came_from(forwarded: bool) -> None:
    """Forwarded and its older relatives pass only where the route says so."""
    outbound = left("/r", "X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1", "Accept: a", forwarded=forwarded)

    expected = [b"Accept: a", b"X-Forwarded-For: 10.0.0.1", b"Forwarded: for=10.0.0.1"] if forwarded else [b"Accept: a"]
    assert crossing(outbound) == expected


@pytest.mark.parametrize(
    ("fields", "stage"),
    [((), []), (("X-Stage: RELEASE",), [b"RELEASE"]), (("X-Stage: a", "X-Stage: b"), [])],
    ids=["none", "one", "two"],
)
def test_stage(fields: tuple[str, ...], stage: list[bytes]) -> None:
    """X-Stage is part of what is signed, so it leaves as ours, once or not at all."""
    outbound = left("/r", *fields)

    assert [value for name, value in outbound.fields if name == b"X-Stage"] == stage
    assert not [line for line in crossing(outbound) if line.lower().startswith(b"x-stage")]


@pytest.mark.parametrize("websocket", [False, True])
def test_handshakes(websocket: bool) -> None:
    """A WebSocket handshake leaves as one only where the route says so; its key passes either way."""
    handshake = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: k")
    outbound = left("/r", *handshake, method="GET", websocket=websocket)

    assert outbound.upgrade is websocket
    assert not [line for line in crossing(outbound) if line.lower().startswith((b"upgrade", b"connection"))]


def test_attempts_do_not_share_what_a_credential_adds() -> None:
    """A field added to one attempt is not there in the next, and never in what came in."""
    head = parse_request(b"GET /r HTTP/1.1\r\nHost: h\r\nAccept: a")
    match = Match(Route("r", "/r", URL, "c"), "/x")
    outline = Outline(head, match, b"1.1 us")
    first = Outbound(outline, BODY, "id")
    first.fields.append((b"X-Auth-Token", b"secret"))

    second = Outbound(outline, BODY, "id")

    assert (b"X-Auth-Token", b"secret") not in second.fields
    assert b"secret" not in outline.beginning
    assert head.fields.lines == (b"Accept: a",)
