"""House rules that no linter knows."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .floors import MAY_CATCH_EVERYTHING

ROOT = Path(__file__).parents[2]
PYTHON_FOLDERS = ("gateway", "tests", "bench")

# Written in pieces, so that this file does not find itself.
FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"(?:^|[\"'\s(=:])/(?:" + "wo" + r"rk|home/[a-z]+|Us" + r"ers)/(?!\*)"),
    "a package index or mirror by name": re.compile(r"https?://[^\s\"']+/(?:sim" + r"ple|packages/[0-9a-f]{2})/"),
    "an unfinished thought": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
}
TEXT_SUFFIXES = {"", ".cfg", ".html", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def text_files() -> Iterator[Path]:
    """Files of the project, as git sees them where there is git (an unpacked archive has none)."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if listing.returncode == 0:
        candidates = [ROOT / line for line in listing.stdout.splitlines()]
    else:
        candidates = [path for path in ROOT.rglob("*") if not any(part.startswith(".v") for part in path.parts)]
    yield from (path for path in candidates if path.is_file() and path.suffix in TEXT_SUFFIXES)


def test_no_grab_bags() -> None:
    """No module is called after nothing in particular."""
    bags = {"utils", "util", "helpers", "helper", "common", "misc"}

    assert [str(path) for path in python_files("gateway") if bags & set(path.with_suffix("").parts)] == []


def test_modules_say_what_they_are() -> None:
    """Every module with code in it opens with a sentence."""
    silent = []
    for path in python_files("gateway"):
        tree = ast.parse(path.read_text())
        docstring = ast.get_docstring(tree)
        if tree.body and not (docstring and docstring.splitlines()[0].endswith((".", ":", "?"))):
            silent.append(str(path.relative_to(ROOT)))

    assert silent == []


def test_public_classes_and_functions_of_the_cli_say_what_they_do() -> None:
    """A stranger starts at the command line; there nothing public goes without a docstring."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in python_files("gateway/cli")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]

    assert silent == []


def test_promises_of_tests_are_written_down() -> None:
    """Every test says in a docstring what is promised."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in python_files("tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]

    assert silent == []


def test_who_may_catch_everything() -> None:
    """`except Exception` and broader stands only where the table of floors.py gives a reason."""
    found = set()
    for path in python_files("gateway"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = [] if node.type is None else [n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)]
            if (node.type is None or {"Exception", "BaseException"} & set(caught)) and not ends_in_raise(node):
                found.add(str(path.relative_to(ROOT / "gateway")))

    assert found - set(MAY_CATCH_EVERYTHING) == set()
    assert set(MAY_CATCH_EVERYTHING) - found == set(), "no longer catches everything: take it out of the table"


def ends_in_raise(handler: ast.ExceptHandler) -> bool:
    """A handler that cleans up and lets the exception pass hides nothing."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_text_of_this_kind(what: str) -> None:
    """Nothing of the place where this was written gets into the project."""
    pattern = FORBIDDEN[what]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]

    assert found == []


def test_exceptions_to_the_rules_have_reasons() -> None:
    """`noqa` and `type: ignore` name their code."""
    bare = re.compile(r"#\s*(?:no" + r"qa(?!: ?[A-Z])|type: ig" + r"nore(?!\[))")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files(*PYTHON_FOLDERS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]

    assert found == []


def test_secrets_are_revealed_in_few_places() -> None:
    """`reveal()` is called by what writes or compares a credential, and nowhere else."""
    allowed = ("credentials/", "callers", "cli/explain", "secret.py", "config/")
    found = [
        str(path.relative_to(ROOT / "gateway"))
        for path in python_files("gateway")
        if ".reveal(" in path.read_text() and not str(path.relative_to(ROOT / "gateway")).startswith(allowed)
    ]

    assert found == []


def test_requirements_hold_no_addresses() -> None:
    """Locked requirements name packages and hashes, and where to get them is the machine's business."""
    for path in (ROOT / "requirements").iterdir():
        text = path.read_text()
        assert "://" not in text, path.name
        assert "index-url" not in text, path.name


def test_locked_requirements_cover_the_project() -> None:
    """Every dependency of pyproject.toml is pinned, with hashes, for the image."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=;\[ ]", name)[0] for name in project["dependencies"]}
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE))

    assert wanted - pinned == set(), "run: make lock"
