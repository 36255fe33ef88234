"""Checks are answered with exactly what a data plane is to add, or with the gateway's refusal."""

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from raw_caller import Reply, ask
from running import as_process

from gateway import sockets
from gateway.authz import Authz
from gateway.cli import main
from gateway.config import Address, load
from gateway.credentials import kinds
from gateway.headers import CALLER_CREDENTIALS
from gateway.signing import UNSIGNED_PAYLOAD

ENVIRON = {"CODE": "the-code", "KEY": "the-key", "SECRET": "the-secret", "TEAM": "the-team"}
SIGNING = {"kind": "app_signature", "app_key": {"env": "KEY"}, "app_secret": {"env": "SECRET"}}
BASE = "https://service.example.com/v1/infers/1"
CONFIG: dict[str, Any] = {  # Any: YAML
    "credentials": {
        "code": {"kind": "app_code", "app_code": {"env": "CODE"}},
        "auto": SIGNING,
        "hash": {**SIGNING, "payload": "hash"},
        "aksk": {
            "kind": "aksk_signature",
            "access_key": {"env": "KEY"},
            "secret_key": {"env": "SECRET"},
            "project_id": "p1",
        },
        "token": {
            "kind": "iam_token",
            "iam_url": "http://127.0.0.1:9",
            "domain": "d",
            "user": "u",
            "password": {"env": "SECRET"},
            "project": "p",
        },
    },
    "routes": [
        {"name": "code", "path": "/code", "upstream": BASE, "credential": "code", "limits": {"body": "1KiB"}},
        {"name": "auto", "path": "/auto", "upstream": BASE, "credential": "auto", "methods": ["POST", "GET"]},
        {"name": "hash", "path": "/hash", "upstream": BASE, "credential": "hash"},
        {"name": "aksk", "path": "/aksk", "upstream": BASE, "credential": "aksk"},
        {"name": "token", "path": "/token", "upstream": BASE, "credential": "token"},
    ],
}
CALLERS = {
    "callers": [
        {"name": "team", "token": {"env": "TEAM"}, "routes": ["code"]},
        {"name": "host", "addresses": ["192.0.2.0/24"], "routes": ["auto"]},
    ]
}
OWNED = {"Authorization", "X-Auth-Token", "X-Apig-AppCode", "apikey", "X-Sdk-Date", "X-Security-Token", "X-Project-Id"}


class Door:
    """A started Authz, and where its configuration stands."""

    def __init__(self, authz: Authz, port: int, path: Path, admin_port: int) -> None:
        self.authz, self.port, self.path, self.admin_port = authz, port, path, admin_port

    async def counted(self) -> dict[str, float]:
        """The samples of its metrics, as they are written."""
        text = (await ask(self.admin_port, "GET", "/metrics")).body.decode()
        return {name: float(value) for name, value in re.findall(r"^(gateway_.*) (\S+)$", text, re.MULTILINE)}

    async def logged(self) -> list[dict[str, Any]]:  # Any: JSON
        """End it, and return the lines of its log of decisions."""
        await self.authz.close()
        return [json.loads(line) for line in (self.path.parent / "decisions.log").read_text().splitlines()]

    async def envoy(self, target: str, fields: Mapping[str, str] | None = None, method: str = "POST") -> Reply:
        return await ask(self.port, method, f"/envoy{target}", {"X-Original-Content-Length": "6", **(fields or {})})

    async def nginx(self, target: str, fields: Mapping[str, str] | None = None, path: str = "/nginx") -> Reply:
        said = {"X-Original-Method": "POST", "X-Original-URI": target, "X-Original-Content-Length": "6"}
        return await ask(self.port, "GET", path, {**said, **(fields or {})})


StartAuthz = Callable[..., Awaitable[Door]]


@pytest.fixture
async def start_authz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartAuthz]:
    """Starts one with CONFIG and ``more``."""
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    async with contextlib.AsyncExitStack() as stack:

        async def start(more: Mapping[str, Any] | None = None) -> Door:
            path = tmp_path / "gateway.yaml"
            path.write_text(yaml.safe_dump({**CONFIG, **(more or {})}))
            (sock,) = sockets.bind(Address("127.0.0.1", 0), "--listen")
            log = stack.enter_context((tmp_path / "decisions.log").open("wb"))
            authz = Authz(load(path, kinds()), path.read_bytes(), access_log_fd=log.fileno())
            admin_port = await authz.start(sock, Address("127.0.0.1", 0))
            stack.push_async_callback(authz.close)
            return Door(authz, sockets.port_of(sock), path, admin_port)

        yield start


def told(reply: Reply) -> dict[str, str]:
    """The credential fields of a permission."""
    return {name: value for name, value in reply.fields if name in OWNED or name.startswith("X-Sdk-")}


