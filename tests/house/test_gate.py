"""The gate itself: what it starts from, and what it does not let pass."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIND_PYTHON = ROOT / ".ci/find-python"


def python_that(folder: Path, name: str, *, version_ok: bool, environments: bool) -> None:
    """A stand-in for an interpreter: it answers what find-python asks."""
    path = folder / name
    path.write_text(
        "#!/bin/sh\n"
        'case "$2" in\n'
        f"*version_info*) exit {0 if version_ok else 1} ;;\n"
        f"*ensurepip*) exit {0 if environments else 1} ;;\n"
        f"*executable*) echo {path} ;;\n"
        "esac\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def find_python(path: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", FIND_PYTHON], env={"PATH": path, **environ}, capture_output=True, text=True, check=False
    )


def test_the_first_that_will_do(tmp_path: Path) -> None:
    """A python3 that is too old, or a shim without a version behind it, is passed over."""
    python_that(tmp_path, "python3", version_ok=False, environments=True)
    python_that(tmp_path, "python3.13", version_ok=True, environments=False)
    python_that(tmp_path, "python3.12", version_ok=True, environments=True)

    found = find_python(str(tmp_path))

    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == str(tmp_path / "python3.12")


def test_the_one_that_was_named(tmp_path: Path) -> None:
    """PYTHON wins over what is on the PATH."""
    python_that(tmp_path, "python3", version_ok=True, environments=True)
    python_that(tmp_path, "mine", version_ok=True, environments=True)

    assert find_python(str(tmp_path), PYTHON=str(tmp_path / "mine")).stdout.strip() == str(tmp_path / "mine")


def test_no_python_says_what_to_do(tmp_path: Path) -> None:
    """Without any, the message says which versions would do and how to name one."""
    found = subprocess.run(
        ["/bin/bash", "-c", FIND_PYTHON.read_text().replace("/usr/bin/python3", "")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.returncode == 1
    assert "3.11" in found.stderr
    assert "PYTHON=" in found.stderr


def test_no_venv_names_the_package(tmp_path: Path) -> None:
    """A Debian python3 without python3-venv is told apart from no Python at all."""
    python_that(tmp_path, "python3", version_ok=True, environments=False)
    script = FIND_PYTHON.read_text().replace("/usr/bin/python3", "")

    found = subprocess.run(
        ["/bin/bash", "-c", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )

    assert found.returncode == 1
    assert "python3-venv" in found.stderr


def kubectl_that(folder: Path, version: str) -> None:
    """A stand-in for a kubectl of that version."""
    path = folder / "kubectl"
    path.parent.mkdir(parents=True)
    path.write_text(f"""#!/bin/sh\necho '{{"clientVersion": {{"gitVersion": "{version}"}}}}'\n""")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("on_path", "unpacked", "found"),
    [
        pytest.param("v1.32.4-dispatcher", "", "path", id="new enough"),
        pytest.param("v1.20.2", "v1.32.3", "folder/usr/bin", id="Debian 12's is passed over"),
        pytest.param("v1.20.2", "", "", id="none, and no Debian to fetch one from"),
    ],
)
def test_which_kubectl(tmp_path: Path, on_path: str, unpacked: str, found: str) -> None:
    """One that reads our manifests is chosen; without any, the message says which would do."""
    kubectl_that(tmp_path / "path", on_path)
    if unpacked:
        kubectl_that(tmp_path / "folder/usr/bin", unpacked)
    for tool in ("sed", "head", "grep"):
        (tmp_path / "path" / tool).symlink_to(f"/usr/bin/{tool}")

    finished = subprocess.run(
        ["/bin/bash", ROOT / ".ci/find-kubectl", tmp_path / "folder"],
        env={"PATH": str(tmp_path / "path")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.stdout == (f"{tmp_path}/{found}/kubectl\n" if found else "")
    assert (finished.returncode, "1.24" in finished.stderr) == ((0, False) if found else (1, True))


@pytest.mark.parametrize(("plugin", "status"), [((), 0), (("-p", "tests.house.no_skips"), 1)], ids=["at home", "gate"])
def test_skips_count_in_the_gate(tmp_path: Path, plugin: tuple[str, ...], status: int) -> None:
    """What may be skipped at home fails in the gate."""
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.skip(reason='no such tool')\ndef test_it(): pass\n\ndef test_other(): pass\n"
    )

    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            *plugin,
            "--rootdir",
            tmp_path,
            "-c",
            os.devnull,
            tmp_path,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == status, finished.stdout
    assert "no such tool" in finished.stdout or status == 0


@pytest.mark.parametrize("name", ["run", "find-python", "find-kubectl", "image-test", "systemd-test"])
def test_scripts_are_sound(name: str) -> None:
    """The gate's scripts can be run, and parse."""
    path = ROOT / ".ci" / name

    assert os.access(path, os.X_OK)
    assert subprocess.run(["/bin/bash", "-n", path], check=False).returncode == 0


def test_targets_are_listed() -> None:
    """`make` by itself lists the targets, and does nothing else."""
    finished = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr
    for target in ("demo", "test", "check", "format"):
        assert f"make {target}" in finished.stdout


@pytest.mark.parametrize("target", ["demo", "test"])
def test_no_package_index_says_what_to_do(target: str, tmp_path: Path) -> None:
    """When pip reaches no index, the last word of `make` is ours: where indexes are named."""
    for name in ("Makefile", "pyproject.toml", ".ci/find-python", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for name, text in ((".ci/find-python", "echo true"), (".venv/bin/python", 'test "$2" != pip')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    made = subprocess.run(["make", target], cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)

    assert made.returncode != 0
    assert "PIP_INDEX_URL" in made.stderr


def test_the_image_is_built_by_the_engine_there_is() -> None:
    """DOCKER names the client that builds and tries the image; the documents say so to those who have podman alone."""
    for target in ("image", "image-test"):
        said = subprocess.run(
            ["make", "-n", target, "DOCKER=podman"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )

        assert "podman" in said.stdout, target
        assert "docker build" not in said.stdout
