"""gateway.tracing: spans as a collector receives them, and nothing at all unless it is asked for."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fake_modelarts import Call, FakeModelArts
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from running import StartGateway, StartProcess, document, free_port, route

from gateway import tracing
from gateway.simulator import Simulator
from gateway.simulator.faults import Planned

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
OPTIONS = {"code": {"kind": "app_code", "app_code": {"env": "CODE"}}}
SERVER, CLIENT, INTERNAL, ERROR = 2, 3, 1, 2


class Span:
    """A span as it was received."""

    def __init__(self, span: Any, resource: dict[str, str]) -> None:  # Any: generated classes
        self.name = span.name
        self.kind = span.kind
        self.trace = span.trace_id.hex()
        self.id = span.span_id.hex()
        self.parent = span.parent_span_id.hex()
        self.began, self.ended = span.start_time_unix_nano, span.end_time_unix_nano
        self.failed = span.status.code == ERROR
        self.failure = span.status.message
        self.attributes = {item.key: item.value.string_value or item.value.int_value for item in span.attributes}
        self.resource = resource

    @property
    def seconds(self) -> float:
        return (self.ended - self.began) / 1e9


class Collector:
    """Takes spans as OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw = b""
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self.server = TestServer(app)

    async def _take(self, request: web.Request) -> web.Response:
        content = await request.read()
        self.raw += content
        for group in ExportTraceServiceRequest.FromString(content).resource_spans:
            resource = {item.key: item.value.string_value for item in group.resource.attributes}
            self.spans += [Span(span, resource) for scope in group.scope_spans for span in scope.spans]
        return web.Response()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        (span,) = self.named(name)
        return span

    def below(self, span: Span) -> Sequence[Span]:
        return sorted((child for child in self.spans if child.parent == span.id), key=lambda child: child.began)


def token_of(modelarts: Simulator) -> dict[str, Any]:  # Any: YAML
    """A credential that the simulator takes."""
    options = modelarts.options
    return {
        "kind": "iam_token",
        "iam_url": modelarts.urls["iam"],
        "domain": options.domain,
        "user": options.user,
        "project": options.project,
        "password": {"env": "PASSWORD"},
    }


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    collector = Collector()
    await collector.server.start_server()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server.port}")
    yield collector
    await collector.server.close()


async def test_a_request(start_gateway: StartGateway, fake: FakeModelArts, collector: Collector) -> None:
    """The caller's trace goes on: its span, ours, our attempt, the upstream; with names and sizes, and no secret, query or header."""
    gateway = await start_gateway(document(route("r", fake.url, "code"), credentials=OPTIONS), {"CODE": "the-code"})

    fields = {"traceparent": TRACEPARENT, "tracestate": "vendor=1", "X-Private": "hidden-header"}
    assert (await gateway.ask("POST", "/r/predict?q=hidden-query", fields, body=b"12345")).status == 200
    await gateway.stop()

    ours = collector.one("POST r")
    assert (ours.kind, ours.trace, ours.parent, ours.failed) == (SERVER, TRACE, PARENT, False)
    assert ours.resource["service.name"] == "modelarts-gateway"
    assert ours.attributes["url.path"] == "/r/predict"
    assert ours.attributes["http.response.status_code"] == 200
    assert ours.attributes["http.request.body.size"] == 5
    (attempt,) = collector.below(ours)
    assert (attempt.kind, attempt.name, attempt.attributes["gateway.credential"]) == (CLIENT, "POST", "code")
    assert fake.last.all("traceparent") == [f"00-{TRACE}-{attempt.id}-01"]
    assert fake.last.all("tracestate") == ["vendor=1"]
    assert "first byte" in [span.name for span in collector.below(attempt)]
    assert ours.began <= attempt.began <= attempt.ended <= ours.ended
    assert b"hidden" not in collector.raw
    assert b"the-code" not in collector.raw


