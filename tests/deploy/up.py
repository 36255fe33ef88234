"""Bring deploy/compose up for real: `make compose-test`, where an engine and its images are.

Gateway, simulator and Prometheus as the file has them. Where no registry can be reached, Prometheus' image is made of the
program that is installed here, under the name that the file expects: `--prometheus /usr/bin/prometheus --base IMAGE`.
Grafana (profile `dashboard`) is left out: its files are compared with the rest by tests/deploy/test_compose.py.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import yaml

from .engine import free, query, run, status, until, verdict
from .manifests import ROOT

FILE = ROOT / "deploy/compose/compose.yaml"
GATEWAY, ADMIN, PROMETHEUS = (f"http://127.0.0.1:{port}" for port in (8080, 8081, 9090))
# As the published image has it: nobody, who owns the folder of the data.
_RECIPE = """FROM {base}
COPY prometheus /bin/prometheus
RUN mkdir /prometheus && chown 65534:65534 /prometheus
USER 65534
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
"""


def main() -> int:
    """0 when everything came up, answered, was scraped and stopped as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docker", default="docker")
    parser.add_argument("--compose", default="docker compose", help="or docker-compose")
    parser.add_argument("--prometheus", help="a program to make Prometheus' image of")
    parser.add_argument("--base", default="debian:bookworm-slim", help="and the image to put it on")
    arguments = parser.parse_args()
    free(8080, 8081, 9090)
    if arguments.prometheus:
        prometheus_image(arguments.docker, arguments.prometheus, arguments.base)
    compose = [*arguments.compose.split(), "-p", f"gateway-test-{os.getpid()}", "-f", str(FILE)]
    try:
        run(*compose, "up", "--detach")
        right = verdict(look(arguments.docker, compose))
    finally:
        run(*compose, "down", "--volumes", check=False)
    print("all as it should be" if right else "NOT all as it should be")
    return 0 if right else 1


def prometheus_image(docker: str, program: str, base: str) -> None:
    """An image of a program that is here, under the name that the compose file gives."""
    written = yaml.safe_load(FILE.read_text())["services"]["prometheus"]["image"]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(program, folder)
        (Path(folder) / "Dockerfile").write_text(_RECIPE.format(base=base))
        run(
            docker,
            "build",
            "--network=none",
            "--tag",
            os.environ.get("PROMETHEUS_IMAGE", written.split(":-")[1].rstrip("}")),
            folder,
        )


def look(docker: str, compose: list[str]) -> list[tuple[str, object, object]]:
    """Ask what a user would ask, then stop the gateway."""
    until("readiness", lambda: status(f"{ADMIN}/readyz") == 200)
    rows: list[tuple[str, object, object]] = [
        (f"POST {path}", status(f"{GATEWAY}{path}", b"{}"), 200) for path in ("/token", "/signed", "/code")
    ]
    rows.append(("GET /maas/v1/models", status(f"{GATEWAY}/maas/v1/models"), 200))
    until("Prometheus' first look", lambda: query(PROMETHEUS, "up") == ["1"])
    until("the requests in Prometheus", lambda: query(PROMETHEUS, "sum(gateway_requests_total)") == ["4"])
    until("a recording rule", lambda: bool(query(PROMETHEUS, "count(gateway:requests:rate5m)")))
    rows.append(("requests that Prometheus knows of", query(PROMETHEUS, "sum(gateway_requests_total)"), ["4"]))
    names = {name: run(*compose, "ps", "-q", name).strip() for name in ("gateway", "simulator", "prometheus")}

    def inspect(name: str, what: str) -> str:
        return run(docker, "inspect", names[name], "--format", f"{{{{{what}}}}}").strip()

    until("health", lambda: inspect("gateway", ".State.Health.Status") == "healthy")
    rows.append(("the gateway's health", inspect("gateway", ".State.Health.Status"), "healthy"))
    for name in names:
        dropped = json.loads(run(docker, "inspect", names[name]))[0]["HostConfig"]["CapDrop"]
        rows.append(
            (f"{name}: dropped capabilities, restarts", (dropped, inspect(name, ".RestartCount")), (["ALL"], "0"))
        )
    began = time.monotonic()
    run(*compose, "stop", "gateway")
    rows.append(("stops within its grace period", time.monotonic() - began < 60, True))
    rows.append(("exit status after SIGTERM", inspect("gateway", ".State.ExitCode"), "0"))
    until("Prometheus seeing it gone", lambda: query(PROMETHEUS, "up") == ["0"])
    return rows


if __name__ == "__main__":
    sys.exit(main())
