"""What the documents tell readers to type is typed here, as it stands there, and must answer what they say it answers."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_modelarts import FakeModelArts
from running import StartGateway, document, route

ROOT = Path(__file__).parents[1]
# The second word of a block's language: "start" is a server that stays, "run" ends, "output" is what the block before it prints.
# "caller" is what a caller of the routes of the README sends. The other words say what a block needs that is not here.
NEEDS = {
    "account": "a configuration of one's own, with the account behind it",
    "cluster": "a cluster",
    "elsewhere": "nothing, but seconds: tests/deploy runs it",
    "engine": "a container engine",
    "index": "a package index",
    "installed": "a program that the tests do not install",
    "minutes": "minutes of a whole machine",
}
_BLOCK = re.compile(r"^```(\w+) (start|run|output)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMANDS = re.compile(r"^```sh(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CALLER = re.compile(r"^```(\w+) caller\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EVERY_DOCUMENT = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTS = [path for path in EVERY_DOCUMENT if _BLOCK.search(path.read_text())]
# Servers that say nothing when they are ready, and where they listen then.
_SILENT = {"nginx": 8080}


class Reader:
    """Somebody with a terminal, the command on the PATH, and a folder that holds the project's `deploy` and nothing else.

    The ports of the documents are free ones here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "folder"
        shutil.copytree(ROOT / "deploy", self._folder / "deploy")
        self._ports: dict[int, int] = {}
        for documented in (8080, 8443, 9000, 9090, 9191, 18080):
            free = pair_of_ports()
            self._ports |= {documented: free, documented + 1: free + 1}
        self._translate_files()
        command = folder / "bin/modelarts-gateway"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway "$@"\n')
        command.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if name in {"HOME", "TMPDIR", "LANG"}}
        path = f"{command.parent}:{os.environ['PATH']}:/usr/sbin"
        self._environ = {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "no_proxy": "*", "NO_PROXY": "*"}
        self._servers: list[subprocess.Popen[bytes]] = []

    def start(self, text: str) -> None:
        """Start a server and wait until it serves."""
        program = self._need(text)
        log = self._folder.parent / f"server-{len(self._servers)}.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                ["sh", "-c", f"exec {self._here(text)}"],
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._servers.append(server)
        until = time.monotonic() + 15
        while not self._serves(program, log.read_text()):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)
        self._translate_files()

    def run(self, language: str, text: str) -> str:
        """What a block prints. It has to succeed."""
        shell = language != "python"
        if shell:
            self._need(text)
        done = subprocess.run(
            [*(["sh", "-euc"] if shell else [sys.executable, "-c"]), self._here(text)],
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        self._translate_files()
        said = done.stdout.replace("\r\n", "\n")
        for documented, port in self._ports.items():
            said = said.replace(f"127.0.0.1:{port}", f"127.0.0.1:{documented}")
        return said

    def log_lines(self) -> list[str]:
        """What the last server has said, once it has ended."""
        os.killpg(self._servers[-1].pid, signal.SIGTERM)
        self._servers[-1].wait(timeout=20)
        return (self._folder.parent / f"server-{len(self._servers) - 1}.log").read_text().splitlines()

    def close(self) -> None:
        for server in reversed(self._servers):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # with the processes that it started
            server.wait(timeout=10)

    def _need(self, text: str) -> str:
        """The program that a block begins with. Without it the test is skipped, which the gate counts as a failure."""
        program = text.split(maxsplit=1)[0]
        if (
            re.fullmatch(r"[a-z-]+", program)
            and subprocess.run(
                ["sh", "-c", f"command -v {program}"], env=self._environ, capture_output=True, check=False
            ).returncode
        ):
            pytest.skip(f"{program} is not installed")
        return program

    def _serves(self, program: str, log: str) -> bool:
        if program in _SILENT:
            with socket.socket() as caller:
                return caller.connect_ex(("127.0.0.1", self._ports[_SILENT[program]])) == 0
        return (
            re.search(r" serves | authorises |^Faults: |ready to receive web requests", log, re.MULTILINE) is not None
        )

    def _translate_files(self) -> None:
        for written in (*self._folder.rglob("*.yaml"), *self._folder.rglob("*.conf")):
            before = written.read_text()
            if (text := self._here(before)) != before:
                written.write_text(text)

    def _here(self, text: str) -> str:
        for command, default in (("simulate", 9000), ("authz", 9191)):
            text = re.sub(rf"(gateway {command})(?= |$)", rf"\1 --listen 127.0.0.1:{default}", text, flags=re.MULTILINE)
        for documented, port in self._ports.items():
            text = re.sub(rf"127\.0\.0\.1:{documented}\b", f"127.0.0.1:{port}", text)
        return text


def pair_of_ports() -> int:
    """A port that is free with the one after it, below those that kernels give to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000, 2)
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.close()


def looks_like(said: str, documented: str) -> bool:
    """… stands for anything within a line; alone on a line, for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line.rstrip()).replace("…", ".*?") + r"[ ]*\n"
        for line in documented.rstrip().splitlines()
    )
    return re.fullmatch(pattern, said.rstrip() + "\n") is not None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_document_can_be_followed(path: Path, reader: Reader) -> None:
    """From its first command to its last, a document's commands succeed and print what it says they print."""
    said = ""
    for language, role, text in _BLOCK.findall(path.read_text()):
        if role == "start":
            reader.start(text)
        elif role == "run":
            said = reader.run(language, text)
        else:
            assert looks_like(said, text), f"documented:\n{text}\nsaid:\n{said}"


