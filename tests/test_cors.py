"""Which web pages may use a route, and what their browsers are told."""

from typing import Any

import pytest

from gateway import cors
from gateway.errors import OriginNotAllowed
from gateway.routes import Cors, Route, UpstreamUrl
from gateway.wire.request_head import RequestHead, parse_request

CONSOLE = "https://console.example.com"


def route(settings: Cors | None, **more: Any) -> Route:
    return Route("r", "/r", UpstreamUrl("http", "h", 80, "h", ""), None, cors=settings, **more)


def preflight(*fields: bytes, method: bytes = b"OPTIONS", origin: str = CONSOLE) -> RequestHead:
    lines = [method + b" /r HTTP/1.1", b"Host: h", b"Origin: " + origin.encode(), *fields]
    return parse_request(b"\r\n".join(lines))


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        pytest.param(None, CONSOLE, False, id="no cors"),
        pytest.param((CONSOLE,), CONSOLE, True, id="named"),
        pytest.param((CONSOLE,), "https://console.example.com.evil.example", False, id="longer"),
        pytest.param((CONSOLE,), "https://evil.example", False, id="another"),
        pytest.param((CONSOLE,), "http://console.example.com", False, id="another scheme"),
        pytest.param((CONSOLE,), "https://console.example.com:8443", False, id="another port"),
        pytest.param((CONSOLE,), "HTTPS://CONSOLE.EXAMPLE.COM", False, id="no browser writes it so"),
        pytest.param((CONSOLE,), "null", False, id="null"),
        pytest.param((CONSOLE,), "", False, id="empty"),
        pytest.param((CONSOLE,), f"{CONSOLE}, https://evil.example", False, id="two at once"),
        pytest.param(("*",), "https://anything.example", True, id="open"),
        pytest.param(("*",), "null", True, id="open to null"),
    ],
)
def test_origins(origins: tuple[str, ...] | None, origin: str, allowed: bool) -> None:
    """Exactly the origins that the route names; without ``cors`` none."""
    target = route(Cors(origins) if origins is not None else None)

    if allowed:
        cors.check_origin(target, origin.encode())
    else:
        with pytest.raises(OriginNotAllowed) as caught:
            cors.check_origin(target, origin.encode())
        assert caught.value.setting == "cors.origins"
        assert not origin or origin not in caught.value.message


@pytest.mark.parametrize(
    ("head", "is_one"),
    [
        pytest.param(preflight(b"Access-Control-Request-Method: POST"), True, id="preflight"),
        pytest.param(preflight(), False, id="OPTIONS of a page"),
        pytest.param(preflight(b"Access-Control-Request-Method: POST", method=b"POST"), False, id="POST"),
    ],
)
def test_what_a_preflight_is(head: RequestHead, is_one: bool) -> None:
    """OPTIONS with an origin and the method to come; anything else is a request of its own."""
    assert cors.is_preflight(head) is is_one


def fields(lines: list[bytes]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.decode().partition(": ")
        found.setdefault(name, []).append(value)
    return found


def test_what_a_preflight_is_told() -> None:
    """The origin itself, the methods of the route, the headers it may set, and for how long."""
    settings = Cors((CONSOLE,), headers=("Content-Type", "X-Mine"), credentials=True, max_age_seconds=60)
    asked = preflight(b"Access-Control-Request-Method: PUT", b"Access-Control-Request-Headers: x-other")

    told = fields(cors.preflight_lines(route(settings, methods=("GET", "POST")), asked))

    assert told["Access-Control-Allow-Origin"] == [CONSOLE]
    assert told["Access-Control-Allow-Methods"] == ["GET, POST"]
    assert told["Access-Control-Allow-Headers"] == ["Content-Type, X-Mine"]
    assert told["Access-Control-Allow-Credentials"] == ["true"]
    assert told["Access-Control-Max-Age"] == ["60"]
    assert "Origin" in told["Vary"]


def test_what_an_open_route_tells() -> None:
    """Any method and any header that was asked for; never credentials."""
    asked = preflight(b"Access-Control-Request-Method: PUT", b"Access-Control-Request-Headers: x-other, y")

    told = fields(cors.preflight_lines(route(Cors(("*",))), asked))

    assert told["Access-Control-Allow-Methods"] == ["PUT"]
    assert told["Access-Control-Allow-Headers"] == ["x-other, y"]
    assert "Access-Control-Allow-Credentials" not in told


def test_what_every_answer_carries() -> None:
    """``Vary: Origin`` always, so that no cache mixes pages up; the rest for a page."""
    target = route(Cors((CONSOLE,)))

    assert fields(cors.answer_lines(target, None)) == {"Vary": ["Origin"]}
    told = fields(cors.answer_lines(target, CONSOLE.encode()))
    assert told["Access-Control-Allow-Origin"] == [CONSOLE]
    assert told["Vary"] == ["Origin"]
    exposed = set(told["Access-Control-Expose-Headers"][0].split(", "))
    assert exposed >= {"X-Request-Id", "X-Gateway-Request-Id", "Retry-After", "Proxy-Status"}
    assert cors.answer_lines(route(None), None) == []
