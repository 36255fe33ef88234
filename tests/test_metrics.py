"""gateway.metrics: what is counted, what a scrape reads, and how processes add up."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.credentials.base import CredentialState
from gateway.exchange import Exchange
from gateway.metrics import RECENT_ERRORS, Gauges, Metrics, merge, quantile, render, settled, summary
from gateway.story import Moment

NAMES = {
    "gateway_requests_total",
    "gateway_request_duration_seconds_bucket",
    "gateway_upstream_first_byte_seconds_bucket",
    "gateway_requests_in_flight",
    "gateway_request_body_bytes_total",
    "gateway_response_body_bytes_total",
    "gateway_errors_total",
    "gateway_upstream_errors_total",
    "gateway_retries_total",
    "gateway_credential_refreshes_total",
    "gateway_credential_expiry_timestamp_seconds",
    "gateway_credential_usable",
    "gateway_clock_skew_seconds",
    "gateway_upstream_connections",
    "gateway_body_memory_bytes",
    "gateway_config_last_reload_successful",
    "gateway_config_last_reload_success_timestamp_seconds",
    "gateway_worker_restarts_total",
    "gateway_workers",
    "gateway_build_info",
    "process_cpu_seconds_total",
    "python_gc_collections_total",
    "python_info",
}
GAUGES = Gauges(
    credentials={
        "account-token": CredentialState(usable=True, summary="fresh", expiry=5000.0),
        "key": CredentialState(usable=False, summary="held"),
    },
    in_flight={"poetry": 1},
    clock_skew_seconds={"https://a": -90.0},
    upstream_connections={"https://a": {"idle": 3, "busy": 1}},
    breakers={"poetry": "half-open"},
    body_memory_bytes=1024,
    reload_successful=False,
    reload_success_timestamp=1000.0,
    access_log_lines_dropped=2,
    worker_restarts=1,
)


@pytest.fixture
def moment() -> Iterator[Moment]:
    loop = asyncio.new_event_loop()
    yield Moment(loop)
    loop.close()


def make_exchange(moment: Moment, **values: object) -> Exchange:
    exchange = Exchange(moment, 10.0, "id-1", "POST", "/poetry")
    exchange.route, exchange.status, exchange.outcome = "poetry", 200, "complete"
    for name, value in values.items():
        setattr(exchange, name, value)
    return exchange


def scrape(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> float | None:
    return scrape(text).get((name, tuple(sorted(labels.items()))))


def test_names(moment: Moment) -> None:
    """A scrape has every promised metric under its exact name, beside the process's own."""
    metrics = Metrics("1.2.3", ["poetry"], ["account-token"], gauges=lambda: GAUGES)
    metrics.retried("poetry", "connect")
    metrics.observe(make_exchange(moment, error="Gateway.UpstreamTimeout", upstream_class="throttled"), 10.5)

    text, content_type = metrics.text()

    assert content_type.startswith("text/plain; version=0.0.4")
    assert {name for name, _ in scrape(text)} >= NAMES
    assert value(text, "gateway_build_info", version="1.2.3") == 1


def test_one_exchange(moment: Moment) -> None:
    """A finished exchange is counted once in everything it has a part in."""
    metrics = Metrics("1", ["poetry"])

    metrics.observe(make_exchange(moment, request_bytes=300, response_bytes=7, first_byte_seconds=0.2), 10.25)

    text, _ = metrics.text()
    assert value(text, "gateway_requests_total", route="poetry", method="POST", code="200") == 1
    assert value(text, "gateway_request_duration_seconds_bucket", route="poetry", le="0.1") == 0
    assert value(text, "gateway_request_duration_seconds_bucket", route="poetry", le="0.25") == 1
    assert value(text, "gateway_request_duration_seconds_bucket", route="poetry", le="+Inf") == 1
    assert value(text, "gateway_request_duration_seconds_sum", route="poetry") == 0.25
    assert value(text, "gateway_upstream_first_byte_seconds_count", route="poetry") == 1
    assert value(text, "gateway_request_body_bytes_total", route="poetry") == 300
    assert value(text, "gateway_response_body_bytes_total", route="poetry") == 7
    assert value(text, "gateway_errors_total", route="poetry", error="") is None


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        pytest.param({"method": "BREW"}, {"route": "poetry", "method": "other", "code": "200"}, id="unusual method"),
        pytest.param(
            {"method": "post"}, {"route": "poetry", "method": "other", "code": "200"}, id="methods have a case"
        ),
        pytest.param({"route": "-"}, {"route": "-", "method": "POST", "code": "200"}, id="no route matched"),
        pytest.param({"route": "ghost"}, {"route": "-", "method": "POST", "code": "200"}, id="route not configured"),
        pytest.param({"status": 0}, {"route": "poetry", "method": "POST", "code": "499"}, id="no head was sent"),
    ],
)
def test_labels(moment: Moment, values: dict[str, object], labels: dict[str, str]) -> None:
    """Labels come from the configuration and fixed sets, whatever callers send."""
    metrics = Metrics("1", ["poetry"])

    for _ in range(2):
        metrics.observe(make_exchange(moment, **values), 10.1)

    assert value(metrics.text()[0], "gateway_requests_total", **labels) == 2


