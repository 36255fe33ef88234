"""Rendered manifests, and a pod's file system as its volumes make it."""

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
DOCUMENT = ROOT / "docs/deploying.md"

Manifest = dict[str, Any]  # Any: YAML


def need(program: str) -> str:
    """The program's path; without it the test is skipped, which the gate counts as a failure."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def render(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    done = subprocess.run(
        [need("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, timeout=30, check=False
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
            [need("kubectl"), "create", "secret", kind, name, *options.split(), "--dry-run=client", "-o", "yaml"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        made.append(yaml.safe_load(done.stdout))
    return made


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
