"""`explain`: the request that would leave, from the code that would send it, with nothing secret in sight."""

import asyncio
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway import signing

from .command import run

ENVIRON = {
    "APP_KEY": "4f1e8d0aa9944c5c8a1e000000000001",
    "APP_SECRET": "s3cr3t-of-the-app-nobody-may-see",
    "SECURITY_TOKEN": "security-token-nobody-may-see",
    "APP_CODE": "app-code-nobody-may-see",
    "PASSWORD": "password-nobody-may-see",
}
CONFIG = """\
credentials:
  signed: {kind: app_signature, app_key: {env: APP_KEY}, app_secret: {env: APP_SECRET}}
  temporary:
    kind: aksk_signature
    access_key: {env: APP_KEY}
    secret_key: {env: APP_SECRET}
    security_token: {env: SECURITY_TOKEN}
  code: {kind: app_code, app_code: {env: APP_CODE}}
  token: {kind: iam_token, iam_url: "http://127.0.0.1:9", domain: d, user: u, password: {env: PASSWORD}, project: p}
routes:
  - {name: poetry, path: /poetry, upstream: "https://up.example.com:8443/v1/infers/X", credential: signed, methods: [POST]}
  - {name: long, path: /poetry/long, upstream: "https://up.example.com/v1/infers/Y", credential: temporary}
  - {name: code, path: /code, upstream: "https://up.example.com/v1/infers/Z", credential: code, limits: {body: 10B}}
  - {name: token, path: /token, upstream: "https://up.example.com/v1/infers/T", credential: token}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Routes with every sort of credential."""
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    return path


def explain(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("explain", "-c", config, *arguments, environ=ENVIRON)


def explained(config: Path, *arguments: str) -> dict[str, object]:
    value: dict[str, object] = json.loads(explain(config, "--json", *arguments).stdout)
    return value


def test_which_route_and_why_not_the_others(config: Path) -> None:
    """Each route stands with its reason."""
    routes = {route["name"]: route for route in explained(config, "POST", "/poetry/x")["routes"]}  # type: ignore[attr-defined, union-attr] # JSON

    assert [name for name, route in routes.items() if route["taken"]] == ["poetry"]
    assert "does not begin with /code" in routes["code"]["reason"]
    assert "does not begin with /poetry/long" in routes["long"]["reason"]
    shorter = {route["name"]: route for route in explained(config, "POST", "/poetry/long/x")["routes"]}  # type: ignore[attr-defined, union-attr]
    assert "/poetry/long is longer" in shorter["poetry"]["reason"]
    within = {route["name"]: route for route in explained(config, "POST", "/poetryx")["routes"]}  # type: ignore[attr-defined, union-attr]
    assert "within the segment" in within["poetry"]["reason"]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        pytest.param(("POST", "/nowhere"), 404, "Gateway.RouteNotFound", id="no route"),
        pytest.param(("GET", "/poetry"), 405, "Gateway.MethodNotAllowed", id="method"),
        pytest.param(("CONNECT", "/poetry"), 405, "Gateway.MethodNotAllowed", id="CONNECT"),
        pytest.param(("POST", "/poetry/../code"), 400, "Gateway.BadPath", id="dot segment"),
        pytest.param(("POST", "/poetry/%2e%2e/code"), 400, "Gateway.BadPath", id="encoded dot segment"),
        pytest.param(("POST", "/poetry/a//b"), 400, "Gateway.BadPath", id="empty segment on a signed route"),
        pytest.param(("POST", "/poetry?=1"), 400, "Gateway.BadPath", id="empty query key on a signed route"),
        pytest.param(("POST", "/poetry/ü"), 400, "Gateway.BadPath", id="raw non-ASCII"),
        pytest.param(("POST", "/code", "-d", "eleven bytes"), 413, "Gateway.BodyTooLarge", id="too large"),
        pytest.param(("POST", "/code", "-H", "Bad Name: x"), 400, "Gateway.BadRequest", id="header name"),
        pytest.param(
            ("POST", "/code", "-H", "X: " + "x" * 70_000), 431, "Gateway.HeadersTooLarge", id="head too large"
        ),
        pytest.param(("POST", "/code" + "x" * 70_000), 414, "Gateway.UriTooLong", id="line too long"),
        pytest.param(("GET", "/code", "-H", "Origin: https://a.example"), 403, "Gateway.OriginNotAllowed", id="origin"),
    ],
)
def test_what_the_gateway_would_refuse(config: Path, arguments: tuple[str, ...], status: int, code: str) -> None:
    """A refusal is exit 1, with the status and the error_code that callers would get."""
    finished = explain(config, *arguments)

    assert finished.returncode == 1
    assert f"{status} " in finished.stdout
    assert code in finished.stdout
    assert "what would leave" not in finished.stdout
    assert explained(config, *arguments)["refusal"]["error_code"] == code  # type: ignore[index] # JSON