async def test_fixed_credential(start_authz: StartAuthz) -> None:
    """The answer is the credential, where to send, and every other credential's name to remove."""
    door = await start_authz()

    reply = await door.envoy("/code/x?a=1", {"Authorization": "Bearer theirs", "X_Auth_Token": "1", "X-HW-Id": "2"})

    removed = set((reply.get("X-Envoy-Auth-Headers-To-Remove") or "").split(","))
    assert reply.status == 200
    assert told(reply) == {"X-Apig-AppCode": "the-code"}
    assert (reply.get("X-Gateway-Path"), reply.get("X-Gateway-Host")) == ("/v1/infers/1/x?a=1", "service.example.com")
    assert reply.get("X-Gateway-Route") == "code"
    assert reply.get("Cache-Control") == "no-store"
    assert removed >= {name.decode() for name in CALLER_CREDENTIALS} - {"x-apig-appcode"} | {"x_auth_token", "x-hw-id"}
    assert "x-apig-appcode" not in removed, "Envoy removes after it has written"


@pytest.mark.parametrize(
    ("fields", "unsigned"),
    [
        pytest.param({"X-Original-Content-Length": "5000000"}, True, id="a body"),
        pytest.param({"X-Original-Content-Length": "1"}, True, id="a small one that serve would hash"),
        pytest.param({"X-Original-Content-Length": "", "X-Original-Transfer-Encoding": "chunked"}, True, id="chunked"),
        pytest.param({"X-Original-Content-Length": "0"}, False, id="declared empty"),
        pytest.param({"X-Original-Content-Length": ""}, False, id="none"),
    ],
)
async def test_what_signatures_cover(start_authz: StartAuthz, fields: dict[str, str], unsigned: bool) -> None:
    """A body that may come is announced as unsigned; where none comes the signature says so."""
    door = await start_authz()

    reply = await door.envoy("/auto/x?b=2&a=1+x", fields)

    assert reply.status == 200
    assert told(reply).get("X-Sdk-Content-Sha256") == (UNSIGNED_PAYLOAD if unsigned else None)
    assert reply.get("X-Gateway-Path") == "/v1/infers/1/x?a=1%20x&b=2"
    assert "SDK-HMAC-SHA256" in told(reply)["Authorization"]


async def test_stage_and_project(start_authz: StartAuthz) -> None:
    """What a signature covers beside the path is written by authz; a stage that was not signed is removed."""
    door = await start_authz()

    once = await door.envoy("/aksk", {"X-Stage": "TEST", "X-Project-Id": "theirs"})
    none = await door.envoy("/aksk")

    assert (once.get("X-Stage"), once.get("X-Project-Id")) == ("TEST", "p1")
    assert "x-stage" in told(once)["Authorization"]
    assert "x-stage" not in (once.get("X-Envoy-Auth-Headers-To-Remove") or "").split(",")
    assert "x-stage" in (none.get("X-Envoy-Auth-Headers-To-Remove") or "").split(",")


REFUSALS = [
    pytest.param("/nothing", {}, 404, "Gateway.RouteNotFound", id="no route"),
    pytest.param("/code/%2e%2e/x", {}, 400, "Gateway.BadPath", id="a dot segment"),
    pytest.param("/auto//x", {}, 400, "Gateway.BadPath", id="not to be signed in one way"),
    pytest.param("/code", {"X-Original-Content-Length": "2000"}, 413, "Gateway.BodyTooLarge", id="too large"),
    pytest.param("/code", {"X-Original-Content-Length": "x"}, 400, "Gateway.BadRequest", id="no length"),
    pytest.param("/code", {"Origin": "http://evil.example"}, 403, "Gateway.OriginNotAllowed", id="a page"),
    pytest.param("/code", {"Sec-Fetch-Site": "cross-site"}, 403, "Gateway.OriginNotAllowed", id="a page's image"),
    pytest.param("/hash", {}, 503, "Gateway.CredentialUnavailable", id="a hash of what is not here"),
    pytest.param("/token", {}, 503, "Gateway.CredentialUnavailable", id="no token"),
]


