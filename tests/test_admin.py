"""gateway.admin: what the admin listener answers, and when the gateway is ready."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.admin import AdminListener, Readiness, Verdict, status_document
from gateway.config import Address
from gateway.credentials.base import CredentialState
from gateway.exchange import Exchange
from gateway.metrics import Gauges, Metrics
from gateway.routes import Limits, Route, UpstreamUrl
from gateway.sockets import PortInUse
from gateway.story import Moment

FRESH = CredentialState(usable=True, summary="fresh", expiry=1_700_003_600.0, last_success=1_699_999_000.0)
BROKEN = CredentialState(usable=False, summary="held for 15 min", last_error="IAM answered 401")
ROUTE = Route(
    "poetry",
    "/poetry",
    UpstreamUrl("https", "h.example.com", 443, "h.example.com", "/v1/infers/S"),
    "token",
    limits=Limits(),
)


class View:
    """A gateway with one route, one error, and a verdict that a test sets."""

    def __init__(self) -> None:
        self.serves = True
        self.verdict = Verdict(True, [], [])
        self.metrics = Metrics(
            "1.2.3",
            ["poetry"],
            ["token"],
            gauges=lambda: Gauges(
                credentials={"token": FRESH},
                clock_skew_seconds={"https://h.example.com": 90.0},
                upstream_connections={"https://h.example.com": {"idle": 2}},
                breakers={"poetry": "closed"},
                reload_success_timestamp=1_700_000_000.0,
            ),
        )
        exchange = Exchange(Moment(asyncio.get_running_loop()), 0.0, "id-1", "POST", "/poetry")
        exchange.route, exchange.status, exchange.error = "poetry", 504, "Gateway.UpstreamTimeout"
        self.metrics.observe(exchange, 0.08)

    def healthy(self) -> bool:
        return self.serves

    async def ready(self) -> Verdict:
        return self.verdict

    async def status(self) -> dict[str, Any]:
        return status_document(
            version="1.2.3",
            config_path="/etc/gateway/gateway.yaml",
            started=1_700_000_000.0,
            now=1_700_000_060.0,
            verdict=self.verdict,
            draining=False,
            routes=[ROUTE],
            credentials={"token": ("iam_token", FRESH)},
            snapshot=self.metrics.snapshot(),
        )

    async def metrics_text(self) -> tuple[bytes, str]:
        return self.metrics.text()


class Door:
    def __init__(self, view: View, session: aiohttp.ClientSession, base: str) -> None:
        self.view = view
        self.session = session
        self.base = base

    async def get(self, path: str, method: str = "GET", **options: Any) -> tuple[int, Any, str]:
        async with self.session.request(method, self.base + path, **options) as response:
            return response.status, response.headers, await response.text()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    view = View()
    listener = AdminListener(view)
    port = await listener.start(Address("127.0.0.1", 0))
    async with aiohttp.ClientSession() as session:
        yield Door(view, session, f"http://127.0.0.1:{port}")
    await listener.close()


async def test_healthz(door: Door) -> None:
    """A process that answers is healthy, ready or not."""
    door.view.verdict = Verdict(False, ["credential token: held"], [])

    status, _, text = await door.get("/healthz")

    assert (status, json.loads(text)) == (200, {"healthy": True})


async def test_healthz_without_workers(door: Door) -> None:
    """Where no worker is left, whoever watches should start us again."""
    door.view.serves = False

    status, _, text = await door.get("/healthz")

    assert (status, json.loads(text)) == (503, {"healthy": False})


@pytest.mark.parametrize(
    ("verdict", "status", "answer"),
    [
        pytest.param(Verdict(True, [], []), 200, {"ready": True, "degraded": []}, id="ready"),
        pytest.param(
            Verdict(True, [], ["credential b: held"]),
            200,
            {"ready": True, "degraded": ["credential b: held"]},
            id="degraded",
        ),
        pytest.param(
            Verdict(False, ["credential a: held"], []),
            503,
            {"ready": False, "reasons": ["credential a: held"]},
            id="not ready",
        ),
    ],
)
async def test_readyz(door: Door, verdict: Verdict, status: int, answer: dict[str, object]) -> None:
    """Readiness is 200 or 503, with the reasons in words."""
    door.view.verdict = verdict

    answered, _, text = await door.get("/readyz")

    assert (answered, json.loads(text)) == (status, answer)


async def test_metrics(door: Door) -> None:
    """A scrape is Prometheus's text format."""
    status, headers, text = await door.get("/metrics")

    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'gateway_errors_total{error="Gateway.UpstreamTimeout",route="poetry"} 1.0' in text


