"""The container's HEALTHCHECK."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from .command import run


class Admin(BaseHTTPRequestHandler):
    """Answers /healthz with the server's ``status``."""

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/healthz" else 404)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def admin() -> Iterator[HTTPServer]:
    """An admin listener of sorts."""
    server = HTTPServer(("127.0.0.1", 0), Admin)
    server.status = 200  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def written(folder: Path, admin: str) -> Path:
    """A configuration with this admin address, and with secrets that healthcheck has no business to read."""
    path = folder / "gateway.yaml"
    path.write_text(f"admin: {admin}\ncredentials:\n  a: {{kind: app_code, app_code: {{file: /nowhere}}}}\n")
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_gateway_that_serves(admin: HTTPServer, tmp_path: Path, host: str) -> None:
    """200 from /healthz is exit 0, also when the admin listener is on every interface."""
    path = written(tmp_path, f"{host}:{admin.server_port}  # the admin listener")

    finished = run("healthcheck", environ={"GATEWAY_CONFIG": str(path)})

    assert finished.returncode == 0, finished.stderr


def test_a_gateway_that_answers_otherwise(admin: HTTPServer, tmp_path: Path) -> None:
    """Any other status is exit 1, and says which."""
    admin.status = 500  # type: ignore[attr-defined]

    finished = run("healthcheck", "-c", written(tmp_path, f"127.0.0.1:{admin.server_port}"))

    assert finished.returncode == 1
    assert "500" in finished.stderr


def test_no_gateway(tmp_path: Path) -> None:
    """Nobody there is exit 1, and names the address that was asked."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        finished = run("healthcheck", "-c", written(tmp_path, f"127.0.0.1:{port}"))

    assert finished.returncode == 1
    assert f"127.0.0.1:{port}" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_admin_on_a_unix_socket(tmp_path: Path) -> None:
    """A Unix socket is asked as well."""
    path = tmp_path / "a.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1024).startswith(b"GET /healthz ")
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    finished = run("healthcheck", "-c", written(tmp_path, f"unix:{path}"))
    thread.join()
    listener.close()

    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("admin: [", id="not YAML"),
        pytest.param("admin: somewhere", id="no port"),
        pytest.param("\xff\xfe", id="not text"),
    ],
)
def test_a_file_that_does_not_say(tmp_path: Path, text: str) -> None:
    """A file without a usable admin address is a configuration error: exit 2."""
    path = tmp_path / "gateway.yaml"
    path.write_bytes(text.encode("latin-1"))

    finished = run("healthcheck", "-c", path)

    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
