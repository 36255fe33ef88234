"""Run the rendered pods with podman: `make pod-test`, as root. Every overlay, against the simulator's own pod.

Image, user, read-only root, dropped capabilities, memory limit, mounts and arguments are those of a cluster. What podman's
`kube play` cannot do is done here: Services are loopback (the pods share the host's network), probes are asked from outside
(podman makes `curl` of them, which the image has not), Secrets are made by `podman secret`, and a native sidecar, which
podman would wait for, is an ordinary container.
"""

import argparse
import base64
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .engine import free, run, status, until, verdict
from .manifests import (
    KUBERNETES,
    VARIANTS,
    Manifest,
    config_path,
    containers,
    gateway_pod,
    named,
    of_kind,
    pods,
    port_of,
    render,
    secrets_for,
    to_simulator,
    variant,
)

SIMULATOR = "http://127.0.0.1:9000"
URLS = {"iam": SIMULATOR, "maas": SIMULATOR, "v1_iam": f"{SIMULATOR}/v1/infers/51aa7ed0-0001-4a00-8000-000000000001"}
_WRITES = "import sys\ntry: open(sys.argv[1] + '/written', 'w')\nexcept OSError as error: print(error.strerror)\nelse: print('yes')"


def main() -> int:
    """0 when every pod came up, answered and stopped as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="localhost/modelarts-gateway:dev", help="one that podman has")
    parser.add_argument("--podman", default="podman", help="with global options, as 'podman --root DIR'")
    parser.add_argument("variants", nargs="*", default=VARIANTS, help=f"of {', '.join(VARIANTS)}; default all")
    arguments = parser.parse_args()
    podman = arguments.podman.split()
    free(8080, 8081, 9000, 18080, 18081)
    in_cluster = render(KUBERNETES / "overlays/simulator")
    simulator = [one for one in in_cluster if one["metadata"]["name"] == "modelarts-simulator"]
    right = True
    with (
        tempfile.TemporaryDirectory() as folder,
        played(podman, simulator, arguments.image, Path(folder) / "simulator"),
    ):
        until("the simulator", lambda: status(f"{SIMULATOR}/v1/models") != 0)
        for name in arguments.variants:
            print(f"== {name}", flush=True)
            documents = in_cluster if name == "simulator" else overlay(name, Path(folder) / name)
            documents = [one for one in documents if one not in simulator]
            with played(podman, documents, arguments.image, Path(folder) / f"{name}-pods"):
                right &= verdict(look(podman, documents))
    print("all as it should be" if right else "NOT all as it should be")
    return 0 if right else 1


def overlay(name: str, folder: Path) -> list[Manifest]:
    """The manifests of a variant and its Secrets, its configuration led to the simulator."""
    folder.mkdir()
    documents = render(variant(folder, VARIANTS[name][0], *VARIANTS[name][1]))
    documents += secrets_for(documents, folder)
    data = mounted(documents)["data"]
    data["gateway.yaml"] = yaml.safe_dump(to_simulator(data["gateway.yaml"], URLS, "simulated-account"))
    return documents


def mounted(documents: list[Manifest]) -> Manifest:
    """The ConfigMap that the gateway's container has."""
    pod, _ = gateway_pod(documents)
    name = next(volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume)
    return named(documents, "ConfigMap", name)


@contextlib.contextmanager
def played(podman: list[str], documents: list[Manifest], image: str, folder: Path) -> Iterator[None]:
    """The pods while they run; afterwards nothing of them is left."""
    folder.mkdir()
    path = folder / "pods.yaml"
    path.write_text(yaml.safe_dump_all(playable(documents, image)))
    for secret in of_kind(documents, "Secret"):
        run(*podman, "secret", "create", secret["metadata"]["name"], "-", given=as_given(podman, secret))
    try:
        run(*podman, "kube", "play", "--network=host", str(path))
        yield
    finally:
        run(*podman, "kube", "down", str(path), check=False)
        for kind, what in (("Secret", "secret"), ("Secret", "volume"), ("ConfigMap", "volume")):
            for document in of_kind(documents, kind):  # podman would keep both, and play yesterday's content
                run(*podman, what, "rm", document["metadata"]["name"], check=False)


def as_given(podman: list[str], secret: Manifest) -> str:
    """The Secret as `podman secret create` is given it: Debian 12's podman mounts its values without decoding them."""
    if " 4.3." in run(*podman, "--version"):
        secret = {**secret, "data": {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}}
    return json.dumps(secret)


