"""Rules and dashboard say something true: they parse, name what the gateway exports, and answer over real data."""

import asyncio
import contextlib
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiohttp
import promql_parser
import pytest
import yaml
from raw_caller import ask
from running import as_process, free_port

from gateway.config.shapes import Process
from gateway.credentials.base import CredentialState
from gateway.exchange import Exchange
from gateway.metrics import Gauges, Metrics
from gateway.refusals import labels
from gateway.simulator import Simulator
from gateway.simulator.example import example_config
from gateway.story import Moment

from .manifests import ROOT, need, operator_problems

FOLDER = ROOT / "deploy/monitoring"
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yaml").read_text())  # Any: YAML
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())  # Any: JSON
ALL_RULES = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL_RULES if "alert" in rule}
RECORDS = {rule["record"] for rule in ALL_RULES if "record" in rule}
# What Prometheus makes itself, and what the client library adds on Linux.
OTHERS = {
    "up",
    "ALERTS",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
}

# Classes of upstream errors that no alert is for: the caller's own, or cured by waiting or by the gateway.
NO_PERSON_NEEDED = {
    "auth_clock_skew",  # corrected; GatewayClockSkew tells
    "auth_expired",  # renewed
    "bad_request",
    "body_too_large",
    "content_filter",
    "headers_too_large",
    "model_error",  # these six count as failed requests, where they are 5xx
    "upstream_internal",
    "upstream_other",
    "upstream_timeout",  # GatewayDeadlinePressure
    "upstream_unavailable",
    "throttled",  # GatewayUpstreamThrottled, where it is not a moment
    "upstream_breaker_open",
    "model_unknown",
    "uri_too_large",
}


