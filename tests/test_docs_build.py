"""The documents build into pages: no warning, no dead link, nothing left out, nothing asked of a network."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gateway.config import load, schema
from gateway.credentials import kinds

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages. A warning of Sphinx is a failure, with its text."""
    folder = tmp_path_factory.mktemp("pages")
    sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "trees")]
    done = subprocess.run(
        [*sphinx, str(DOCS), str(folder / "html")],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_document_is_a_page(pages: Path) -> None:
    """Each Markdown file has its page, and a place in the table of contents."""
    written = {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")}
    built = {path.relative_to(pages).with_suffix("") for path in pages.rglob("*.html")}
    contents = (pages / "index.html").read_text()

    assert sorted(written - built) == []
    assert [
        str(name) for name in sorted(written) if name.name != "index" and f'href="{name}.html' not in contents
    ] == []


def test_links_between_pages_lead_somewhere(pages: Path) -> None:
    """Every link and picture of a page that stays among the pages finds its file, and its heading."""
    texts = {path.resolve(): path.read_text() for path in pages.rglob("*.html")}
    dead = []
    for path, text in texts.items():
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            if re.match(r"[a-z]+:|//", target) or path.name in {"genindex.html", "search.html"}:
                continue
            name, _, anchor = target.partition("#")
            found = (path.parent / name.partition("?")[0]).resolve() if name else path
            if not found.exists() or (anchor and found in texts and f'id="{anchor}"' not in texts[found]):
                dead.append(f"{path.name}: {target}")

    assert dead == []


def test_pages_ask_no_one_else(pages: Path) -> None:
    """No page loads a script, a style, a font or a picture from elsewhere."""
    loaded = [
        (path.name, address)
        for path in pages.rglob("*.html")
        for address in re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="((?:https?:)?//[^"]+)"', path.read_text())
    ]

    assert loaded == []


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """docs/reference.py, which is no package's module."""
    spec = importlib.util.spec_from_file_location("docs_reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_current(reference: ModuleType) -> None:
    """docs/reference.md is what docs/reference.py makes of the schema; `make docs` writes it anew."""
    assert (DOCS / "reference.md").read_text() == reference.page(schema(kinds()))


def test_the_reference_knows_the_addresses(reference: ModuleType, tmp_path: Path) -> None:
    """The defaults that the schema leaves out are the ones that a file without them gets."""
    (tmp_path / "gateway.yaml").write_text(
        "routes: [{name: a, path: /a, upstream: 'http://127.0.0.1:9', credential: none}]\n"
    )
    config = load(tmp_path / "gateway.yaml", kinds(), environ={})

    assert {"listen": str(config.listen), "admin": str(config.admin)} == reference.DEFAULTS
