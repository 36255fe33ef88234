"""The documents on deploying and scaling can be followed: their files exist, their commands and their arithmetic are right."""

import doctest
import re
import subprocess
from pathlib import Path

import pytest

from gateway.cli import COMMANDS

from .manifests import ROOT, need, render, shell_blocks

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
