"""The documents tell the truth: their blocks are what they claim, their tables are complete, their links lead somewhere."""

import argparse
import doctest
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from gateway import __version__, credentials, errors, refusals
from gateway.cli import COMMANDS
from gateway.config import Config, load

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/credentials").glob("*.md")),
]
_BLOCK = re.compile(r"^```yaml( fragment)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_BLOCK = re.compile(r"^```(\w*)(?: \w+)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What stands around a fragment, so that it is a whole file. A fragment's own keys replace these.
_BASE: dict[str, Any] = {  # Any: YAML
    "credentials": {
        "poetry-app": {"kind": "app_signature", "app_key": {"env": "A_KEY"}, "app_secret": {"env": "A_SECRET"}}
    },
    "routes": [
        {"name": "poetry", "path": "/poetry", "upstream": "https://upstream.example.com", "credential": "poetry-app"}
    ],
}


def blocks() -> list[Any]:
    """Every YAML block of every document, named by document and number."""
    return [
        pytest.param(text, bool(fragment), id=f"{path.name}-{number}")
        for path in DOCUMENTS
        for number, (fragment, text) in enumerate(_BLOCK.findall(path.read_text()), 1)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents expect below /etc/gateway."""
    folder = tmp_path_factory.mktemp("etc")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    for name in ("secrets", "callers", "tls"):
        (folder / name).mkdir()
    authority.cert_pem.write_to_path(str(folder / "tls/ca.crt"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "tls/tls.crt"))
    certificate.private_key_pem.write_to_path(str(folder / "tls/tls.key"))
    return folder


def loaded(text: str, files: Path, path: Path) -> Config:
    """The configuration of a block, with a value for every secret that it names."""
    text = text.replace("/etc/gateway", str(files))
    for secret in re.findall(rf"file: ({re.escape(str(files))}/[^\s,}}]+)", text):
        Path(secret).write_text(f"the-content-of-{Path(secret).name}\n")
    path.write_text(text)
    environ = {name: f"value-of-{name}" for name in re.findall(r"env: (\w+)", text)}
    return load(path, credentials.kinds(), environ=environ)


@pytest.mark.parametrize(("text", "fragment"), blocks())
def test_yaml_loads(text: str, fragment: bool, files: Path, tmp_path: Path) -> None:
    """Every YAML block of the documents is a configuration, or a part that fits into one."""
    if fragment:
        sections = yaml.safe_load(text)
        base = {key: value for key, value in _BASE.items() if key not in sections}
        if "credentials" in sections and "routes" not in sections:
            base["routes"] = [{**_BASE["routes"][0], "credential": next(iter(sections["credentials"]))}]
        if any("certificate" in caller for caller in sections.get("callers", [])):
            base["tls"] = {
                "certificate": "/etc/gateway/tls/tls.crt",
                "key": "/etc/gateway/tls/tls.key",
                "client_ca": "/etc/gateway/tls/ca.crt",
            }
        text += yaml.safe_dump(base)

    assert loaded(text, files, tmp_path / "gateway.yaml").routes


def blocks_of(*languages: str) -> list[Any]:
    """Every block in one of these languages, named by document and number. "" is a block without a language."""
    return [
        pytest.param(text, id=f"{path.name}-{number}")
        for path in DOCUMENTS
        for number, (language, text) in enumerate(_ANY_BLOCK.findall(path.read_text()), 1)
        if language in languages
    ]


@pytest.mark.parametrize("text", blocks_of("yaml"))
def test_yaml_of_others_is_yaml(text: str) -> None:
    """Blocks of YAML for other programs are YAML at least."""
    assert yaml.safe_load(text)


@pytest.mark.parametrize("text", blocks_of("sh"))
def test_a_shell_reads_the_commands(text: str) -> None:
    """Every block of commands is one that a shell can read. What can run without a cloud or a cluster is run elsewhere."""
    done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", blocks_of("python"))
def test_python_compiles(text: str) -> None:
    """Every block of Python is Python; a session with a prompt is so line by line."""
    sessions = doctest.DocTestParser().get_examples(text)
    for source in [example.source for example in sessions] or [text]:
        compile(source, "block", "exec")


def command_lines(text: str) -> Iterator[list[str]]:
    """The arguments of each call of our command in a block."""
    for line in text.replace("\\\n", " ").splitlines():
        if found := re.match(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?modelarts-gateway (.*)", line):
            words = shlex.shlex(found[1], posix=True, punctuation_chars=True)
            words.whitespace_split = True
            arguments = []
            for word in words:
                if word in {"|", ">", ";", "&", "&&"}:
                    break
                arguments.append(word)
            yield arguments


@pytest.mark.parametrize("text", [block for block in blocks_of("sh", "") if "modelarts-gateway " in block.values[0]])
def test_our_commands_take_these_arguments(text: str) -> None:
    """Every call of the command in a document names a command there is, with arguments that it takes."""
    for name, *arguments in command_lines(text):
        assert name in COMMANDS, name
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(f"gateway.cli.{name}").add_arguments(parser)

        parser.parse_args(arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_knows_its_targets(document: Path) -> None:
    """Every `make` that a document tells readers to type names a target there is."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE)

    assert [name for name in named if name not in targets] == []


def test_options_of_the_tools_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The documents on conformance and performance call their programs with arguments that these take."""
    for name, program in (("conformance", "tests.conformance"), ("performance", "bench")):
        arguments = importlib.import_module(f"{program}.__main__")._arguments
        text = (ROOT / f"docs/{name}.md").read_text().replace("\\\n", " ")
        lines = re.findall(rf"^(?:\S*python -m {re.escape(program)}|{program}/run) ?(.*)$", text, re.MULTILINE)
        assert lines
        for line in lines:
            monkeypatch.setattr("sys.argv", [program, *shlex.split(line, comments=True)])
            arguments()


def test_every_refusal_of_a_credential_is_explained() -> None:
    """docs/troubleshooting-401.md has a row for each code with which API Gateway or ModelArts can refuse a credential."""
    text = (ROOT / "docs/troubleshooting-401.md").read_text()
    rows = "\n".join(line for line in text.splitlines() if re.match(r"\| (\d{3}) `", line))
    codes = {
        code
        for code, meanings in refusals._TABLE.items()
        if any(row.status == 401 or row.refusal_class.startswith("auth_") for row in meanings)
    }

    assert sorted(code for code in codes if f"`{code}`" not in rows) == []


def test_there_is_a_file_for_each_way_in() -> None:
    """The README has a whole file for token, app signature, AppCode and MaaS key."""
    texts = [text for fragment, text in _BLOCK.findall((ROOT / "README.md").read_text()) if not fragment]

    for kind in ("iam_token", "app_signature", "app_code", "api_key"):
        assert any(f"kind: {kind}" in text for text in texts), kind


def test_documented_defaults_are_the_defaults(files: Path, tmp_path: Path) -> None:
    """The block of process defaults says what a file without them gets."""
    text = (ROOT / "docs/configuration.md").read_text()
    fragment = next(block for _, block in _BLOCK.findall(text) if block.startswith("listen:"))
    base = yaml.safe_dump(_BASE)

    written = loaded(fragment + base, files, tmp_path / "written.yaml")
    silent = loaded(base, files, tmp_path / "silent.yaml")

    assert written.process == silent.process
    assert (written.listen, written.admin, written.workers) == (silent.listen, silent.admin, silent.workers)


def gateway_errors() -> set[tuple[int, str]]:
    """Status and code of every error there is."""
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.GatewayError)
    ]
    return {(value.status, value.code) for value in classes}


