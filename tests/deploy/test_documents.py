"""The documents on deploying and scaling can be followed: their files exist, their commands and their arithmetic are right."""

import doctest
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.cli import COMMANDS

from .manifests import KUBERNETES, ROOT, need, render, shell_blocks

DOCUMENTS = [ROOT / "docs" / name for name in ("deploying.md", "operating.md", "scaling.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_exist(document: Path) -> None:
    """Every file of deploy/ and config/ that is mentioned is there."""
    named = re.findall(r"(?<![\w/])((?:deploy|config|requirements)/[\w./-]*\w)", document.read_text())

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_what_is_applied_renders() -> None:
    """Every `kubectl apply -k` of docs/deploying.md renders."""
    folders = re.findall(r"kubectl apply -k (\S+)", shell_blocks(DOCUMENTS[0]))

    assert {Path(folder).name for folder in folders} == {"service", "egress", "sidecar", "simulator"}
    assert all(render(ROOT / folder) for folder in folders)


@pytest.mark.parametrize(
    ("begins", "brings"),
    [
        pytest.param("images:", "image: registry.example.com/platform/modelarts-gateway:0.1.0", id="another image"),
        pytest.param("components:", "listen: 127.0.0.1:18080", id="the sidecar"),
        pytest.param("patches:", "cidr: 10.1.2.3/32", id="a private upstream"),
    ],
)
def test_what_goes_into_a_kustomization_renders(begins: str, brings: str, tmp_path: Path) -> None:
    """The pieces of a kustomization that docs/deploying.md shows do what it says, in an overlay over the service."""
    block = re.search(rf"^```text\n({begins}\n.*?)^```$", DOCUMENTS[0].read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    folder = tmp_path / "kubernetes/overlays/tried"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(f"resources: [../service]\n{block[1]}")

    assert brings in yaml.safe_dump_all(render(folder))


def test_the_adapters_rule_names_our_metric() -> None:
    """The rule for prometheus-adapter is YAML, and asks for the metric by which the component scales."""
    block = re.search(r"^```text\n(rules:.*?)^```$", DOCUMENTS[2].read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    (rule,) = yaml.safe_load(block[1])["rules"]
    component = (KUBERNETES / "components/scale-on-in-flight/kustomization.yaml").read_text()

    assert re.sub(r"\{.*", "", rule["seriesQuery"]) in component


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_shell_reads_the_commands(document: Path) -> None:
    """Every block of commands is one that a shell can read."""
    done = subprocess.run(["sh", "-n"], input=shell_blocks(document), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    """Every make target and every command of the program that is mentioned is one."""
    text = document.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    assert set(re.findall(r"bin/modelarts-gateway (\w+)|`modelarts-gateway (\w+)", text)) <= {
        pair for name in COMMANDS for pair in ((name, ""), ("", name))
    }


def test_rules_commands_succeed() -> None:
    """The promtool commands of docs/deploying.md succeed as they stand there."""
    need("promtool")
    for command in re.findall(r"^promtool check .+$", shell_blocks(DOCUMENTS[0]), re.MULTILINE):
        subprocess.run(["sh", "-c", command], cwd=ROOT, check=True, capture_output=True, timeout=30)


def test_arithmetic() -> None:
    """The numbers of docs/scaling.md come out as they stand there."""
    failed, tried = doctest.testfile(str(DOCUMENTS[2]), module_relative=False)

    assert failed == 0
    assert tried >= 7


MEASURED = {
    "a request, token or key": ("### Small JSON POST", "gateway-token", "CPU µs/request"),
    "a request, signed": ("### Small JSON POST", "gateway-sign", "CPU µs/request"),
    "a GB of bodies": ("### 12 MB uploads", "gateway-token", "CPU s/GB"),
    "a GB of bodies whose hash is signed": ("### 12 MB uploads", "gateway-sign", "CPU s/GB"),
    "an event of a stream": ("### 500 event streams", "gateway-token", "CPU µs/event"),
    "a request in flight": ("### 1,000 requests in flight", "gateway-token", "growth KiB/request"),
    "the process": ("### Start to first answer", "gateway-token", "idle MiB"),
}


def rows(text: str) -> list[list[str]]:
    """The cells of the first table of a text."""
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table[0].splitlines()]


@pytest.mark.parametrize("what", MEASURED)
def test_planning_is_on_the_safe_side(what: str) -> None:
    """No figure that docs/scaling.md plans with is below what docs/performance.md has measured."""
    heading, peer, column = MEASURED[what]
    heads, *measured = rows((ROOT / "docs/performance.md").read_text().split(heading)[1])
    figure = next(row for row in measured if row[0] == peer)[heads.index(column)]
    planned = dict(row[:2] for row in rows(DOCUMENTS[2].read_text().split("## How many replicas")[1]))[what]

    assert float(planned.split()[0]) >= float(figure)