@pytest.mark.parametrize(
    "arguments", [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]], ids=" ".join
)
def test_promtool(arguments: list[str]) -> None:
    """promtool takes the rules, and every case of rules_test.yaml comes out as it says."""
    done = subprocess.run(
        [need("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fires", [True, False], ids=["fires", "stays silent"])
def test_every_alert_is_tried(fires: bool) -> None:
    """For each alert there is a case in which it fires and one in which it does not."""
    cases = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    tried = {
        test["alertname"] for case in cases for test in case["alert_rule_test"] if bool(test["exp_alerts"]) is fires
    }

    assert set(ALERTS) - tried == set()


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_a_runbook(name: str) -> None:
    """Each alert says how bad it is and leads to an entry of docs/operating.md that says what to do."""
    alert = ALERTS[name]
    entry = re.search(rf"^### {name}\n(.*?)(?=^##)", (ROOT / "docs/operating.md").read_text() + "\n## ", re.M | re.S)

    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["annotations"]["runbook"] == f"docs/operating.md#{name.lower()}"
    assert entry is not None
    for part in ("**Means**", "**Look**", "**Do**"):
        assert part in entry[1], part


def test_no_runbook_without_alert() -> None:
    """docs/operating.md has no entry for an alert that is gone."""
    entries = re.findall(r"^### (Gateway\w+)$", (ROOT / "docs/operating.md").read_text(), re.MULTILINE)

    assert sorted(entries) == sorted(ALERTS)


def test_every_class_is_thought_of() -> None:
    """Each class of upstream errors belongs to the alert for people, or is known to need nobody."""
    text = (FOLDER / "rules.yaml").read_text()
    groups = re.findall(r'class=~"([a-z_|]+)"\}\[10m', text)
    needed = {name for group in groups for name in group.split("|")}

    assert needed | NO_PERSON_NEEDED == set(labels())
    assert needed & NO_PERSON_NEEDED == set()


def test_saturation_is_of_the_defaults() -> None:
    """The limits that the saturation alert assumes are the gateway's defaults."""
    expression = ALERTS["GatewayNearlySaturated"]["expr"]
    defaults = Process()
    assert defaults.body_memory_bytes is not None

    assert f"gateway_requests_in_flight) / {defaults.in_flight} > 0.8" in expression
    assert f"({defaults.body_memory_bytes // 1024**2} * 1024 * 1024) > 0.8" in expression


def panels() -> Iterator[dict[str, Any]]:  # Any: JSON
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            yield panel


def panel_queries() -> list[Any]:
    """Every query of the dashboard, named by its panel."""
    return [
        pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
        for panel in panels()
        for target in panel["targets"]
    ]


def filled(expression: str) -> str:
    """A query with the dashboard's variables as Grafana fills them in."""
    for name, value in {
        "$__rate_interval": "15s",
        "$__range": "1m",
        "$job": "modelarts-gateway",
        "$instance": ".*",
        "$route": ".*",
    }.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def rule_queries() -> list[Any]:
    return [pytest.param(rule["expr"], id=rule.get("alert") or rule["record"]) for rule in ALL_RULES]


def exported() -> set[str]:
    """Every sample name that the gateway can export, histograms' included."""
    gauges = Gauges(
        credentials={"token": CredentialState(usable=True, summary="", expiry=1.0)},
        clock_skew_seconds={"https://upstream.example.com": 1.0},
        upstream_connections={"https://upstream.example.com": {"idle": 1}},
    )
    metrics = Metrics("0", ["poetry"], ["token"], gauges=lambda: gauges)
    exchange = Exchange(Moment(Mock()), 0.0, "id", "POST", "/poetry")
    exchange.route, exchange.error, exchange.upstream_class = "poetry", "Gateway.Internal", "quota"
    metrics.observe(exchange, 1.0)
    metrics.retried("poetry", "connect")
    return set(re.findall(r"^(gateway_\w+)", metrics.text()[0].decode(), re.MULTILINE))


def selectors(node: Any) -> Iterator[str]:  # Any: the parser's nodes have no common type
    """The metric names in a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name
    for attribute in ("lhs", "rhs", "expr", "args", "param", "vector_selector"):
        below = getattr(node, attribute, None) or []
        for one in below if isinstance(below, list) else [below]:
            yield from selectors(one)


@pytest.mark.parametrize("expression", [*panel_queries(), *rule_queries()])
def test_query_names_what_exists(expression: str) -> None:
    """Each query of rules and dashboard parses, and every metric in it is one that there is."""
    names = set(selectors(promql_parser.parse(filled(expression))))

    assert names
    assert names - exported() - OTHERS - RECORDS == set()


def test_dashboard_is_whole() -> None:
    """Panels have a title, a unit and an id of their own, and do not lie on each other; every metric family is somewhere."""
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for box in boxes
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    text = json.dumps(DASHBOARD)
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in exported()}

    assert len(cells) == len(set(cells))
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels())
    assert sorted(family for family in families if family not in text) == []


def test_rules_for_the_operator() -> None:
    """The command of docs/deploying.md makes a PrometheusRule of the same rules."""
    command = re.search(r"^(\(cat .+?\)) \| kubectl", (ROOT / "docs/deploying.md").read_text(), re.MULTILINE)
    assert command is not None

    done = subprocess.run(["sh", "-c", command[1]], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)

    made = yaml.safe_load(done.stdout)
    assert (made["kind"], made["spec"]) == ("PrometheusRule", RULES)
    assert operator_problems(made) == []


class Prometheus:
    """A real one on loopback, scraping one gateway every half second."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self, path: str, **parameters: str) -> Any:  # Any: JSON
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/api/v1/{path}", params=parameters) as response,
        ):
            return (await response.json())["data"]

    async def query(self, expression: str) -> list[Any]:
        return list((await self.get("query", query=expression))["result"])

    async def until(self, expression: str, seconds: float = 30) -> None:
        """Wait until a query has a result."""
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    if await self.query(expression):
                        return
                await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def prometheus(admin_port: int, folder: Path) -> AsyncIterator[Prometheus]:
    """compose's Prometheus, here: the same file, sooner, with this gateway as its target."""
    config = yaml.safe_load((ROOT / "deploy/compose/prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(FOLDER / "rules.yaml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{admin_port}"]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            need("prometheus"),
            f"--config.file={folder}/prometheus.yaml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await process.wait()


async def send_of_everything(port: int, simulator: Simulator, stop: asyncio.Event) -> None:
    """Requests of every kind until told to stop: answered, refused here, refused there, sent twice."""
    image = {"Content-Type": "application/octet-stream"}
    while not stop.is_set():
        for path in ("/token", "/aksk", "/app", "/code"):
            await ask(port, "POST", path, image, body=bytes(4096))
        await ask(port, "GET", "/maas/v1/models")
        await ask(port, "GET", "/nowhere")
        await ask(port, "POST", "/code", {"X-Simulate": "throttled"}, body=b"{}")
        await ask(port, "POST", "/code", {"X-Simulate": "status=503"}, body=b"{}")
        simulator.tokens.revoke_all()
        await asyncio.sleep(0.1)


async def test_dashboard_shows_data(modelarts: Simulator, tmp_path: Path) -> None:
    """Over a gateway under load, with a clock that is wrong, every query of the dashboard returns data and every rule evaluates."""
    need("prometheus")
    modelarts.clock_offset_seconds = 1200.0
    path = tmp_path / "gateway.yaml"
    addresses = {key: f"127.0.0.1:{free_port()}" for key in ("listen", "admin")}
    path.write_text(example_config(modelarts.urls, modelarts.credentials, tmp_path / "secrets", **addresses))
    stop = asyncio.Event()

    async with as_process(path, tmp_path) as gateway, prometheus(gateway.admin_port, tmp_path) as watching:
        load = asyncio.create_task(send_of_everything(gateway.port, modelarts, stop))
        try:
            await watching.until("rate(gateway_retries_total[15s]) and on (job) gateway_clock_skew_seconds > 60")
            await watching.until("gateway:failed:ratio5m > 0")
            queries = {query.id: filled(str(query.values[0])) for query in panel_queries()}
            empty = [name for name, query in queries.items() if not await watching.query(query)]
            rules = [rule for group in (await watching.get("rules"))["groups"] for rule in group["rules"]]
        finally:
            stop.set()
            await load

    assert empty == []
    assert len(rules) == len(ALL_RULES)
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
    states = {rule["name"]: rule["state"] for rule in rules if rule["type"] == "alerting"}
    assert states["GatewayClockSkew"] == "pending"
    assert states["GatewayGone"] == states["GatewayCredentialUnusable"] == "inactive"