def test_the_request_that_leaves(config: Path) -> None:
    """Method, URL and headers in order; the caller's credentials are gone, the route's is there."""
    finished = explain(
        config,
        "POST", "/code/predictions?b=2&a=1", "-H", "Authorization: Bearer of-the-caller", "-H", "X-Thing: 1", "-d", "12345",
    )  # fmt: skip

    assert finished.returncode == 0, finished.stderr
    assert "POST https://up.example.com/v1/infers/Z/predictions?b=2&a=1" in finished.stdout
    lines = [line.strip() for line in finished.stdout.splitlines()]
    assert "Host: up.example.com" in lines
    assert any(re.fullmatch(r"Via: 1\.1 modelarts-gateway-[0-9a-f]{12}", line) for line in lines)
    assert "X-Thing: 1" in lines
    assert "X-Apig-AppCode: ***" in lines
    assert "Content-Length: 5" in lines
    assert not any(line.startswith("Authorization:") for line in lines)
    assert "of-the-caller" not in finished.stdout


@pytest.mark.parametrize("json_output", [False, True], ids=["people", "json"])
@pytest.mark.parametrize("path", ["/poetry", "/poetry/long", "/code", "/token"])
def test_nothing_secret_is_shown(config: Path, path: str, json_output: bool) -> None:
    """No secret, no whole key id and no signature is in the output, whatever the kind: it can go into a ticket."""
    finished = explain(
        config, *(["--json"] if json_output else []), "POST", path, "-d", "{}", "-H", "Cookie: session=1234567"
    )

    assert finished.returncode == 0, finished.stderr
    shown = finished.stdout + finished.stderr
    assert all(value not in shown for value in ENVIRON.values())
    assert "1234567" not in shown
    assert not re.search(r"Signature=[0-9a-f]", shown)


def test_a_token_would_be_fetched(config: Path) -> None:
    """Nothing is obtained for an explanation; the header that a token goes into is named."""
    finished = explain(config, "POST", "/token")

    assert finished.returncode == 0, finished.stderr
    assert "X-Auth-Token: ***" in finished.stdout
    assert "obtain" in finished.stdout


def test_the_texts_are_those_that_were_signed(config: Path) -> None:
    """The string to sign, signed with the secret, is the signature on the wire; it covers the canonical request shown."""
    from gateway import credentials
    from gateway.cli.dry_run import Given, dry_run, signed_texts
    from gateway.config import load

    loaded = load(config, credentials.kinds(), environ=ENVIRON)

    for path in (b"/poetry/x?b=2&a=1+2", b"/poetry/long"):
        dry = asyncio.run(dry_run(loaded, Given("POST", path, body=b'{"a": 1}')))
        texts = signed_texts(dry)
        assert texts is not None
        canonical, to_sign = texts
        expected = signing.signature(ENVIRON["APP_SECRET"], to_sign)
        assert dict(dry.fields)["Authorization"].endswith(f"Signature={expected}")
        assert to_sign.endswith(hashlib.sha256(canonical.encode()).hexdigest())


def test_the_body_from_a_file(config: Path, tmp_path: Path) -> None:
    """-d @FILE reads the file, bytes as they are; a missing one is a usage error."""
    (tmp_path / "body").write_bytes(b"\x00\xff\n")

    payload = hashlib.sha256(b"\x00\xff\n").hexdigest()
    assert payload in explain(config, "POST", "/poetry", "-d", f"@{tmp_path / 'body'}").stdout
    missing = explain(config, "POST", "/poetry", "-d", f"@{tmp_path / 'nobody'}")
    assert missing.returncode == 2
    assert "nobody" in missing.stderr


def test_curl_says_that_it_is_live(config: Path) -> None:
    """--curl holds the credential, and says so where it does not end up in a script."""
    finished = explain(config, "--curl", "POST", "/code", "-d", "{}")

    assert finished.returncode == 0, finished.stderr
    assert ENVIRON["APP_CODE"] in finished.stdout
    assert "live credential" in finished.stderr
    assert "live credential" not in finished.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_runs(tmp_path: Path) -> None:
    """The command that --curl prints is one the upstream accepts: signed, with a token, with a code."""
    from gateway.simulator import Simulator
    from gateway.simulator.example import example_config

    async with Simulator() as simulator:
        path = tmp_path / "gateway.yaml"
        path.write_text(example_config(simulator.urls, simulator.credentials, tmp_path / "secrets"))
        for route in ("/aksk/a b?x=1&a=2".replace(" ", "%20"), "/app", "/token", "/code", "/open"):
            body = ["-d", '{"it\'s": "quoted"}', "-H", "Content-Type: application/json"]
            printed = await asyncio.to_thread(run, "explain", "-c", path, "--curl", "POST", route, *body)
            assert printed.returncode == 0, printed.stderr
            sent = await asyncio.to_thread(
                subprocess.run, ["bash", "-c", printed.stdout], capture_output=True, text=True, check=False
            )
            assert "HTTP/1.1 200" in sent.stdout, sent.stdout


def test_wrong_header_syntax(config: Path) -> None:
    """A -H without a colon is a usage error that shows how it is written."""
    finished = explain(config, "GET", "/code", "-H", "nothing")

    assert finished.returncode == 2
    assert "Content-Type: application/json" in finished.stderr


def test_method_and_path_the_wrong_way_round(config: Path) -> None:
    """Whoever writes the path first is told the order."""
    finished = explain(config, "/poetry", "post")

    assert finished.returncode == 2
    assert "Write POST /poetry" in finished.stderr
