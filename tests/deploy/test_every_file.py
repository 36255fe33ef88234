"""Nothing lies in deploy/ that nobody runs: each file is part of something that a test or a make target starts."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .manifests import DOCUMENT, KUBERNETES, ROOT, VARIANTS, variant

DEPLOY = ROOT / "deploy"
_ROW = re.compile(r"^\| `(deploy/[^|]*)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)


def files(folder: Path) -> set[Path]:
    """The files of a folder as git knows them; all of them where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        return {ROOT / name for name in done.stdout.split("\0") if name}
    return {path for path in folder.rglob("*") if path.is_file()}


def rows() -> list[tuple[list[Path], str, str]]:
    """Folders, tests and make targets of the table in docs/deploying.md."""
    return [
        ([ROOT / folder for folder in re.findall(r"`(deploy/[\w/]+)`", f"`{row[0]}")], row[1], row[2])
        for row in _ROW.findall(DOCUMENT.read_text())
    ]


def test_every_folder_has_its_trial() -> None:
    """Each file is below a folder of the table that says what runs it; the tests and targets that it names exist."""
    untried = {path for path in files(DEPLOY) if not any(path.is_relative_to(at) for row in rows() for at in row[0])}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert untried == set()
    for folders, tests, made in rows():
        named = re.findall(r"`(tests/[\w/]+\.py)`", tests)
        assert named
        for folder in folders:
            assert folder.is_dir()
            assert any(folder.name in (ROOT / name).read_text() for name in named), folder
        assert set(re.findall(r"`make ([a-z-]+)`", made)) <= targets


def reached(folder: Path, seen: set[Path]) -> None:
    """Everything that a kustomization is made of."""
    path = folder / "kustomization.yaml"
    seen.add(path)
    document: dict[str, Any] = yaml.safe_load(path.read_text())  # Any: YAML
    for entry in [*document.get("resources", []), *document.get("components", [])]:
        below = Path(os.path.normpath(folder / entry))
        if below.is_dir():
            reached(below, seen)
        else:
            seen.add(below)
    seen |= {folder / patch["path"] for patch in document.get("patches", []) if "path" in patch}
    seen |= {folder / name for made in document.get("configMapGenerator", []) for name in made["files"]}


def test_every_manifest_is_in_a_variant(tmp_path: Path) -> None:
    """The overlays and offers that are tried are made of every file of deploy/kubernetes."""
    tried: set[Path] = set()
    for name, (overlay, replacements) in VARIANTS.items():
        seen: set[Path] = set()
        reached(variant(tmp_path / name, overlay, *replacements), seen)
        tried |= {path.relative_to(tmp_path / name / "kubernetes") for path in seen}

    assert {path.relative_to(KUBERNETES) for path in files(KUBERNETES)} - tried == set()


def test_compose_has_no_file_too_many() -> None:
    """Every file of deploy/compose is mounted by a service, every secret named by the configuration."""
    folder = DEPLOY / "compose"
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    mounts = [
        Path(os.path.normpath(folder / mount.split(":")[0]))
        for service in services.values()
        for mount in service.get("volumes", [])
    ]
    config = (folder / "gateway/gateway.yaml").read_text()

    unmounted = {path for path in files(folder) if not any(path.is_relative_to(mount) for mount in mounts)}
    assert unmounted == {folder / "compose.yaml"}
    for secret in files(folder / "gateway/secrets"):
        assert f"file: secrets/{secret.name}}}" in config


@pytest.mark.parametrize("name", ["image-test", "systemd-test"])
def test_scripts_belong_to_targets(name: str) -> None:
    """Each script of a trial is started by the target of its name."""
    assert f".ci/{name}" in (ROOT / "Makefile").read_text().split(f"\n{name}:")[1].split("\n\n")[0]
