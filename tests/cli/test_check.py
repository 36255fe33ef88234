"""`check`: every problem at once, then what the file comes to, then the world."""

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

from .command import run

GOOD = """\
credentials:
  code: {kind: app_code, app_code: {env: APP_CODE}}
routes:
  - {name: poetry, path: /poetry, upstream: "https://upstream.example.com/v1/infers/X", credential: code, methods: [POST]}
  - {name: rest, path: /, upstream: "http://127.0.0.1:9/v1/infers/Y", credential: none}
"""
BAD = """\
listen: 127.0.0.1
credentials:
  code: {kind: app_code, app_code: written-down-secret}
routes:
  - {name: poetry, path: /poetry, upstream: "https://h/x", credential: cod, limits: {body: 12}}
"""
ENVIRON = {"APP_CODE": "the-app-code-itself"}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A file without problems."""
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A file with four problems."""
    path = tmp_path / "gateway.yaml"
    path.write_text(BAD)
    return path


def test_a_good_file(good: Path) -> None:
    """Exit 0, and the routes as they were understood, longest prefix first."""
    finished = run("check", "-c", good, environ=ENVIRON)

    assert finished.returncode == 0, finished.stderr
    assert "no problems" in finished.stdout
    assert finished.stdout.index("poetry") < finished.stdout.index("rest")
    for shown in ("https://upstream.example.com/v1/infers/X", "code (app_code)", "12MiB", "40s", "POST"):
        assert shown in finished.stdout


def test_every_problem_at_once(bad: Path) -> None:
    """Exit 2; each problem stands with file, line and path, and the secret that was written down is not repeated."""
    finished = run("check", "-c", bad)

    assert finished.returncode == 2
    assert finished.stdout == ""
    for path in ("listen", "credentials.code.app_code", "routes.0.credential", "routes.0.limits.body"):
        assert path in finished.stderr
    assert f"{bad}:5:" in finished.stderr
    assert "12MiB" in finished.stderr
    assert "written-down-secret" not in finished.stderr


def test_problems_as_json(bad: Path) -> None:
    """--json gives each problem its place, for editors and CI."""
    finished = run("check", "-c", bad, "--json")

    assert finished.returncode == 2
    problems = json.loads(finished.stdout)["problems"]
    assert {problem["path"] for problem in problems} >= {"listen", "credentials.code.app_code"}
    assert all({"file", "line", "column", "path", "message"} == set(problem) for problem in problems)


def test_routes_as_json(good: Path) -> None:
    """--json of a good file lists the routes, with units in the names."""
    finished = run("check", "--json", environ={**ENVIRON, "GATEWAY_CONFIG": str(good)})

    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert [route["name"] for route in report["routes"]] == ["poetry", "rest"]
    assert report["routes"][0]["body_bytes"] == 12 * 1024 * 1024
    assert report["routes"][0]["kind"] == "app_code"
    assert ENVIRON["APP_CODE"] not in finished.stdout


def test_warnings_are_not_problems(tmp_path: Path) -> None:
    """What is allowed but unwise is printed, and the exit status stays 0."""
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD + "listen: 0.0.0.0:8080\n")

    finished = run("check", "-c", path, environ=ENVIRON)

    assert finished.returncode == 0
    assert "warning" in finished.stdout


class Quiet(BaseHTTPRequestHandler):
    """Never asked anything: check opens connections and sends no request."""

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def tls_upstream(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A TLS port with a certificate of a private CA: its number and the CA's file."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = HTTPServer(("127.0.0.1", 0), Quiet)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port, tmp_path / "ca.pem"
    server.shutdown()
    thread.join()
    server.server_close()


def online_config(folder: Path, port: int, extra: str = "") -> Path:
    path = folder / "gateway.yaml"
    path.write_text(
        "credentials:\n  code: {kind: app_code, app_code: {env: APP_CODE}}\nroutes:\n"
        f"  - {{name: a, path: /a, upstream: 'https://localhost:{port}/x', credential: code, "
        f"connection: {{address: '127.0.0.1:{port}'{extra}}}}}\n"
    )
    return path


def test_online_all_well(tls_upstream: tuple[int, Path], tmp_path: Path) -> None:
    """A credential that is there and an upstream that can be trusted: exit 0."""
    port, ca = tls_upstream

    finished = run("check", "--online", "-c", online_config(tmp_path, port, f", ca: {ca}"), environ=ENVIRON)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "TLS connection" in finished.stdout


def test_online_untrusted_certificate(tls_upstream: tuple[int, Path], tmp_path: Path) -> None:
    """A certificate of an unknown CA is exit 1 and says what setting would help."""
    port, _ = tls_upstream

    finished = run("check", "--online", "-c", online_config(tmp_path, port), environ=ENVIRON)

    assert finished.returncode == 1
    assert "connection.ca" in finished.stdout
    assert "the world is not" in finished.stderr


async def test_online_obtains_tokens(tmp_path: Path) -> None:
    """Each token is really fetched: the right password is good, a wrong one is told apart, and neither is shown."""
    import asyncio

    from gateway.simulator import Simulator

    async with Simulator() as simulator:
        path = tmp_path / "gateway.yaml"
        known = simulator.credentials
        token = "kind: iam_token, iam_url: '{}', domain: {}, user: {}, project: {}"
        settings = token.format(simulator.urls["iam"], known["domain"], known["user"], known["project"])
        path.write_text(
            "credentials:\n"
            f"  right: {{{settings}, password: {{env: RIGHT}}}}\n"
            f"  wrong: {{{settings}, password: {{env: WRONG}}}}\n"
            "routes:\n"
            f"  - {{name: a, path: /a, upstream: '{simulator.urls['v1_iam']}', credential: right}}\n"
            f"  - {{name: b, path: /b, upstream: '{simulator.urls['v1_iam']}', credential: wrong}}\n"
        )
        environ = {"RIGHT": known["password"], "WRONG": "not-the-password"}

        finished = await asyncio.to_thread(run, "check", "--online", "--json", "-c", path, environ=environ)

    assert finished.returncode == 1, finished.stderr
    found = {finding["what"].split()[1]: finding for finding in json.loads(finished.stdout)["online"]}
    assert found["right"]["ok"]
    assert "hours" in found["right"]["message"]
    assert not found["wrong"]["ok"]
    assert all(value not in finished.stdout + finished.stderr for value in environ.values())