@pytest.mark.parametrize(("target", "fields", "status", "code"), REFUSALS)
async def test_refusals(start_authz: StartAuthz, target: str, fields: dict[str, str], status: int, code: str) -> None:
    """A refusal is the gateway's own, holds no credential, and reaches nginx's callers by the second question."""
    door = await start_authz()

    to_envoy = await door.envoy(target, fields)
    to_nginx = await door.nginx(target, fields)
    again = await door.nginx(target, fields, path="/nginx-refusal")

    assert [(reply.status, reply.code) for reply in (to_envoy, to_nginx, again)] == [
        (status, code),
        (403, code),
        (status, code),
    ]
    assert all(told(reply) == {} for reply in (to_envoy, to_nginx, again))
    assert all(reply.get("X-Gateway-Path") is None for reply in (to_envoy, to_nginx, again))


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        pytest.param("/code", {"Authorization": "Bearer the-team"}, 200, id="a token"),
        pytest.param("/auto", {"Authorization": "Bearer the-team"}, 403, id="another's route"),
        pytest.param("/code", {"Authorization": "Bearer wrong"}, 401, id="a wrong token"),
        pytest.param("/code", {}, 401, id="nobody"),
        pytest.param("/auto", {"X-Original-Address": "192.0.2.7"}, 200, id="an address"),
        pytest.param("/auto", {"X-Original-Address": "198.51.100.7"}, 401, id="a stranger's address"),
    ],
)
async def test_callers(start_authz: StartAuthz, target: str, fields: dict[str, str], status: int) -> None:
    """Callers are who they are in `serve`; the address is the one that the proxy tells."""
    door = await start_authz(CALLERS)

    assert (await door.envoy(target, fields)).status == status
    assert (await door.nginx(target, fields)).status == status


async def test_method(start_authz: StartAuthz) -> None:
    """The method is the check's own for Envoy, and what nginx says."""
    door = await start_authz()

    assert (await door.envoy("/auto", method="DELETE")).code == "Gateway.MethodNotAllowed"
    assert (await door.nginx("/auto", {"X-Original-Method": "DELETE"})).code == "Gateway.MethodNotAllowed"
    assert (await door.nginx("/auto", {"X-Original-Method": "GET"})).status == 200


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        pytest.param("/", {}, id="no check"),
        pytest.param("/code", {}, id="without Envoy's prefix"),
        pytest.param("/envoyage", {}, id="a prefix of a segment"),
        pytest.param("/nginx", {}, id="nginx without words"),
        pytest.param("/nginx", {"X-Original-URI": "/code"}, id="without a method"),
        pytest.param("/nginx/code", {"X-Original-URI": "/code", "X-Original-Method": "GET"}, id="below nginx"),
        pytest.param("/envoy/code", {"X-Original-Address": "a", "x-original-address": "b"}, id="said twice"),
        pytest.param(
            "/nginx",
            {"X-Original-URI": "/code", "X-Original-Method": "GET", "X-Sdk-Other": "1"},
            id="nginx cannot remove it",
        ),
    ],
)
async def test_no_check(start_authz: StartAuthz, path: str, fields: dict[str, str]) -> None:
    """What is not clearly a check is refused."""
    door = await start_authz()

    reply = await ask(door.port, "GET", path, fields)

    assert reply.status in {400, 403}
    assert reply.code == "Gateway.BadRequest"
    assert told(reply) == {}


async def test_second_question_tells_no_credential(start_authz: StartAuthz) -> None:
    """The question for the reason of a refusal never brings a credential, which nginx would hand to the caller."""
    door = await start_authz()

    reply = await door.nginx("/code", path="/nginx-refusal")

    assert (reply.status, reply.code, told(reply)) == (503, "Gateway.CredentialUnavailable", {})


async def test_reload(start_authz: StartAuthz) -> None:
    """A changed file serves from the next check on; a broken one leaves the old routes."""
    door = await start_authz()
    routes = [{**CONFIG["routes"][0], "name": "new", "path": "/new"}]

    door.path.write_text(yaml.safe_dump({**CONFIG, "routes": routes}))
    assert await door.authz.file.reload()
    door.path.write_text("routes: what?")
    assert not await door.authz.file.reload()

    assert (await door.envoy("/new")).status == 200
    assert (await door.envoy("/code")).status == 404


async def test_health(start_authz: StartAuthz) -> None:
    """Healthy as soon as it answers; ready when every credential is usable, and it says which is not."""
    door = await start_authz()

    ready = await ask(door.port, "GET", "/readyz")

    assert (await ask(door.port, "GET", "/healthz")).status == 200
    assert ready.status == 503
    assert "token" in str(ready.json()["reasons"])


async def test_decisions_are_counted(start_authz: StartAuthz) -> None:
    """Permissions and refusals count as `serve` counts requests; nginx's second question about a refusal does not."""
    door = await start_authz(CALLERS)
    ours = {"X-API-Key": ENVIRON["TEAM"]}

    await door.envoy("/code/x", ours)
    await door.nginx("/code/x", ours)
    await door.envoy("/auto", ours)
    await door.nginx("/auto", ours)
    await door.nginx("/auto", ours, path="/nginx-refusal")
    await door.envoy("/code")
    await ask(door.port, "GET", "/else")

    counted = await door.counted()
    requests = {name: count for name, count in counted.items() if name.startswith("gateway_requests_total")}
    assert requests == {
        'gateway_requests_total{code="200",method="POST",route="code"}': 2,
        'gateway_requests_total{code="403",method="POST",route="auto"}': 2,
        'gateway_requests_total{code="401",method="POST",route="-"}': 1,
        'gateway_requests_total{code="400",method="GET",route="-"}': 1,
    }
    assert counted['gateway_errors_total{error="Gateway.CallerNotAllowed",route="auto"}'] == 2
    assert counted['gateway_request_duration_seconds_count{route="code"}'] == 2