def test_every_error_is_explained() -> None:
    """docs/errors.md has a row for each error_code, with its status, and none that does not exist."""
    rows = re.findall(r"^\| (\d{3}) \| `(Gateway\.\w+)` \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)

    assert {(int(status), code) for status, code in rows} == gateway_errors()


def test_every_kind_of_credential_is_explained() -> None:
    """docs/configuration.md has a row for each kind."""
    text = (ROOT / "docs/configuration.md").read_text()

    assert [kind for kind in credentials.kinds() if f"| `{kind}` |" not in text] == []


def test_every_key_is_explained() -> None:
    """docs/configuration.md names each key of process, limits, routes and callers."""
    from gateway.config import schema

    text = (ROOT / "docs/configuration.md").read_text()
    found = schema(credentials.kinds())
    definitions: dict[str, Any] = found["$defs"]  # Any: JSON Schema
    keys = {
        key
        for name in ("ProcessSettings", "LimitSettings", "RouteSettings", "CallerSettings")
        for key in definitions[name]["properties"]
    } | set(found["properties"])

    assert sorted(key for key in keys if not re.search(rf"[`.{{ ]{key}\b", text)) == []


def anchors(path: Path) -> set[str]:
    """The anchors that a reader's Markdown viewer makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every link to another document of the project finds it, and its heading."""
    dead = []
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", document.read_text()):
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            dead.append(target)

    assert dead == []


def test_readme_says_how_to_run_it() -> None:
    """The two commands that do all the set-up are there, and the Makefile has them."""
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()

    for command in ("demo", "test"):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_changelog_knows_this_version() -> None:
    """The changelog has a section for the version that this is."""
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