def test_there_are_documents_to_follow() -> None:
    """The way from nothing to an answer, the tools, the streams and the refusals are among them."""
    assert {path.stem for path in DOCUMENTS} >= {
        "getting-started",
        "tools",
        "streaming",
        "troubleshooting-401",
        "trying",
    }


def test_what_callers_write(reader: Reader) -> None:
    """The requests of the README and of docs/migrating.md come back answered, sent as they stand there."""
    reader.start("modelarts-gateway simulate --write-config simulated")
    reader.run("sh", _SERVICES)
    reader.start("modelarts-gateway serve -c gateway.yaml")
    sent = [
        block for name in ("README.md", "docs/migrating.md") for block in _CALLER.findall((ROOT / name).read_text())
    ]

    for language, text in sent:
        reader.run(language, text)

    served = [line for line in reader.log_lines() if '"route":' in line]
    assert len(sent) == 4
    assert len(served) == 3  # one only makes a client
    assert all('"code":200' in line for line in served)


# The names of the README's routes, before the simulator; and the picture that it sends.
_SERVICES = """
head -c 9999 /dev/zero > flower.png
echo 'process: {drain_delay: 0s}' > gateway.yaml
sed -e 's#name: app, path: /app#name: poetry, path: /poetry#' -e 's#name: code, path: /code#name: flowers, path: /flowers#' \\
    simulated/gateway.yaml >> gateway.yaml
"""


def commands() -> Iterator[tuple[Path, str, str]]:
    """Every block of commands: its document, what it needs, its text."""
    for path in EVERY_DOCUMENT:
        for mark, text in _COMMANDS.findall(path.read_text()):
            yield path, mark, text


def test_what_is_not_run_says_what_it_needs() -> None:
    """A block of commands is run here, or is marked with the reason why it cannot be."""
    marks = {"start", "run", "caller", *NEEDS}

    assert [f"{path.name}: {text}" for path, mark, text in commands() if mark not in marks] == []
    assert [name for name in NEEDS if name not in {mark for _, mark, _ in commands()}] == []


KUBECTL = [
    pytest.param(line, id=f"{path.stem}-{number}")
    for number, (path, line) in enumerate(
        (path, line)
        for path, mark, text in commands()
        if mark == "cluster"
        for line in text.replace("\\\n", " ").splitlines()
        if " create secret " not in line  # these are run by tests/deploy
    )
]


@pytest.mark.parametrize("line", KUBECTL)
def test_kubectl_takes_it(line: str, tmp_path: Path) -> None:
    """What needs a cluster gets as far as asking one: kubectl knows the words, and its files are there."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    if "kubectl " not in line:
        assert line.startswith("openssl rand ")
        return
    done = subprocess.run(
        ["sh", "-c", re.sub(r"\bkubectl ", "kubectl --server=http://127.0.0.1:1 ", line)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "*"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert re.search(r"127\.0\.0\.1:1(:| was).*refused", done.stderr), done.stderr


@pytest.mark.parametrize(
    "key", [pytest.param({"auth_token": "unused"}, id="auth token"), pytest.param({"api_key": "unused"}, id="API key")]
)
async def test_what_claude_code_sends(start_gateway: StartGateway, fake: FakeModelArts, key: dict[str, str]) -> None:
    """Anthropic's SDK reaches the address under /anthropic with the route's key, and without its own."""
    import anthropic

    gateway = await start_gateway(
        document(
            route("maas", fake.url, "maas"),
            credentials={"maas": {"kind": "api_key", "api_key": {"env": "KEY"}}},
        ),
        {"KEY": "of-the-route"},
    )
    async with anthropic.AsyncAnthropic(base_url=f"{gateway.url}/maas/anthropic", max_retries=0, **key) as client:  # type: ignore[arg-type]
        await client.messages.create(model="any", max_tokens=9, messages=[{"role": "user", "content": "spring"}])

    (received,) = fake.received
    assert received.target == "/anthropic/v1/messages"
    assert received.all("Authorization") == ["Bearer of-the-route"]
    assert received.get("X-API-Key") is None