@pytest.mark.parametrize(
    "traceparent",
    [
        pytest.param(None, id="none"),
        pytest.param("00-zz-b7ad6b7169203331-01", id="malformed"),
    ],
)
async def test_a_trace_begins(
    start_gateway: StartGateway, fake: FakeModelArts, collector: Collector, traceparent: str | None
) -> None:
    """Without a trace to go on with, ours is a new one, and the upstream hears of it alone."""
    gateway = await start_gateway(document(route("r", fake.url)))

    fields = {} if traceparent is None else {"traceparent": traceparent, "tracestate": "vendor=1"}
    await gateway.ask("GET", "/r", fields)
    await gateway.stop()

    ours = collector.one("GET r")
    assert ours.parent == ""
    (sent,) = fake.last.all("traceparent")
    assert sent.split("-")[1] == ours.trace
    assert fake.last.all("tracestate") == []


async def test_what_an_attempt_waits_for(
    start_gateway: StartGateway, fake: FakeModelArts, collector: Collector
) -> None:
    """A slow upstream is a long `first byte`."""

    async def slow(call: Call) -> None:
        await call.body()
        await asyncio.sleep(0.2)
        await call.reply()

    fake.behaviour = slow
    gateway = await start_gateway(document(route("r", fake.url)))

    await gateway.ask("POST", "/r", body=b"x")
    await gateway.stop()

    first_byte = collector.one("first byte")
    assert first_byte.kind == INTERNAL
    assert 0.19 < first_byte.seconds < 2
    assert collector.one("POST").seconds >= first_byte.seconds


async def test_a_wait_for_a_credential(
    start_gateway: StartGateway, modelarts: Simulator, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before the first byte is told apart: the credential, then the connection."""
    monkeypatch.setattr(tracing, "_WAITED_SECONDS", 0.0)  # a connection on loopback takes no time
    modelarts.faults.planned.append(Planned("slow=300ms", family="iam"))
    gateway = await start_gateway(
        document(route("r", modelarts.urls["v1_iam"], "token"), credentials={"token": token_of(modelarts)}),
        {"PASSWORD": modelarts.options.password},
    )

    assert (await gateway.ask("POST", "/r/echo", body=b"x")).status == 200
    await gateway.stop()

    waits = collector.below(collector.one("POST"))
    assert [span.name for span in waits] == ["credential", "connect", "first byte"]
    assert 0.2 < waits[0].seconds < 2
    assert collector.one("credential fetch").seconds >= 0.29


async def test_failures(start_gateway: StartGateway, collector: Collector) -> None:
    """Each attempt has its span; what failed is marked, with our code."""
    gateway = await start_gateway(document(route("r", f"http://127.0.0.1:{free_port()}")))

    assert (await gateway.ask("GET", "/r")).status == 502
    assert (await gateway.ask("GET", "/nowhere")).status == 404
    await gateway.stop()

    ours = collector.one("GET r")
    assert ours.failed
    assert ours.attributes["error.type"] == "Gateway.UpstreamUnreachable"
    attempts = collector.below(ours)
    assert [span.attributes["http.request.resend_count"] for span in attempts] == list(range(len(attempts)))
    assert all(span.failed for span in attempts)
    assert len(attempts) == ours.attributes["gateway.attempts"] > 0
    lost = collector.one("GET -")
    assert (lost.failed, lost.attributes["error.type"]) == (False, "Gateway.RouteNotFound")
    assert collector.below(lost) == []


@pytest.mark.parametrize("workers", [1, 2])
async def test_tokens(start_process: StartProcess, modelarts: Simulator, collector: Collector, workers: int) -> None:
    """Fetching a token has a span of its own, by the credential's name, once for all workers."""
    options = modelarts.options
    token = token_of(modelarts)
    gateway = await start_process(
        document(route("r", modelarts.urls["v1_iam"], "token"), credentials={"token": token}, workers=workers),
        {
            "PASSWORD": options.password,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server.port}",
            "OTEL_SERVICE_NAME": "named-by-the-test",
        },
    )
    await gateway.says("a new token was obtained")
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended() == 0

    fetch = collector.one("credential fetch")
    assert (fetch.kind, fetch.attributes, fetch.failed) == (CLIENT, {"gateway.credential": "token"}, False)
    assert fetch.resource["service.name"] == "named-by-the-test"
    assert options.password.encode() not in collector.raw