async def test_status(door: Door) -> None:
    """The status tells routes, credentials, upstreams and recent errors."""
    _, headers, text = await door.get("/status")

    status = json.loads(text)
    assert headers["Content-Type"].startswith("application/json")
    assert status["routes"][0] | {"recent": 0} == {
        "name": "poetry",
        "path": "/poetry",
        "upstream": "https://h.example.com/v1/infers/S",
        "credential": "token",
        "in_flight": 0,
        "breaker": "closed",
        "requests": 1,
        "failed": 1,
        "p50_ms": 75.0,
        "p99_ms": 99.5,
        "first_byte_p50_ms": None,
        "request_bytes": 0,
        "response_bytes": 0,
        "errors": {"Gateway.UpstreamTimeout": 1},
        "upstream_errors": {},
        "retries": {},
        "recent": 0,
    }
    assert status["credentials"] == [
        {
            "name": "token",
            "kind": "iam_token",
            "usable": True,
            "summary": "fresh",
            "expiry": "2023-11-14T23:13:20Z",
            "last_success": "2023-11-14T21:56:40Z",
            "last_error": None,
        }
    ]
    assert status["upstreams"] == [
        {"name": "https://h.example.com", "connections": {"idle": 2}, "clock_skew_seconds": 90.0}
    ]
    assert status["recent_errors"][0]["error"] == "Gateway.UpstreamTimeout"
    assert "limits.connect" in status["recent_errors"][0]["advice"]
    assert (status["uptime_seconds"], status["version"]) == (60.0, "1.2.3")


async def test_unmatched_requests_show(door: Door) -> None:
    """What matched no route has a row of its own once there is some."""
    exchange = Exchange(Moment(asyncio.get_running_loop()), 0.0, "id-2", "GET", "/nowhere")
    exchange.status, exchange.error = 404, "Gateway.RouteNotFound"
    door.view.metrics.observe(exchange, 0.01)

    status = json.loads((await door.get("/status"))[2])

    assert [route["name"] for route in status["routes"]] == ["poetry", "-"]
    assert status["routes"][1]["errors"] == {"Gateway.RouteNotFound": 1}


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/status", "/nothing/here"])
async def test_every_answer_is_protected(door: Door, path: str) -> None:
    """No answer may be sniffed, framed, stored or read by another site's page, and none tells what serves it."""
    _, headers, _ = await door.get(path, headers={"Origin": "https://evil.example"})

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "modelarts-gateway"
    assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_read_only(door: Door, method: str) -> None:
    """There is nothing to change here."""
    status, headers, _ = await door.get("/status", method)

    assert status == 405
    assert headers["Allow"] == "GET,HEAD"


async def test_head(door: Door) -> None:
    """HEAD answers as GET does, without the body."""
    status, _, text = await door.get("/readyz", "HEAD")

    assert (status, text) == (200, "")


async def test_unknown_path(door: Door) -> None:
    """404 tells what there is."""
    status, _, text = await door.get("/health")

    assert status == 404
    assert "/healthz" in json.loads(text)["error"]


