"""Run the rendered pods with podman: `python -m tests.deploy.play`, as root, after an image was built with podman.

The overlay with the simulator, on the host's network: the same image, user, read-only root, dropped capabilities, memory limit,
mounts and arguments as in a cluster. What podman's `kube play` cannot do is done here: Services are host aliases, probes (it
makes `curl` of them, which the image has not) are asked from outside, Secrets are made by `podman secret`.
"""

import argparse
import base64
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from .manifests import KUBERNETES, Manifest, containers, gateway_pod, of_kind, pods, render

_TRAFFIC, _ADMIN = "http://127.0.0.1:8080", "http://127.0.0.1:8081"
_START_SECONDS = 30.0


def main() -> int:
    """0 when the pods came up, answered and stopped in time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="localhost/modelarts-gateway:dev")
    parser.add_argument("--podman", default="podman", help="with global options, as 'podman --root DIR'")
    arguments = parser.parse_args()
    podman = arguments.podman.split()
    documents = render(KUBERNETES / "overlays/simulator")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pods.yaml"
        path.write_text(yaml.safe_dump_all(playable(documents, arguments.image)))
        for secret in of_kind(documents, "Secret"):
            run(podman, "secret", "create", secret["metadata"]["name"], "-", given=as_given(podman, secret))
        try:
            run(podman, "kube", "play", "--network=host", str(path))
            return look(podman, documents)
        finally:
            run(podman, "kube", "down", str(path), check=False)
            for kind, what in (("Secret", "secret"), ("Secret", "volume"), ("ConfigMap", "volume")):
                for document in of_kind(documents, kind):  # podman would keep both, and play yesterday's content
                    run(podman, what, "rm", document["metadata"]["name"], check=False)


def as_given(podman: list[str], secret: Manifest) -> str:
    """The Secret as `podman secret create` is given it: Debian 12's podman mounts its values without decoding them."""
    if " 4.3." in run(podman, "--version"):
        secret = {**secret, "data": {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}}
    return json.dumps(secret)


def playable(documents: list[Manifest], image: str) -> list[Manifest]:
    """The ConfigMaps and Deployments, as podman takes them; a Service's name becomes loopback."""
    for config_map in of_kind(documents, "ConfigMap"):
        for key, text in config_map["data"].items():
            config_map["data"][key] = text.replace("modelarts-simulator:", "127.0.0.1:")
    for _, _, pod in pods(documents):
        for volume in pod.get("volumes", []):
            for kind in {"secret", "configMap"} & set(volume):
                volume[kind].setdefault("optional", False)  # podman 4.3 falls over its absence
        for container in containers(pod):
            container["image"] = image
            for what in ("startupProbe", "livenessProbe", "readinessProbe", "ports"):  # no ports on the host's network
                container.pop(what, None)
    return [*of_kind(documents, "ConfigMap"), *of_kind(documents, "Deployment")]


def look(podman: list[str], documents: list[Manifest]) -> int:
    """Ask what a cluster and a caller would ask, then stop it as a cluster does."""
    until_ready()
    name = next(
        line
        for line in run(podman, "ps", "--format", "{{.Names}}").splitlines()
        if line.startswith("modelarts-gateway") and line.endswith("-gateway")
    )
    found = {
        "healthz": status(f"{_ADMIN}/healthz"),
        "flowers, by token": status(f"{_TRAFFIC}/flowers", b"{}"),
        "maas, by key": status(f"{_TRAFFIC}/maas/v1/models"),
        "user": run(podman, "exec", name, "id", "-u").strip(),
        "root is read-only": run(podman, "inspect", name, "--format", "{{.HostConfig.ReadonlyRootfs}}").strip(),
        "capabilities": run(podman, "inspect", name, "--format", "{{.EffectiveCaps}}").strip(),
        "memory limit": run(podman, "inspect", name, "--format", "{{.HostConfig.Memory}}").strip(),
    }
    pod, _ = gateway_pod(documents)
    began = time.monotonic()
    run(podman, "stop", "--time", str(pod["terminationGracePeriodSeconds"]), name)
    found["seconds to stop"] = round(time.monotonic() - began)
    found["exit status"] = run(podman, "inspect", name, "--format", "{{.State.ExitCode}}").strip()
    for what, value in found.items():
        print(f"{what:20} {value}")
    right = {
        "healthz": 200,
        "flowers, by token": 200,
        "maas, by key": 200,
        "user": "10001",
        "root is read-only": "true",
        "capabilities": "[]",
        "memory limit": str(512 * 1024 * 1024),
        "exit status": "0",
    }
    wrong = [what for what, value in right.items() if found[what] != value]
    print(f"not as it should be: {', '.join(wrong)}" if wrong else "all as it should be")
    return 1 if wrong else 0


def until_ready() -> None:
    """Wait for readiness, as a rollout does."""
    end = time.monotonic() + _START_SECONDS
    while status(f"{_ADMIN}/readyz") != 200:
        if time.monotonic() > end:
            sys.exit("the gateway did not become ready")
        time.sleep(0.2)


def status(url: str, body: bytes | None = None) -> int:
    """The status of an answer, 0 without one."""
    fields = {"Content-Type": "application/json"} if body is not None else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, fields), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def run(podman: list[str], *arguments: str, given: str | None = None, check: bool = True) -> str:
    """What a podman command prints; what it complains about goes to stderr."""
    done = subprocess.run([*podman, *arguments], input=given, capture_output=True, text=True, timeout=120, check=False)
    if check and done.returncode:
        sys.exit(f"{' '.join([*podman, *arguments])}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
