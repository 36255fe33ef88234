"""Imports go down: an own walk over the syntax trees, which sees late and type-only imports as well."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .floors import FLOORS, NEIGHBOURS, OUTSIDE, SIMULATOR, SIMULATOR_MAY_IMPORT_FLOORS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gateway"


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Every imported module with its line, wherever it stands: top, function, TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "gateway.<relative>"
            elif node.module == "gateway":
                for alias in node.names:
                    yield node.lineno, f"gateway.{alias.name}"
            else:
                yield node.lineno, node.module or ""


def unit(dotted: str) -> str:
    """The floor's unit of a module: ``gateway.upstream.pool`` belongs to ``upstream``."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else ""


def fault(importer: str, imported: str) -> str | None:
    """Why a module of unit ``importer`` may not import ``imported`` (dotted); None when it may."""
    top = imported.partition(".")[0]
    if top != "gateway":
        allowed = OUTSIDE.get(FLOORS.get(importer, 99))
        if allowed is not None and top not in sys.stdlib_module_names and top not in allowed:
            return f"floor {FLOORS[importer]} takes nothing but the standard library"
        return None
    below = unit(imported)
    if below in {"", "__version__", importer}:
        return None
    if below == "<relative>":
        return "write imports in full: from gateway.x import y"
    if below == SIMULATOR:
        return None if importer == "cli" else "only the cli uses the simulator"
    if below not in FLOORS:
        return f"'{below}' has no floor; give it one in tests/house/floors.py"
    if importer == SIMULATOR:
        return None if FLOORS[below] in SIMULATOR_MAY_IMPORT_FLOORS else "the simulator must not use what it checks"
    if importer not in FLOORS:
        return f"'{importer}' has no floor; give it one in tests/house/floors.py"
    if FLOORS[below] < FLOORS[importer] or (importer, below) in NEIGHBOURS:
        return None
    direction = "sideways" if FLOORS[below] == FLOORS[importer] else "up"
    return f"goes {direction}, from floor {FLOORS[importer]} to floor {FLOORS[below]}"


def test_imports_go_down() -> None:
    """No module imports from its own floor or one above, and low floors take nothing from outside."""
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        importer = relative.parts[0].removesuffix(".py")
        if importer == "__init__":
            continue
        for line, imported in imports(path.read_text()):
            reason = fault(importer, imported)
            if reason is not None:
                faults.append(f"gateway/{relative}:{line}: import of {imported} {reason}")

    assert not faults, "\n" + "\n".join(faults)


def test_every_floor_is_lived_on() -> None:
    """The table names no module that is gone."""
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}

    assert set(FLOORS) - there == set()


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        pytest.param("proxy", "gateway.errors", True, id="down"),
        pytest.param("errors", "gateway.proxy", False, id="up"),
        pytest.param("metrics", "gateway.logs", False, id="sideways"),
        pytest.param("upstream", "gateway.upstream.pool", True, id="inside a package"),
        pytest.param("routes", "gateway.paths", True, id="a neighbour that is allowed"),
        pytest.param("headers", "aiohttp", False, id="a rule with a framework"),
        pytest.param("headers", "re", True, id="standard library"),
        pytest.param("server", "gateway.simulator", False, id="simulator in production"),
        pytest.param("simulator", "gateway.credentials.base", False, id="simulator believing the gateway"),
        pytest.param("newcomer", "gateway.errors", False, id="a module without a floor"),
    ],
)
def test_the_walk_itself(importer: str, imported: str, allowed: bool) -> None:
    """The rule lets through what it should, and nothing else."""
    assert (fault(importer, imported) is None) is allowed