async def test_page(door: Door) -> None:
    """The page is whole in itself: its policy lets nothing in from anywhere, and it names no other address."""
    status, headers, text = await door.get("/")

    policy = headers["Content-Security-Policy"]
    assert status == 200
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.findall(r"https?://|//[a-z]", re.sub(r"//.*", "", text))
    assert not re.findall(r"\son[a-z]+=|\sstyle=|innerHTML|eval\(", text)


async def test_a_name_with_two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stands for several addresses, as localhost may, is listened on at each."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def found(*_: object, **__: object) -> list[Any]:  # Any: as getaddrinfo answers
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (1, 2)]

    monkeypatch.setattr(loop, "getaddrinfo", found)
    listener = AdminListener(View())
    await listener.start(Address("localhost", port))

    for host in ("127.0.0.1", "127.0.0.2"):
        with socket.create_connection((host, port)):
            pass
    await listener.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_for_a_route(door: Door, method: str) -> None:
    """A caller that was given the admin address reads which one is meant for it."""
    status, headers, text = await door.get("/maas/v1/chat/completions", method)

    assert status == (404 if method == "GET" else 405)
    assert headers.get("Allow") == (None if method == "GET" else "GET,HEAD")
    assert "Routes are at the address under listen." in json.loads(text)["error"]


async def test_port_in_use() -> None:
    """A port in use has a message for whoever starts the listener, which names it once and says what to do, and leaves nothing behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listener = AdminListener(View())
        with pytest.raises(PortInUse) as caught:
            await listener.start(Address("127.0.0.1", port))

    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port} (admin): Address already in use;"
        " stop the program that listens there (`ss -ltnp` shows it), or give admin another address"
    )


async def test_unix_socket_in_use(tmp_path: Path) -> None:
    """A Unix socket that another gateway answers on stays that one's."""
    first, second = AdminListener(View()), AdminListener(View())
    address = Address(unix_path=str(tmp_path / "admin.sock"))
    await first.start(address)

    with pytest.raises(PortInUse, match="in use"):
        await second.start(address)
    reader, writer = await asyncio.open_unix_connection(address.unix_path)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await first.close()


async def test_unix_socket(tmp_path: Path) -> None:
    """The listener may be a Unix socket."""
    path = str(tmp_path / "admin.sock")
    listener = AdminListener(View())
    await listener.start(Address(unix_path=path))

    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
        session.get("http://admin/healthz") as response,
    ):
        assert response.status == 200
    await listener.close()


def test_a_new_process_waits_for_every_credential() -> None:
    """Not ready while any credential is unusable, with its reason; ready when all are."""
    readiness = Readiness()

    assert readiness.judge({"a": FRESH, "b": BROKEN}, draining=False) == Verdict(
        False, ["credential b: held for 15 min (IAM answered 401)"], []
    )
    assert readiness.judge({"a": FRESH, "b": FRESH}, draining=False) == Verdict(True, [], [])


def test_once_ready_one_is_enough() -> None:
    """One locked key does not take every route away; all of them do, and the first that is back brings it back."""
    readiness = Readiness()
    readiness.judge({"a": FRESH, "b": FRESH}, draining=False)
    described = "credential b: held for 15 min (IAM answered 401)"

    assert readiness.judge({"a": FRESH, "b": BROKEN}, draining=False) == Verdict(True, [], [described])
    assert readiness.judge({"a": BROKEN, "b": BROKEN}, draining=False).ready is False
    assert readiness.judge({"a": FRESH, "b": BROKEN}, draining=False) == Verdict(True, [], [described])


def test_draining_is_not_ready() -> None:
    """Told to stop, it is not ready, whatever its credentials."""
    ready, reasons, _ = Readiness().judge({"a": FRESH}, draining=True)

    assert not ready
    assert "draining" in reasons[0]


def test_without_credentials_it_is_ready() -> None:
    """Routes that take no credential need none."""
    assert Readiness().judge({}, draining=False) == Verdict(True, [], [])
