"""What all commands have in common."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import COMMANDS
from gateway.cli.terminal import Failure, Terminal

from .command import ROOT, run


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name: str) -> None:
    """Each command explains itself and shows how it is called."""
    shown = run(name, "--help")

    assert shown.returncode == 0, shown.stderr
    assert f"modelarts-gateway {name}" in shown.stdout
    assert "example:" in shown.stdout


def test_help_lists_every_command() -> None:
    """The list is complete, and says how the exit status is to be read."""
    shown = run("--help")

    assert shown.returncode == 0
    assert all(name in shown.stdout for name in COMMANDS)
    assert "Exit status" in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="no command"),
        pytest.param(("frobnicate",), id="unknown command"),
        pytest.param(("check", "--frobnicate"), id="unknown option"),
        pytest.param(("check",), id="no configuration named"),
        pytest.param(("serve", "-c", "there/is/no/such.yaml"), id="serve without a file"),
        pytest.param(("check", "-c", "there/is/no/such.yaml"), id="check without a file"),
        pytest.param(("explain", "-c", "there/is/no/such.yaml", "GET", "/"), id="explain without a file"),
        pytest.param(("healthcheck", "-c", "there/is/no/such.yaml"), id="healthcheck without a file"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    """Usage and configuration errors exit with 2, say so on stderr, and show no traceback."""
    finished = run(*arguments)

    assert finished.returncode == 2, finished.stderr
    assert finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr


def test_no_file_named_says_what_to_do() -> None:
    """Somebody who forgot -c learns of it, of the variable, and of the demo."""
    finished = run("check")

    assert "-c FILE" in finished.stderr
    assert "GATEWAY_CONFIG" in finished.stderr
    assert "demo" in finished.stderr


def test_no_command_shows_what_there_is() -> None:
    """Somebody who types the name alone sees every command."""
    finished = run()

    assert all(name in finished.stderr for name in COMMANDS)


def test_keys_are_explained_only_where_one_is_wrong(tmp_path: Path) -> None:
    """The page of all keys does not help with a file that is not there."""
    wrong = tmp_path / "gateway.yaml"
    wrong.write_text("listn: 1\n")

    assert "docs/configuration.md" in run("check", "-c", wrong).stderr
    assert "docs/configuration.md" not in run("check", "-c", tmp_path / "none.yaml").stderr


def test_version() -> None:
    """--version is the package's."""
    from gateway import __version__

    assert run("--version").stdout.strip() == f"modelarts-gateway {__version__}"


@pytest.mark.parametrize("name", ["--help", "healthcheck"])
def test_light_commands_import_nothing_heavy(name: str) -> None:
    """--help and healthcheck start without aiohttp and pydantic: one runs every few seconds in a container."""
    program = (
        "import sys, gateway.cli\n"
        "try:\n"
        f"    gateway.cli.main([{name!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'aiohttp', 'pydantic', 'yaml', 'asyncio'} & set(sys.modules)))"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)

    assert finished.stdout.splitlines()[-1] == "[]"


def test_schema_is_json_schema() -> None:
    """The schema is one JSON object that describes the file's sections."""
    finished = run("schema")

    assert finished.returncode == 0, finished.stderr
    schema = json.loads(finished.stdout)
    assert {"credentials", "routes", "callers", "process", "listen"} <= set(schema["properties"])


def test_readme_lists_the_commands() -> None:
    """The table of the README names every command there is, and none that is not."""
    table = re.findall(r"^\| `modelarts-gateway ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)

    assert sorted(table) == sorted(COMMANDS)


class FakeTerminal:
    """A stream that claims to be a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [
        pytest.param({"TERM": "xterm"}, True, id="a terminal"),
        pytest.param({"TERM": "xterm", "NO_COLOR": "1"}, False, id="NO_COLOR"),
        pytest.param({"TERM": "dumb"}, False, id="a dumb terminal"),
    ],
)
def test_colours(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], coloured: bool) -> None:
    """Colours appear on a terminal that has them, unless the person said no."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    stream = FakeTerminal()

    Terminal(stream, stream).error(Failure("no", hint="try yes"))  # type: ignore[arg-type] # as much of a stream as is used

    assert ("\x1b[" in stream.text) is coloured
    assert "try yes" in stream.text


def test_no_colours_in_a_pipe(tmp_path: Path) -> None:
    """What goes into a file or a pipe holds no escape sequences."""
    finished = run("check", "-c", tmp_path / "none.yaml", environ={"TERM": "xterm"})

    assert "\x1b" not in finished.stdout + finished.stderr


def test_a_reader_that_has_enough_is_no_error() -> None:
    """`| head` closes our output early; no traceback follows."""
    program = f"{sys.executable} -m gateway schema | head -c 10"

    finished = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)

    assert finished.stderr == ""
