"""The process around the gateway: what it is told, and how it ends without a signal."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from running import ROOT, document, route

from gateway import server


def test_a_wrong_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit 2, with every problem on stderr and nothing on stdout, which belongs to the access log."""
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(document(route("r", "ftp://x", colour="red", limits={"body": 1}))))

    assert server.run(str(path)) == 2

    said = capfd.readouterr()
    assert [word for word in ("upstream", "colour", "limits.body") if word not in said.err] == []
    assert said.out == ""


def test_a_taken_port(tmp_path: Path) -> None:
    """Exit 1, and the log names the address and the key."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump(document(route("r", "http://127.0.0.1:9")) | {"listen": address}))
        command = [
            sys.executable,
            "-c",
            "import sys; from gateway.server import run; sys.exit(run(sys.argv[1]))",
            str(path),
        ]

        ended = subprocess.run(
            command, env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert ended.returncode == 1
    assert f"{address} (listen)" in ended.stderr
    assert ended.stdout == ""
