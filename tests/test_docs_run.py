"""What the documents tell readers to type is typed here, as it stands there, and must answer what they say it answers."""

import contextlib
import os
import random
import re
import shutil
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
_BLOCK = re.compile(r"^```(\w+) (start|run|output)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCUMENTS = [path for path in sorted((ROOT / "docs").rglob("*.md")) if _BLOCK.search(path.read_text())]


class Reader:
    """Somebody with a terminal, the command on the PATH, and a folder that holds the project's `deploy` and nothing else.

    The ports of the documents are free ones here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "folder"
        shutil.copytree(ROOT / "deploy", self._folder / "deploy")
        self._ports: dict[int, int] = {}
        for documented in (8080, 8443, 9000, 9090, 18080):
            free = pair_of_ports()
            self._ports |= {documented: free, documented + 1: free + 1}
        self._translate_files()
        command = folder / "bin/modelarts-gateway"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway "$@"\n')
        command.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if name in {"HOME", "TMPDIR", "LANG"}}
        path = f"{command.parent}:{os.environ['PATH']}"
        self._environ = {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "no_proxy": "*", "NO_PROXY": "*"}
        self._servers: list[subprocess.Popen[bytes]] = []

    def start(self, text: str) -> None:
        """Start a server and wait until it serves."""
        program = text.split(maxsplit=1)[0]
        if shutil.which(program, path=self._environ["PATH"]) is None:
            pytest.skip(f"{program} is not installed")
        log = self._folder.parent / f"server-{len(self._servers)}.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                ["sh", "-c", f"exec {self._here(text)}"],
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._servers.append(server)
        until = time.monotonic() + 15
        while not re.search(r" serves |^Faults: |ready to receive web requests", log.read_text(), re.MULTILINE):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)
        self._translate_files()

    def run(self, language: str, text: str) -> str:
        """What a block prints. It has to succeed."""
        program = [sys.executable, "-c"] if language == "python" else ["sh", "-euc"]
        done = subprocess.run(
            [*program, self._here(text)],
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

    def close(self) -> None:
        for server in reversed(self._servers):
            server.kill()
            server.wait(timeout=10)

    def _translate_files(self) -> None:
        for written in self._folder.rglob("*.yaml"):
            before = written.read_text()
            if (text := self._here(before)) != before:
                written.write_text(text)

    def _here(self, text: str) -> str:
        text = text.replace("gateway simulate ", "gateway simulate --listen 127.0.0.1:9000 ")  # its default
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