async def slow_tunnels(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A forward proxy that takes its time."""
    host, _, port = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode().rpartition(":")
    upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
    await asyncio.sleep(0.1)
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def passed(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            sink.write(piece)
        sink.close()

    await asyncio.gather(passed(reader, upstream_writer), passed(upstream_reader, writer))


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_program(
    start_process: StartProcess, modelarts: Simulator, collector: Collector, workers: int
) -> None:
    """The running gateway's spans reach a collector: token, connection and first byte, without query, header or secret."""
    proxy = await asyncio.start_server(slow_tunnels, "127.0.0.1", 0)
    connection = {"proxy": f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"}
    gateway = await start_process(
        document(
            route("r", modelarts.urls["v1_iam"], "token", connection=connection),
            credentials={"token": token_of(modelarts)},
            workers=workers,
        ),
        {
            "PASSWORD": modelarts.options.password,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server.port}",
        },
    )
    await gateway.says("a new token was obtained")

    fields = {"traceparent": TRACEPARENT, "X-Private": "hidden-header", "Cookie": "hidden-cookie"}
    reply = await gateway.ask("POST", "/r/echo?q=hidden-query", fields, body=b"hidden-body")
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended() == 0
    proxy.close()

    assert reply.status == 200
    ours = collector.one("POST r")
    assert (ours.trace, ours.parent, ours.attributes["url.path"]) == (TRACE, PARENT, "/r/echo")
    (attempt,) = collector.below(ours)
    waits = {span.name: span for span in collector.below(attempt)}
    assert {"connect", "first byte"} <= set(waits)
    assert 0.1 <= waits["connect"].seconds < 2
    assert waits["connect"].ended <= waits["first byte"].began
    assert collector.one("credential fetch").attributes == {"gateway.credential": "token"}
    assert b"hidden" not in collector.raw
    assert modelarts.options.password.encode() not in collector.raw


async def test_off_by_default(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Without the variables nothing is traced, and what the caller sent passes untouched."""
    gateway = await start_gateway(document(route("r", fake.url)))

    await gateway.ask("GET", "/r", {"traceparent": TRACEPARENT, "tracestate": "vendor=1"})

    assert fake.last.all("traceparent") == [TRACEPARENT]
    assert fake.last.all("tracestate") == ["vendor=1"]


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        pytest.param({}, "", id="nothing"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, "", id="off"),
        pytest.param(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, "", id="no exporter"
        ),
        pytest.param({"OTEL_TRACES_EXPORTER": "zipkin"}, "has to be otlp", id="another exporter"),
        pytest.param(
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf", id="grpc"
        ),
    ],
)
def test_who_asks_for_it(environ: dict[str, str], said: str, caplog: pytest.LogCaptureFixture) -> None:
    """Only the standard variables turn it on; what we cannot do is said and not guessed at."""
    assert tracing.from_environment(environ) is None
    assert said in caplog.text
    assert bool(said) is bool(caplog.text)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the extra is missing the gateway serves without tracing, and says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    assert tracing.from_environment({"OTEL_TRACES_EXPORTER": "otlp"}) is None
    assert "modelarts-gateway[otel]" in caplog.text


async def test_a_collector_that_is_gone(
    start_gateway: StartGateway,
    fake: FakeModelArts,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests do not notice, the log does, and stopping waits for a second at most."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    gateway = await start_gateway(document(route("r", fake.url)))
    assert (await gateway.ask("GET", "/r")).status == 200

    async with asyncio.timeout(3):
        await gateway.stop()

    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == ["gateway.tracing"]
