"""OpenTelemetry traces: off unless the ``otel`` extra is installed and the standard environment variables ask for it.

One SERVER span per request, one CLIENT span per attempt below it, and below that what the attempt waited for: a
credential, a connection, the first byte. Names, sizes and codes alone go into spans; no query and no header does.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from gateway.exchange import Exchange, Phase
from gateway.story import Moment
from gateway.wire.request_head import RequestHead

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from gateway.outbound import Outbound

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# What is left to send when the gateway stops may take this long; a collector that is gone does not hold up a restart.
_FLUSH_SECONDS = 1.0
# An attempt that waited less than this for a credential or connection did not wait: most spans would say nothing.
_WAITED_SECONDS = 0.001
_WAITS = {Phase.HOLDING: "body memory", Phase.CREDENTIAL: "credential", Phase.CONNECTING: "connect"}
# What continues a trace (W3C Trace Context): ours takes the place of the caller's.
_CARRIED = (b"traceparent", b"tracestate")


class TracedExchange(Exchange):
    """An exchange that remembers when it went from one phase to the next, for each of its attempts."""

    def __init__(self, moment: Moment, arrived: float, request_id: str, method: str, path: str) -> None:
        super().__init__(moment, arrived, request_id, method, path)
        self.span: Span | None = None
        self.attempt: Span | None = None
        self.marks: list[tuple[int, float]] = []  # phases of the attempt under way, and when they began
        self.zero_ns = _zero_ns()  # one for all its instants, so that children lie within their parents
        self._phase: int = Phase.CREDENTIAL

    @property
    def phase(self) -> int:
        return self._phase

    @phase.setter
    def phase(self, phase: int) -> None:
        self._phase = phase
        self.marks.append((phase, time.monotonic()))

    def unix_ns(self, instant: float) -> int:
        """An instant as OpenTelemetry has it: nanoseconds of Unix time."""
        return self.zero_ns + int(instant * 1e9)


class Tracer:
    """Makes spans of exchanges. Instants given to it are ``time.monotonic()`` seconds."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._api = trace
        self._tracer = provider.get_tracer("gateway")
        self._propagator = TraceContextTextMapPropagator()

    # proxy.Tracer

    writes: Collection[bytes] = _CARRIED

    def open(self, moment: Moment, arrived: float, request_id: str, head: RequestHead) -> TracedExchange:
        """The record of a request, its span begun: as part of the trace that the caller's ``traceparent`` names, if any."""
        exchange = TracedExchange(moment, arrived, request_id, head.method, head.raw_path)
        exchange.span = self._tracer.start_span(
            head.method,
            context=self._propagator.extract(_carried(head)),
            kind=self._api.SpanKind.SERVER,
            start_time=exchange.unix_ns(arrived),
        )
        return exchange

    def attempt(self, exchange: Exchange, outbound: "Outbound") -> None:
        """Begin the span of an attempt; the upstream continues the trace from it."""
        if not isinstance(exchange, TracedExchange) or exchange.span is None:
            return
        now = time.monotonic()
        self._end_attempt(exchange, now)
        outline = outbound.outline
        route = outline.route
        exchange.attempt = self._tracer.start_span(
            outline.method,
            context=self._api.set_span_in_context(exchange.span),
            kind=self._api.SpanKind.CLIENT,
            attributes={
                "http.request.method": outline.method,
                "http.request.resend_count": exchange.attempts - 1,
                "server.address": route.upstream.host,
                "server.port": route.upstream.port,
                "gateway.route": route.name,
                "gateway.credential": route.credential,
            },
            start_time=exchange.unix_ns(now),
        )
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._api.set_span_in_context(exchange.attempt))
        outbound.fields += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in carrier.items()]

    def end(self, exchange: Exchange, ended: float) -> None:
        """The request is over, however it ended."""
        if not isinstance(exchange, TracedExchange) or exchange.span is None:
            return
        self._end_attempt(exchange, ended)
        span = exchange.span
        span.update_name(f"{exchange.method} {exchange.route}")
        span.set_attributes(
            {
                "http.request.method": exchange.method,
                "http.response.status_code": exchange.status,
                "url.path": exchange.path,
                "gateway.route": exchange.route,
                "gateway.request_id": exchange.request_id,
                "gateway.outcome": exchange.outcome,
                "gateway.attempts": exchange.attempts,
                "http.request.body.size": exchange.request_bytes,
                "http.response.body.size": exchange.response_bytes,
                **({"gateway.caller": exchange.caller} if exchange.caller else {}),
            }
        )
        if exchange.error:
            span.set_attribute("error.type", exchange.error)
        # A server's span has failed from 500 up (semantic conventions for HTTP spans, "Status").
        if exchange.status >= 500 or exchange.outcome == "cut":
            span.set_status(self._api.StatusCode.ERROR)
        span.end(exchange.unix_ns(ended))

    def fetched(self, credential: str, began: float, failure: str | None) -> None:
        """An attempt to obtain a token has just ended; ``failure`` says why in words that hold no secret."""
        span = self._tracer.start_span(
            "credential fetch",
            context=self._propagator.extract({}),
            kind=self._api.SpanKind.CLIENT,
            attributes={"gateway.credential": credential},
            start_time=_zero_ns() + int(began * 1e9),
        )
        if failure is not None:
            span.set_status(self._api.StatusCode.ERROR, failure)
        span.end()

    async def close(self) -> None:
        """Send what is left, for a moment."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:  # the loop did not wait
                pass

        # Not the loop's own threads: the interpreter waits for those, and this one for a collector that may be gone.
        threading.Thread(target=shut_down, name="tracing-shutdown", daemon=True).start()
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await done.wait()
        except TimeoutError:
            log.warning("tracing: the collector did not take the last spans within %gs", _FLUSH_SECONDS)

    def _end_attempt(self, exchange: TracedExchange, ended: float) -> None:
        """End the attempt's span, and make those of what it waited for."""
        span, marks = exchange.attempt, exchange.marks
        if span is None:
            # The phases before a first attempt; the last of them is the one that just began.
            exchange.marks = []
            return
        ends = [*(at for _, at in marks[1:]), ended]
        reached = {phase for phase, _ in marks}
        sent = next((at for phase, at in marks if phase in (Phase.SENDING, Phase.WAITING)), None)
        for (phase, began), end in zip(marks, ends, strict=True):
            if phase in _WAITS and end - began >= _WAITED_SECONDS:
                self._child(exchange, span, _WAITS[phase], began, end)
        if sent is not None:
            headed = next((at for phase, at in marks if phase == Phase.ANSWERING), ended)
            self._child(exchange, span, "first byte", sent, headed)
        if Phase.ANSWERING in reached:
            span.set_attribute("http.response.status_code", exchange.upstream_status)
        if exchange.upstream_class:
            span.set_attribute("error.type", exchange.upstream_class)
        # A client's span has failed from 400 up (as above), or where no answer came.
        if Phase.ANSWERING not in reached or exchange.upstream_status >= 400:
            span.set_status(self._api.StatusCode.ERROR)
        span.end(exchange.unix_ns(ended))
        exchange.attempt, exchange.marks = None, []

    def _child(self, exchange: TracedExchange, parent: "Span", name: str, began: float, ended: float) -> None:
        context = self._api.set_span_in_context(parent)
        span = self._tracer.start_span(name, context=context, start_time=exchange.unix_ns(began))
        span.end(exchange.unix_ns(ended))


