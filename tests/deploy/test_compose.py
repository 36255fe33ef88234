"""The compose file agrees with the program: its commands run, its configuration serves, its files are there."""

import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from raw_caller import ask
from running import as_process, free_port

from gateway.config import load
from gateway.credentials import kinds
from gateway.simulator import Simulator

from .manifests import ROOT, need

FOLDER = ROOT / "deploy/compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())  # Any: YAML
SERVICES = COMPOSE["services"]
CONFIG = FOLDER / "gateway/gateway.yaml"


def test_compose_takes_it() -> None:
    """docker-compose itself reads the file, every profile included."""
    command = [need("docker-compose"), "-f", str(FOLDER / "compose.yaml"), "--profile", "dashboard", "config", "-q"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_service(name: str) -> None:
    """Every service is confined, publishes on loopback alone, and mounts what exists."""
    service = SERVICES[name]
    mounts = [mount.split(":")[:2] for mount in service.get("volumes", [])]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for source, _ in mounts:
        assert (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], source
    if name in ("gateway", "simulator"):
        assert service["read_only"] is True
        assert service["image"] == "${IMAGE:-modelarts-gateway:dev}"


def test_gateway_is_where_it_says() -> None:
    """The published ports are those of the configuration, and it may finish what it has begun."""
    gateway = SERVICES["gateway"]
    config = load(CONFIG, kinds(), environ={})
    published = {port.rpartition(":")[2] for port in gateway["ports"]}

    assert gateway["command"] == ["serve"]
    assert gateway["volumes"] == ["./gateway:/etc/gateway:ro"]
    assert published == {str(config.listen.port), str(config.admin.port)}
    assert (config.listen.host, config.admin.host) == ("0.0.0.0", "0.0.0.0")
    assert config.process.drain_seconds is not None
    grace_seconds = int(gateway["stop_grace_period"].removesuffix("s"))
    assert grace_seconds > config.process.drain_delay_seconds + config.process.drain_seconds


def local_config(modelarts: Simulator, folder: Path) -> Path:
    """The configuration, here: free ports, its secrets where they lie, the simulator under its local address."""
    text = CONFIG.read_text().replace("simulator:9000", urlsplit(modelarts.urls["iam"]).netloc)
    text = text.replace("file: secrets/", f"file: {CONFIG.parent}/secrets/")
    text = re.sub(r"0\.0\.0\.0:\d+", lambda _: f"127.0.0.1:{free_port()}", text)
    path = folder / "gateway.yaml"
    path.write_text(text)
    return path


async def test_every_route_answers(modelarts: Simulator, tmp_path: Path) -> None:
    """Gateway and simulator understand each other: each route's request comes back answered."""
    host, _, port = SERVICES["simulator"]["command"][2].rpartition(":")

    assert SERVICES["simulator"]["command"] == ["simulate", "--listen", f"{host}:{port}"]
    assert f"http://simulator:{port}" in CONFIG.read_text()
    async with as_process(local_config(modelarts, tmp_path), tmp_path) as process:
        replies = {
            path: await ask(process.port, "POST", path, {"Content-Type": "application/json"}, body=b"{}")
            for path in ("/token", "/signed", "/code")
        }
        replies["/maas"] = await ask(process.port, "GET", "/maas/v1/models")

    assert {path: reply.status for path, reply in replies.items()} == dict.fromkeys(replies, 200)


def test_prometheus_asks_the_gateway(tmp_path: Path) -> None:
    """Prometheus' configuration is one, scrapes the admin port under the job that the rules expect, and loads the rules."""
    text = (FOLDER / "prometheus.yaml").read_text()
    (job,) = yaml.safe_load(text)["scrape_configs"]
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["prometheus"]["volumes"])
    (tmp_path / "prometheus.yaml").write_text(text.replace("/etc/prometheus/", f"{tmp_path}/"))
    (tmp_path / "rules.yaml").write_text((FOLDER / "../monitoring/rules.yaml").read_text())

    done = subprocess.run(
        [need("promtool"), "check", "config", str(tmp_path / "prometheus.yaml")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert job["job_name"] == "modelarts-gateway"
    assert job["static_configs"] == [{"targets": [f"gateway:{load(CONFIG, kinds(), environ={}).admin.port}"]}]
    assert mounts["./prometheus.yaml"] in SERVICES["prometheus"]["command"][0]
    assert mounts["../monitoring/rules.yaml"] in yaml.safe_load(text)["rule_files"]


def test_grafana_finds_everything() -> None:
    """The data source is the Prometheus next to it, and the dashboard lies where the provider looks."""
    (source,) = yaml.safe_load((FOLDER / "grafana-datasource.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((FOLDER / "grafana-dashboards.yaml").read_text())["providers"]
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])

    assert source["url"] == f"http://prometheus:{SERVICES['prometheus']['ports'][0].rpartition(':')[2]}"
    assert Path(mounts["../monitoring/dashboard.json"]).parent == Path(provider["options"]["path"])