async def test_decisions_are_logged(start_authz: StartAuthz) -> None:
    """One line for each check: who, where, what was decided; no query, no field, no credential."""
    door = await start_authz(CALLERS)
    ours = {"X-API-Key": ENVIRON["TEAM"], "X-Request-Id": "id-1"}

    await door.envoy("/code/x?secret=1", ours)
    await door.envoy('/nothing/"%C3%A9?secret=1', {**ours, "X-Request-Id": "id-2"}, method="PUT")

    lines = await door.logged()
    kept = ("request_id", "caller", "route", "method", "path", "code", "outcome", "error")
    assert [tuple(line[name] for name in kept) for line in lines] == [
        ("id-1", "team", "code", "POST", "/code/x", 200, "complete", None),
        ("id-2", "team", "-", "PUT", '/nothing/"%C3%A9', 404, "complete", "Gateway.RouteNotFound"),
    ]
    assert not [value for value in ("secret", *ENVIRON.values()) if value in json.dumps(lines)]


async def test_who_may_only_look(start_authz: StartAuthz) -> None:
    """The admin address tells what state credentials are in, and answers no check."""
    door = await start_authz()

    counted = await door.counted()
    status = await ask(door.admin_port, "GET", "/status", {"Accept": "application/json"})
    check = await ask(door.admin_port, "POST", "/envoy/code", {"X-Original-Content-Length": "6"})

    assert counted['gateway_credential_usable{credential="code"}'] == 1
    assert counted['gateway_credential_usable{credential="token"}'] == 0
    assert counted["gateway_config_last_reload_successful"] == 1
    assert {one["name"]: one["usable"] for one in status.json()["credentials"]}["token"] is False
    assert check.status in {404, 405}
    assert not [value for value in ENVIRON.values() if value.encode() in status.body + check.body]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--admin", "9192"), id="an admin port alone"),
        pytest.param(("--listen", "9191"), id="a port alone"),
        pytest.param(("--listen", "https://localhost"), id="a URL"),
        pytest.param(("--envoy-prefix", "envoy"), id="a prefix without its slash"),
        pytest.param(("--envoy-prefix", "/"), id="no prefix"),
    ],
)
def test_wrong_usage(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option is status 2 and names the option."""
    assert main(["authz", "-c", "gateway.yaml", *options]) == 2
    assert options[0] in capsys.readouterr().err


async def test_command_on_a_unix_socket(tmp_path: Path) -> None:
    """The command answers on a Unix socket, that nobody else takes meanwhile, and ends with 0 on SIGTERM."""
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "listen": "127.0.0.1:1", "admin": "127.0.0.1:2"}))
    program = ("-m", "gateway", "authz", "--listen", f"unix:{tmp_path}/authz.sock", "-c")
    (tmp_path / "second").mkdir()

    async with as_process(path, tmp_path, ENVIRON, wait=False, program=program) as first:
        await first.says(" authorises ")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "authz.sock")
        writer.write(b"GET /envoy/code HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        async with as_process(path, tmp_path / "second", ENVIRON, wait=False, program=program) as second:
            assert await second.ended() == 1
            assert "cannot listen on unix:" in second.stderr
        first.signal(signal.SIGTERM)
        status = await first.ended()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"X-Apig-AppCode: the-code" in answer
    assert status == 0


async def test_command_with_an_admin_address(tmp_path: Path) -> None:
    """The command says where to look, and does not start where somebody else listens there."""
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "listen": "127.0.0.1:1", "admin": "127.0.0.1:2"}))
    program = ("-m", "gateway", "authz", "--listen", "127.0.0.1:0", "--admin")
    (tmp_path / "second").mkdir()

    async with as_process(path, tmp_path, ENVIRON, wait=False, program=(*program, "127.0.0.1:0", "-c")) as first:
        await first.says(" authorises ")
        found = re.search(r"admin on (127\.0\.0\.1:(\d+))", first.stderr)
        assert found is not None
        alive = await ask(int(found[2]), "GET", "/healthz")
        more = {"wait": False, "program": (*program, found[1], "-c")}
        async with as_process(path, tmp_path / "second", ENVIRON, **more) as second:
            status = await second.ended()

    assert alive.status == 200
    assert status == 1
    assert f"cannot listen on {found[1]} (--admin)" in second.stderr