def test_series_stay_few(moment: Moment) -> None:
    """Ten thousand paths, methods and request ids add no series."""
    metrics = Metrics("1", ["poetry"])
    for number in range(10_000):
        metrics.observe(
            make_exchange(
                moment, path=f"/p{number}", method=f"M{number}", request_id=str(number), error="Gateway.BadPath"
            ),
            10.1,
        )

    assert len(scrape(metrics.text()[0])) < 150


def test_in_flight() -> None:
    """What is in flight is asked for at the scrape; a route that has nothing in flight says 0."""
    text, _ = Metrics("1", ["poetry", "idle"], gauges=lambda: Gauges(in_flight={"poetry": 1})).text()

    assert value(text, "gateway_requests_in_flight", route="poetry") == 1
    assert value(text, "gateway_requests_in_flight", route="idle") == 0
    assert value(text, "gateway_requests_in_flight", route="-") == 0


def test_gauges() -> None:
    """Gauges are asked for at the scrape; a credential that does not expire has no expiry series."""
    text, _ = Metrics("1", gauges=lambda: GAUGES).text()

    assert value(text, "gateway_credential_usable", credential="account-token") == 1
    assert value(text, "gateway_credential_usable", credential="key") == 0
    assert value(text, "gateway_credential_expiry_timestamp_seconds", credential="account-token") == 5000
    assert value(text, "gateway_credential_expiry_timestamp_seconds", credential="key") is None
    assert value(text, "gateway_clock_skew_seconds", upstream="https://a") == -90
    assert value(text, "gateway_upstream_connections", upstream="https://a", state="idle") == 3
    assert value(text, "gateway_body_memory_bytes") == 1024
    assert value(text, "gateway_config_last_reload_successful") == 0
    assert value(text, "gateway_config_last_reload_success_timestamp_seconds") == 1000
    assert value(text, "gateway_access_log_lines_dropped_total") == 2
    assert value(text, "gateway_worker_restarts_total") == 1


def test_refreshes_start_at_zero() -> None:
    """Both results of a refresh are there from the start, so that the first failure is an increase."""
    metrics = Metrics("1", [], ["account-token"])
    metrics.refreshed("account-token", "ok")

    text, _ = metrics.text()

    assert value(text, "gateway_credential_refreshes_total", credential="account-token", result="ok") == 1
    assert value(text, "gateway_credential_refreshes_total", credential="account-token", result="failed") == 0


def test_reload_keeps_counts(moment: Moment) -> None:
    """A reload adds names and takes no count away, not even of a route that is gone."""
    metrics = Metrics("1", ["poetry", "old"])
    metrics.observe(make_exchange(moment), 10.1)
    metrics.observe(make_exchange(moment, route="old"), 10.1)

    metrics.reconfigure(["poetry", "new"], [])
    metrics.observe(make_exchange(moment), 10.1)
    metrics.observe(make_exchange(moment, route="old"), 10.1)

    text, _ = metrics.text()
    assert value(text, "gateway_requests_total", route="poetry", method="POST", code="200") == 2
    assert value(text, "gateway_requests_total", route="old", method="POST", code="200") == 2
    assert value(text, "gateway_request_body_bytes_total", route="new") == 0


def test_recent_errors(moment: Moment) -> None:
    """The last errors are kept with their wall time, and no more than some."""
    metrics = Metrics("1", ["poetry"], wall=lambda: 5000.0, monotonic=lambda: 100.0)
    for number in range(RECENT_ERRORS + 5):
        metrics.observe(
            make_exchange(moment, status=504, error="Gateway.UpstreamTimeout", request_id=f"r{number}"), 90.0
        )
    metrics.observe(make_exchange(moment, status=429, upstream_class="throttled"), 99.0)

    recent = metrics.snapshot()["recent_errors"]

    assert len(recent) == RECENT_ERRORS
    assert recent[-2] == {
        "time": 4990.0,
        "request_id": f"r{RECENT_ERRORS + 4}",
        "route": "poetry",
        "code": 504,
        "error": "Gateway.UpstreamTimeout",
    }
    assert recent[-1]["error"] == "upstream throttled"