def from_environment(environ: Mapping[str, str] = os.environ) -> Tracer | None:
    """The tracer that OpenTelemetry's own environment variables describe; None where they ask for none, or in vain."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return None
    if not exporter and not any(environ.get(name) for name in _ENDPOINTS):
        return None
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if exporter not in ("", "otlp") or protocol != "http/protobuf":
        log.warning("no tracing: OTEL_TRACES_EXPORTER has to be otlp, and OTEL_EXPORTER_OTLP_PROTOCOL http/protobuf")
        return None
    try:
        return Tracer(_provider(environ))
    except ImportError:
        log.warning("no tracing: OTEL_ variables ask for it, and the extra is not installed: modelarts-gateway[otel]")
        return None


def _provider(environ: Mapping[str, str]) -> "TracerProvider":
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Reporting(SpanExporter):
        """Says in our own log, once each time it begins, that spans are lost."""

        def __init__(self, exporter: SpanExporter) -> None:
            self._exporter = exporter
            self._failing = False

        def export(self, spans: "Any") -> SpanExportResult:  # Any: the base class changes its mind about it
            batch: list[ReadableSpan] = list(spans)
            result = self._exporter.export(batch)
            failing = result is not SpanExportResult.SUCCESS
            if failing and not self._failing:
                log.warning("tracing: the collector does not take our spans; they are lost until it does")
            self._failing = failing
            return result

        def shutdown(self) -> None:
            self._exporter.shutdown()

    # Its own words quote addresses and foreign errors; Reporting says what there is to say.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    session = requests.Session()
    session.trust_env = False  # neither .netrc nor proxy variables, here as everywhere
    named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(
        resource=Resource.create({} if named else {"service.name": "modelarts-gateway"}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(Reporting(OTLPSpanExporter(session=session))))
    return provider


def _carried(head: RequestHead) -> dict[str, str]:
    """The caller's trace, if it is named exactly once: a repeated ``traceparent`` starts a new one (section 3.2)."""
    found: dict[str, str] = {}
    for line in head.fields.lines:
        name = _name(line)
        if name == b"traceparent" and "traceparent" in found:
            return {}
        if name in _CARRIED:
            value = line.partition(b":")[2].strip().decode("latin-1")
            key = name.decode("ascii")
            found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _name(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()


def _zero_ns() -> int:
    """Unix time, in nanoseconds, when ``time.monotonic()`` was 0."""
    return time.time_ns() - int(time.monotonic() * 1e9)
