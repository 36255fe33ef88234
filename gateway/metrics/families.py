"""A snapshot as Prometheus reads it."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.metrics.processes import Processes
from gateway.metrics.snapshots import BUCKETS_SECONDS, Snapshot

# All our metric names are of the classic alphabet, so every Prometheus reads the classic format.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(snapshot: Snapshot, workers: Sequence[int] | None = None) -> tuple[bytes, str]:
    """A scrape's answer and its content type. ``process_`` metrics are of this process and ``workers`` (process ids)
    together, ``python_`` metrics of this one alone. Without ``workers`` this process serves."""
    registry = CollectorRegistry()
    registry.register(_SnapshotCollector(snapshot, 1 if workers is None else len(workers)))
    registry.register(Processes(workers or ()))
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return generate_latest(registry), CONTENT_TYPE


class _SnapshotCollector(Collector):
    """Hands the families of one snapshot to the registry; made anew for each scrape."""

    def __init__(self, snapshot: Snapshot, workers: int) -> None:
        self._snapshot = snapshot
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        yield from _request_families(self._snapshot["routes"])
        yield from _credential_families(self._snapshot["refreshes"], self._snapshot["gauges"]["credentials"])
        yield from _process_families(self._snapshot)
        yield GaugeMetricFamily("gateway_workers", "Processes that serve callers now.", value=self._workers)


def _request_families(routes: Snapshot) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "gateway_requests_total",
        "Requests that ended, by the status sent to the caller (499: the caller left before it).",
        labels=["route", "method", "code"],
    )
    for route, counts in routes.items():
        for key, count in counts["requests"].items():
            requests.add_metric([route, *key.split(" ")], count)
    yield requests
    yield _histogram(
        "gateway_request_duration_seconds", "From request head received to last byte answered.", routes, "durations"
    )
    yield _histogram(
        "gateway_upstream_first_byte_seconds",
        "From request sent to the upstream's response head, last attempt.",
        routes,
        "first_bytes",
    )
    for name, help_text, member in (
        ("gateway_request_body_bytes_total", "Request body bytes received from callers.", "request_bytes"),
        ("gateway_response_body_bytes_total", "Response body bytes sent to callers.", "response_bytes"),
    ):
        total = CounterMetricFamily(name, help_text, labels=["route"])
        for route, counts in routes.items():
            total.add_metric([route], counts[member])
        yield total
    for name, help_text, label, member in (
        (
            "gateway_errors_total",
            "Requests the gateway itself refused or failed, by its error_code.",
            "error",
            "errors",
        ),
        (
            "gateway_upstream_errors_total",
            "Errors the upstream answered with, by what their code means.",
            "class",
            "upstream_errors",
        ),
        ("gateway_retries_total", "Attempts after the first, by what made them necessary.", "reason", "retries"),
    ):
        family = CounterMetricFamily(name, help_text, labels=["route", label])
        for route, counts in routes.items():
            for value, count in counts[member].items():
                family.add_metric([route, value], count)
        yield family


def _credential_families(refreshes: Snapshot, credentials: Snapshot) -> Iterator[Metric]:
    refreshed = CounterMetricFamily(
        "gateway_credential_refreshes_total",
        "Attempts to obtain a token, by how they ended.",
        labels=["credential", "result"],
    )
    for credential, results in refreshes.items():
        for result, count in results.items():
            refreshed.add_metric([credential, result], count)
    yield refreshed
    expiry = GaugeMetricFamily(
        "gateway_credential_expiry_timestamp_seconds",
        "When the token in use expires, Unix time; absent for credentials that do not expire.",
        labels=["credential"],
    )
    usable = GaugeMetricFamily(
        "gateway_credential_usable", "1 while requests can be authorised with it.", labels=["credential"]
    )
    for credential, state in credentials.items():
        usable.add_metric([credential], float(state["usable"]))
        if state["expiry"] is not None:
            expiry.add_metric([credential], state["expiry"])
    yield expiry
    yield usable


def _process_families(snapshot: Snapshot) -> Iterator[Metric]:
    gauges = snapshot["gauges"]
    in_flight = GaugeMetricFamily(
        "gateway_requests_in_flight", "Requests being handled now, WebSockets and streams included.", labels=["route"]
    )
    for route, count in gauges["in_flight"].items():
        in_flight.add_metric([route], count)
    yield in_flight
    skew = GaugeMetricFamily(
        "gateway_clock_skew_seconds",
        "The upstream's clock minus ours, as corrected for in signatures; positive: the upstream is ahead.",
        labels=["upstream"],
    )
    for upstream, seconds in gauges["clock_skew_seconds"].items():
        skew.add_metric([upstream], seconds)
    yield skew
    connections = GaugeMetricFamily(
        "gateway_upstream_connections",
        "Open upstream connections, by what they are doing.",
        labels=["upstream", "state"],
    )
    for upstream, states in gauges["upstream_connections"].items():
        for state, count in states.items():
            connections.add_metric([upstream, state], count)
    yield connections
    for name, help_text, value in (
        ("gateway_body_memory_bytes", "Request bodies held in memory now.", gauges["body_memory_bytes"]),
        (
            "gateway_config_last_reload_successful",
            "0 when the configuration file on disk was refused and the one before it serves.",
            float(gauges["reload_successful"]),
        ),
        (
            "gateway_config_last_reload_success_timestamp_seconds",
            "When the configuration that serves was loaded, Unix time.",
            gauges["reload_success_timestamp"],
        ),
    ):
        yield GaugeMetricFamily(name, help_text, value=value)
    yield CounterMetricFamily(
        "gateway_worker_restarts_total", "Workers that died and were started again.", value=snapshot["worker_restarts"]
    )
    yield CounterMetricFamily(
        "gateway_access_log_lines_dropped_total",
        "Access log lines lost because the log's reader or disk did not keep up.",
        value=snapshot["access_log_lines_dropped"],
    )
    yield InfoMetricFamily("gateway_build", "The running version.", value={"version": snapshot["version"]})


def _histogram(name: str, help_text: str, routes: Snapshot, member: str) -> Metric:
    family = HistogramMetricFamily(name, help_text, labels=["route"])
    bounds = [*(repr(bound) for bound in BUCKETS_SECONDS), "+Inf"]
    for route, counts in routes.items():
        buckets = list(zip(bounds, accumulate(counts[member]), strict=True))
        family.add_metric([route], buckets, counts[f"{member}_sum"])
    return family