def test_workers_add_up(moment: Moment) -> None:
    """Counts, histograms and what is in flight add up over workers; of states, the worst is told."""
    one = Metrics("1", ["poetry"], ["account-token"], gauges=lambda: GAUGES)
    other = Metrics(
        "1",
        ["poetry", "new"],
        ["account-token"],
        gauges=lambda: Gauges(
            credentials={"account-token": CredentialState(usable=False, summary="held", expiry=4000.0)},
            clock_skew_seconds={"https://a": 30.0},
            upstream_connections={"https://a": {"idle": 1}, "https://b": {"busy": 2}},
            breakers={"poetry": "open"},
            in_flight={"poetry": 1},
            body_memory_bytes=1,
            reload_success_timestamp=2000.0,
        ),
    )
    for metrics in (one, other):
        metrics.observe(make_exchange(moment, first_byte_seconds=0.1, error="Gateway.Loop"), 10.5)
        metrics.refreshed("account-token", "ok")

    merged = merge(json.loads(json.dumps(metrics.snapshot())) for metrics in (one, other))

    text, _ = render(merged)
    assert value(text, "gateway_requests_total", route="poetry", method="POST", code="200") == 2
    assert value(text, "gateway_request_duration_seconds_count", route="poetry") == 2
    assert value(text, "gateway_request_duration_seconds_sum", route="poetry") == 1.0
    assert value(text, "gateway_errors_total", route="poetry", error="Gateway.Loop") == 2
    assert value(text, "gateway_requests_in_flight", route="poetry") == 2
    assert value(text, "gateway_requests_in_flight", route="new") == 0
    assert value(text, "gateway_credential_refreshes_total", credential="account-token", result="ok") == 2
    assert value(text, "gateway_credential_usable", credential="account-token") == 0
    assert value(text, "gateway_credential_expiry_timestamp_seconds", credential="account-token") == 4000
    assert value(text, "gateway_clock_skew_seconds", upstream="https://a") == -90
    assert value(text, "gateway_upstream_connections", upstream="https://a", state="idle") == 4
    assert value(text, "gateway_upstream_connections", upstream="https://b", state="busy") == 2
    assert value(text, "gateway_body_memory_bytes") == 1025
    assert value(text, "gateway_config_last_reload_successful") == 0
    assert value(text, "gateway_config_last_reload_success_timestamp_seconds") == 1000
    assert merged["gauges"]["breakers"] == {"poetry": "open"}
    assert len(merged["recent_errors"]) == 2


def test_a_dead_workers_counts_stay(moment: Moment) -> None:
    """What a worker had counted stays when it dies, and nothing of it is in flight any more."""
    dead, alive = Metrics("1", ["poetry"], gauges=lambda: GAUGES), Metrics("1", ["poetry"])
    dead.observe(make_exchange(moment), 10.1)
    alive.observe(make_exchange(moment), 10.1)

    for order in ([settled(dead.snapshot()), alive.snapshot()], [alive.snapshot(), settled(dead.snapshot())]):
        text, _ = render(merge(order))

        assert value(text, "gateway_requests_total", route="poetry", method="POST", code="200") == 2
        assert value(text, "gateway_requests_in_flight", route="poetry") == 0
        assert value(text, "gateway_body_memory_bytes") == 0


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [
        pytest.param([0] * 16, 0.5, None, id="nothing measured"),
        pytest.param([0, 0, 0, 0, 10, *[0] * 11], 0.5, 0.075, id="the middle of the bucket from 50 to 100 ms"),
        pytest.param([99, *[0] * 10, 1, 0, 0, 0, 0], 0.99, 0.005, id="the hundredth does not count"),
        pytest.param([0] * 15 + [3], 0.99, 120.0, id="beyond the last bound"),
    ],
)
def test_quantile(counts: list[int], share: float, seconds: float | None) -> None:
    """Percentiles are estimated inside their bucket."""
    assert quantile(counts, share) == (None if seconds is None else pytest.approx(seconds))


def test_summary(moment: Moment) -> None:
    """People read requests, failures of 500 and up, and milliseconds."""
    metrics = Metrics("1", ["poetry"])
    metrics.observe(make_exchange(moment), 10.08)
    metrics.observe(make_exchange(moment, status=404), 10.08)
    metrics.observe(make_exchange(moment, status=502), 10.08)

    told = summary(metrics.snapshot()["routes"]["poetry"])

    assert (told["requests"], told["failed"], told["first_byte_p50_ms"]) == (3, 1, None)
    assert told["p50_ms"] == pytest.approx(75.0)