def playable(documents: list[Manifest], image: str) -> list[Manifest]:
    """The ConfigMaps and Deployments, as podman takes them; a Service's name becomes loopback."""
    documents = json.loads(json.dumps([*of_kind(documents, "ConfigMap"), *of_kind(documents, "Deployment")]))
    for config_map in of_kind(documents, "ConfigMap"):
        for key, text in config_map["data"].items():
            config_map["data"][key] = text.replace("modelarts-simulator:", "127.0.0.1:")
    for _, _, pod in pods(documents):
        pod["containers"] = [*pod.pop("initContainers", []), *pod["containers"]]
        for volume in pod.get("volumes", []):
            for kind in {"secret", "configMap"} & set(volume):
                volume[kind].setdefault("optional", False)  # podman 4.3 falls over its absence
        for container in pod["containers"]:
            container["image"] = image
            for what in ("startupProbe", "livenessProbe", "readinessProbe", "ports", "restartPolicy", "lifecycle"):
                container.pop(what, None)
    return documents


def look(podman: list[str], documents: list[Manifest]) -> list[tuple[str, object, object]]:
    """Ask what a kubelet and a caller would ask, change the ConfigMap, then stop it as a cluster does."""
    pod, container = gateway_pod(documents)
    config = yaml.safe_load(mounted(documents)["data"]["gateway.yaml"])
    admin, traffic = (f"http://127.0.0.1:{config[key].rpartition(':')[2]}" for key in ("admin", "listen"))
    if "tls" in config:
        traffic = traffic.replace("http:", "https:")
    until("readiness", lambda: status(f"{admin}/readyz") == 200)
    name = next(
        line
        for line in run(*podman, "ps", "--format", "{{.Names}}").splitlines()
        if line.endswith(f"-{container['name']}")
    )

    def inspect(what: str) -> str:
        return run(*podman, "inspect", name, "--format", f"{{{{{what}}}}}").strip()

    rows: list[tuple[str, object, object]] = []
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if kind in container:
            get = container[kind]["httpGet"]
            asked = f"http://127.0.0.1:{port_of(container, get['port'])}{get['path']}"
            rows.append((f"{kind} {asked}", status(asked), 200))
    rows += answers(config, traffic)
    if any(one["name"] == "application" for one in containers(pod)):
        application = name.replace(container["name"], "application")
        until("the application's answer", lambda: "200" in run(*podman, "logs", application).split())
        rows.append(("the application's own request", 200, 200))
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 1024 * 1024
    rows += [
        ("user", run(*podman, "exec", name, "id", "-u").strip(), "10001"),
        ("capabilities", inspect(".EffectiveCaps"), "[]"),
        ("memory limit", inspect(".HostConfig.Memory"), str(limit)),
        ("writes /", run(*podman, "exec", name, "python3", "-c", _WRITES, "/").strip(), "Read-only file system"),
        ("writes /tmp", run(*podman, "exec", name, "python3", "-c", _WRITES, "/tmp").strip(), "yes"),
        ("takes a changed ConfigMap", changed(podman, documents, config, traffic), True),
    ]
    began = time.monotonic()
    grace_seconds = pod.get("terminationGracePeriodSeconds", 30)
    run(*podman, "stop", "--time", str(grace_seconds), name)
    rows.append(("stops within its grace period", time.monotonic() - began < grace_seconds, True))
    rows.append(("exit status after SIGTERM", inspect(".State.ExitCode"), "0"))
    return rows


def answers(config: dict[str, Any], traffic: str) -> list[tuple[str, object, object]]:
    """A request for each route; where callers are listed also one without a token."""
    ours = {"Authorization": "Bearer the-research"} if "callers" in config else {}
    rows: list[tuple[str, object, object]] = []
    for route in config["routes"]:
        path, body = ("/flowers", b"{}") if route["name"] == "flowers" else ("/maas/v1/models", None)
        rows.append((f"{traffic}{path}", status(f"{traffic}{path}", body, ours), 200))
    if ours:
        rows.append(("without a caller's token", status(f"{traffic}/maas/v1/models"), 401))
    return rows


def changed(podman: list[str], documents: list[Manifest], config: dict[str, Any], traffic: str) -> bool:
    """Whether the running gateway takes a new path of a route from its ConfigMap, which podman keeps as a volume."""
    config["routes"][-1]["path"] = "/renamed"
    folder = run(*podman, "volume", "inspect", mounted(documents)["metadata"]["name"], "--format", "{{.Mountpoint}}")
    new = Path(folder.strip()) / "new"
    text = yaml.safe_dump(config).replace("modelarts-simulator:", "127.0.0.1:")
    new.write_text(text)
    new.rename(new.with_name(Path(config_path(gateway_pod(documents)[1])).name))
    until("the changed ConfigMap", lambda: status(f"{traffic}/renamed/v1/models") in {200, 401})
    return True


if __name__ == "__main__":
    sys.exit(main())
