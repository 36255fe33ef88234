"""Rendered manifests, and a pod's file system as its volumes make it."""

import base64
import functools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import trustme
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
DOCUMENT = ROOT / "docs/deploying.md"
OLDEST_KUBECTL = 24  # Kubernetes 1.24

Manifest = dict[str, Any]  # Any: YAML

# Overlays as they are, and with what their comments offer.
OLD_SIDECAR = ("../../components/sidecar  ", "../../components/sidecar-before-1.29  ")
COMPONENTS = (
    "# components:\n#   - ../../components/pod-monitor            # Prometheus Operator\n"
    "#   - ../../components/scale-on-in-flight     # prometheus-adapter",
    "components: [../../components/pod-monitor, ../../components/scale-on-in-flight]",
)
VARIANTS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "service": ("service", ()),
    "service-with-components": ("service", (COMPONENTS,)),
    "egress": ("egress", ()),
    "sidecar": ("sidecar", ()),
    "sidecar-before-1.29": ("sidecar", (OLD_SIDECAR,)),
    "simulator": ("simulator", ()),
}


def need(program: str) -> str:
    """The program's path; without it the test is skipped, which the gate counts as a failure."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@functools.cache
def kubectl() -> str:
    """A kubectl that reads our kustomizations: `labels` with `includeTemplates` came with 1.24."""
    program = need("kubectl")
    done = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True, timeout=30, check=True)
    version = str(json.loads(done.stdout)["clientVersion"]["gitVersion"])
    if int(version.split(".")[1]) < OLDEST_KUBECTL:
        pytest.skip(f"kubectl {version} is too old for deploy/kubernetes: 1.{OLDEST_KUBECTL} or newer is needed")
    return program


def render(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def variant(tmp_path: Path, overlay: str, *replacements: tuple[str, str]) -> Path:
    """A copy of the overlay in which a line of its kustomization is another, as its comments say."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    folder = tmp_path / "kubernetes/overlays" / overlay
    text = (folder / "kustomization.yaml").read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    (folder / "kustomization.yaml").write_text(text)
    return folder


def operator_problems(document: Manifest) -> list[str]:
    """What the Prometheus Operator's schema has against a manifest of one of its kinds."""
    schema = json.loads((ROOT / "tests/deploy/prometheus-operator.json").read_text())
    validator = jsonschema.Draft202012Validator({**schema, "$ref": f"#/$defs/{document['kind']}"})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def of_kind(documents: list[Manifest], kind: str) -> list[Manifest]:
    return [document for document in documents if document["kind"] == kind]


def named(documents: list[Manifest], kind: str, name: str) -> Manifest:
    return next(document for document in of_kind(documents, kind) if document["metadata"]["name"] == name)


def pods(documents: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Name, labels and specification of every Deployment's pods."""
    for deployment in of_kind(documents, "Deployment"):
        template = deployment["spec"]["template"]
        yield deployment["metadata"]["name"], template["metadata"]["labels"], template["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def gateway_pod(documents: list[Manifest]) -> tuple[Manifest, Manifest]:
    """The pod that the gateway runs in, and its container."""
    return next(
        (pod, container)
        for _, _, pod in pods(documents)
        for container in containers(pod)
        if container.get("args") == ["serve"]
    )


def port_of(container: Manifest, name: str | int) -> int:
    """A container's port by name or number, as probes and Services name it."""
    return next(
        int(port["containerPort"]) for port in container["ports"] if name in (port["name"], port["containerPort"])
    )


def shell_blocks(document: Path) -> str:
    """The commands of a document, continued lines joined."""
    blocks = re.findall(r"^```sh(?: \w+)?\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return "".join(blocks).replace("\\\n", " ")


def documented_secrets(namespace: str, files: Mapping[str, str], folder: Path) -> list[Manifest]:
    """What the document's `kubectl create secret` commands for a namespace make of these files, without a cluster."""
    for name, content in files.items():
        (folder / name).write_text(content)
    commands = re.findall(
        rf"^kubectl -n {namespace} create secret (generic|tls) (\S+) (.+)$", shell_blocks(DOCUMENT), re.MULTILINE
    )
    made = []
    for kind, name, options in commands:
        for file in re.findall(r"--from-file=(\S+)", options):
            (folder / file).exists() or (folder / file).write_text(f"the-{file}\n")
        done = subprocess.run(
            [kubectl(), "create", "secret", kind, name, *options.split(), "--dry-run=client", "-o", "yaml"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        made.append(yaml.safe_load(done.stdout))
    return made


def secrets_for(manifests: list[Manifest], folder: Path) -> list[Manifest]:
    """The Secrets of these manifests' namespace, as the document creates them, with what the simulator accepts."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    files = {
        "tls.crt": certificate.cert_chain_pems[0].bytes().decode(),
        "tls.key": certificate.private_key_pem.bytes().decode(),
        "maas-key": "simulated-api-key\n",
        "iam-password": "simulated-password\n",
    }
    return documented_secrets(manifests[-1]["metadata"]["namespace"], files, folder)


def config_path(container: Manifest) -> str:
    """Where a gateway's container finds its configuration."""
    return next(str(entry["value"]) for entry in container["env"] if entry["name"] == "GATEWAY_CONFIG")


def to_simulator(text: str, urls: Mapping[str, str], domain: str, addresses: tuple[str, str] | None = None) -> Manifest:
    """A gateway's configuration with the simulator in the place of the world; at other addresses, if they are given."""
    config: Manifest = yaml.safe_load(text)
    if addresses:
        config["listen"], config["admin"] = addresses
    for credential in config["credentials"].values():
        if credential["kind"] == "iam_token":
            credential.pop("region", None)
            credential["iam_url"] = urls["iam"]
            credential["domain"] = domain
    for route in config["routes"]:
        family = {"flowers": "v1_iam", "maas": "maas"}[route["name"]]
        assert urlsplit(route["upstream"]).path.startswith(urlsplit(urls[family]).path[:10])
        route["upstream"] = urls[family]
    return config


def lay_out(pod: Manifest, container: Manifest, documents: list[Manifest], root: Path) -> None:
    """Write what a container sees of ConfigMaps and Secrets below ``root``, by symlinks as a kubelet does.

    Doing it again changes them as a kubelet does: ``..data`` is replaced in one step.
    """
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        assert "subPath" not in mount, "a file mounted by itself never changes"
        volume = volumes[mount["name"]]
        if "emptyDir" in volume:
            continue
        folder = root / mount["mountPath"].lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        generation = folder / f"..{len(list(folder.glob('..[0-9]*'))) + 1}"
        generation.mkdir()
        for key, content in _content(volume, documents).items():
            (generation / key).write_bytes(content)
            link = folder / key
            link.is_symlink() or link.symlink_to(f"..data/{key}")
        (folder / "..data_tmp").symlink_to(generation.name)
        (folder / "..data_tmp").rename(folder / "..data")


def _content(volume: Manifest, documents: list[Manifest]) -> dict[str, bytes]:
    if "configMap" in volume:
        data = named(documents, "ConfigMap", volume["configMap"]["name"])["data"]
        return {key: text.encode() for key, text in data.items()}
    data = named(documents, "Secret", volume["secret"]["secretName"])["data"]
    return {key: base64.b64decode(text) for key, text in data.items()}
