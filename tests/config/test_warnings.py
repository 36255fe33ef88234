"""What is allowed, and said all the same."""

from pathlib import Path

import pytest

from .support import ROUTE, loaded

CODE = "credentials: {code: {kind: app_code, app_code: {env: APP_CODE}}}\n"


def _route(keys: str = "", upstream: str = "https://h.example", credential: str = "none") -> str:
    return f'routes: [{{name: a, path: /a, upstream: "{upstream}", credential: {credential}{keys}}}]\n'


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        pytest.param(ROUTE, [], id="nothing to say"),
        pytest.param(CODE + _route(upstream="http://h.example:81/x", credential="code"), ["route 'a' sends credential 'code' over http to h.example:81"], id="credential over http"),
        pytest.param(CODE + _route(upstream="http://127.0.0.1:81", credential="code"), [], id="on loopback"),
        pytest.param(_route(upstream="http://h.example"), [], id="http without a credential"),
        pytest.param(
            "credentials: {t: {kind: iam_token, user: u, password: {env: APP_CODE}, iam_url: 'http://iam.example'}}\n" + _route(credential="t"),
            ["credential 't' is obtained over http from iam.example (iam_url)"],
            id="IAM over http",
        ),
        pytest.param(
            "credentials: {t: {kind: iam_token, user: u, password: {env: APP_CODE}, iam_url: 'http://[::1]:1'}}\n" + _route(credential="t"), [], id="IAM on loopback"
        ),
        pytest.param("listen: 0.0.0.0:8080\n" + _route(), ["listen 0.0.0.0:8080 is open to the network with neither callers nor tls.client_ca"], id="open to the network"),
        pytest.param("listen: unix:/run/g.sock\n" + _route(), [], id="Unix socket"),
        pytest.param("listen: 10.0.0.1:8080\ncallers: [{name: a, addresses: [10.0.0.0/8], routes: ['*']}]\n" + _route(), [], id="with callers"),
        pytest.param(
            "listen: 10.0.0.1:8080\ncallers: [{name: a, token: {env: APP_SECRET}, routes: ['*']}]\n" + _route(),
            ["callers send their tokens over http to 10.0.0.1:8080"],
            id="tokens over http",
        ),
        pytest.param("callers: [{name: a, addresses: [10.0.0.0/8], routes: [a]}]\n" + _route(), [], id="every route has a caller"),
        pytest.param("listen: unix:/g.sock\ncallers: [{name: a, addresses: [10.0.0.0/8], routes: [a]}]\n" + _route(), ["caller 'a' is known by its address"], id="address on a Unix socket"),
        pytest.param(CODE + _route(), ["no route uses credential 'code'"], id="unused credential"),
        pytest.param(_route(", limits: {deadline: 3s, first_byte: none}"), ["route 'a': limits.connect is longer than limits.deadline (3s)"], id="connect longer than deadline"),
        pytest.param(_route(", limits: {deadline: 10m}"), ["process.drain (45s) is shorter than the longest limits.deadline (10m)"], id="drain shorter than deadline"),
        pytest.param("process: {body_memory: 1KiB}\n" + _route(), ["route 'a': replay is larger than process.body_memory"], id="replay beyond memory"),
        pytest.param(_route(", websocket: true, methods: [POST]"), ["route 'a': a WebSocket handshake is a GET"], id="websocket without GET"),
        pytest.param(_route(upstream="http://localhost:8080"), [], id="localhost is not compared by name"),
        pytest.param("listen: 0.0.0.0:8080\ncallers: [{name: a, addresses: [127.0.0.1], routes: ['*']}]\n" + _route(upstream="http://127.0.0.1:8080"), ["route 'a' leads back to this gateway"], id="a loop"),
    ],
)  # fmt: skip
def test_warnings(tmp_path: Path, text: str, warnings: list[str]) -> None:
    """Each warning names what it is about."""
    found = loaded(tmp_path, text).warnings

    assert len(found) == len(warnings)
    for warning, beginning in zip(found, warnings, strict=True):
        assert warning.startswith(beginning)


def test_an_odd_secret(tmp_path: Path) -> None:
    """A secret in quotation marks, as some ways of setting a variable leave it, is used and warned about."""
    found = loaded(tmp_path, CODE + _route(credential="code"), environ={"APP_CODE": '"hunter2"'}).warnings

    assert found == ("environment variable APP_CODE stands in quotation marks: is that part of the secret?",)


def test_a_route_nobody_may_use(tmp_path: Path) -> None:
    """A route that no caller names is unreachable, and said so."""
    text = """
        routes:
          - {name: a, path: /a, upstream: "https://h", credential: none}
          - {name: b, path: /b, upstream: "https://h", credential: none}
        callers: [{name: x, addresses: [127.0.0.1], routes: [a]}]
        """
    assert loaded(tmp_path, text).warnings == ("no caller may use route 'b'",)
