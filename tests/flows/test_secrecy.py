"""No credential, signed value or body shows itself anywhere: every path is walked, everything said is gathered and searched."""

import asyncio
import base64
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, quote_plus

import yaml
from fake_modelarts import FakeModelArts, raw, refuses, says, stalls
from raw_caller import Caller, CutOff, request_bytes
from running import ROOT, Document, Process, StartProcess, document, free_port, route

from flows.setups import credentials, environ, routes
from gateway.simulator import Options, Simulator

# Distinctive, and different in base64 and percent-encoding.
PLANTED = Options(
    password="pl4nted/p4ssword+of=iam&x",
    sk="pl4nted/secret+key=0",
    temporary_sk="pl4nted/temporary+key=0",
    security_token="pl4nted/security+token=0",
    app_secret="pl4nted/app+secret=0",
    app_code="pl4nted/app+code=0",
    app_key="pl4nted-app-key-0",
    api_key="pl4nted/api+key=0",
    word_seconds=0.001,
)
CALLER_TOKEN = "pl4nted/caller+token=0"
WRONG_TOKEN = "pl4nted/wrong+caller=0"
BODY = b"pl4nted/body+of=a-request"
QUERY = "pl4nted-query-of-a-request"
# AppKeys, access keys and user names are names, not secrets: the vendor's own refusals repeat them. But where a kind has
# nothing but its AppKey, that is the credential.
SECRETS = [
    PLANTED.password, PLANTED.sk, PLANTED.temporary_sk, PLANTED.security_token, PLANTED.app_secret,
    PLANTED.app_code, PLANTED.app_key, PLANTED.api_key, CALLER_TOKEN, WRONG_TOKEN,
]  # fmt: skip
# Serves with everything logged that can be: our modules', asyncio's and everybody else's.
AT_DEBUG_LEVEL = """\
import logging, sys
from gateway import logs, server
def everything(**more):
    writer = logs.setup_logging("DEBUG", **more)
    logging.getLogger().setLevel("DEBUG")
    logging.getLogger("gateway").debug("everything is logged")
    return writer
server.setup_logging = everything
raise SystemExit(server.run(sys.argv[1]))
"""


def spellings(secret: str) -> Iterable[str]:
    """A secret as it may stand in a text: plain, encoded, or the longest part of it that base64 does not mix with neighbours."""
    yield secret
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield secret[:-1]
    for shift in range(3):
        encoded = base64.b64encode(b"\x00" * shift + secret.encode()).decode().rstrip("=")
        yield encoded[(0, 2, 3)[shift] : -2]


def searched(gathered: dict[str, bytes], secrets: Iterable[str]) -> list[tuple[str, str]]:
    return [
        (where, secret)
        for where, text in gathered.items()
        for secret in secrets
        if any(spelling.encode() in text for spelling in spellings(secret))
    ]


class Gathering:
    """Sends requests and keeps every byte that came back."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: dict[str, bytes] = {}

    async def ask(
        self, name: str, method: str, target: str, fields: dict[str, str] | None = None, body: bytes | None = None
    ) -> int:
        return await self.raw(name, request_bytes(method, target, self._known(fields), body), self.process.port)

    async def admin(self, target: str) -> int:
        return await self.raw(f"admin {target}", request_bytes("GET", target), self.process.admin_port)

    async def raw(self, name: str, data: bytes, port: int) -> int:
        async with Caller(port) as caller, asyncio.timeout(15):
            await caller.send(data)
            try:
                reply = await caller.reply(to_head=data.startswith(b"HEAD"))
            except CutOff as cut:
                self.said[name] = cut.got
                return 0
        self.said[name] = repr(reply.fields).encode() + reply.reason.encode() + reply.body
        return reply.status

    @staticmethod
    def _known(fields: dict[str, str] | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {CALLER_TOKEN}", **(fields or {})}


def configuration(simulator: Simulator, fake: FakeModelArts) -> Document:
    """Every credential, on the simulator and on an upstream that misbehaves, for one known caller."""
    more = [
        route(f"fake-{name}", f"{fake.url}/v1/infers/S", name, limits={"deadline": "500ms"}, replay="64KiB")
        for name in credentials(simulator)
    ]
    dead = route("dead", f"http://127.0.0.1:{free_port()}", "app", breaker={"failures": 2, "open": "60s"})
    callers = [{"name": "known", "token": {"env": "CALLER"}, "routes": ["*"]}]
    return document(*routes(simulator), *more, dead, credentials=credentials(simulator), callers=callers)


async def command(*arguments: str, environ: dict[str, str]) -> bytes:
    """What a command prints, on both streams."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "gateway", *arguments,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ}, cwd=tempfile.gettempdir(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return output


async def test_nothing_shows_itself(start_process: StartProcess, tmp_path: Path) -> None:
    """Logs, answers of both ports and the commands' output hold no planted secret, no token, no signature and no body."""
    secrets = list(SECRETS)
    async with Simulator(PLANTED) as simulator, FakeModelArts() as fake:
        config = configuration(simulator, fake)
        known = environ(simulator) | {"CALLER": CALLER_TOKEN}
        process = await start_process(config, known | {"PYTHONASYNCIODEBUG": "1"}, program=("-c", AT_DEBUG_LEVEL))
        gathering = Gathering(process)

        statuses = await walk_every_path(gathering, simulator, fake, config)
        for request in fake.received:
            for name in ("Authorization", "X-Auth-Token"):
                secrets += [value.rpartition("Signature=")[2] for value in request.all(name)]
        await refuse_a_reload(process, config)
        path = str(next(tmp_path.glob("process-*/gateway.yaml")))
        commands = [command("check", "-c", path, environ=known), command("check", "-c", path, "--json", environ=known)]
        commands += [command("check", "-c", path, "--online", environ=known)]
        for name in ("token", "temporary", "app", "code", "maas"):
            arguments = ("explain", "-c", path, "POST", f"/{name}/v1/models?a=1", "-d", "{}")
            commands.append(command(*arguments, environ=known))
        commands.append(command("explain", "-c", path, "--json", "POST", "/app/x", "-d", "{}", environ=known))
        for number, output in enumerate(await asyncio.gather(*commands)):
            gathering.said[f"command {number}"] = output
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0

    gathering.said["stderr"] = process.stderr.encode()
    gathering.said["stdout"] = process.stdout.encode()
    assert {200, 400, 401, 403, 404, 413, 429, 502, 503, 504, 0} <= statuses
    assert len(process.access_log()) > 30
    assert "everything is logged" in process.stderr
    assert searched(gathering.said, secrets) == []
    logs = {name: gathering.said[name] for name in ("stderr", "stdout", "admin /status", "admin /metrics", "admin /")}
    assert searched(logs, [BODY.decode(), QUERY]) == []


async def walk_every_path(
    gathering: Gathering, simulator: Simulator, fake: FakeModelArts, config: Document
) -> set[int]:
    """Requests that succeed, are refused on either side, break off, time out, and are tried again."""
    ask = gathering.ask
    names = [entry["name"] for entry in config["routes"]]
    statuses = set()
    for name in names:
        fake.behaviour = says("200 OK", b"ok")
        statuses.add(await ask(f"{name} plain", "POST", f"/{name}/echo?q={QUERY}", {}, BODY))
        statuses.add(await ask(f"{name} large", "POST", f"/{name}/echo", {}, BODY * 5000))
        statuses.add(await ask(f"{name} too large", "POST", f"/{name}/echo", {"Content-Length": "99999999"}))
    for kind in credentials(simulator):
        path = f"/fake-{kind}/x?q={QUERY}"
        for number, behaviour in enumerate(
            (
                refuses("401 Unauthorized", "APIG.0307", "The token must be updated."),
                refuses("500 Internal Server Error", "APIG.0201", "An unexpected error occurred."),
                raw(b"", then="reset"),
                raw(b"not HTTP at all\r\n\r\n"),
                raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
                refuses("429 Too Many Requests", "APIG.0308", "The throttling threshold has been reached."),
            )
        ):
            fake.behaviour = behaviour
            statuses.add(await ask(f"{kind} trouble {number}", "POST", path, {}, BODY))
    fake.behaviour = stalls
    statuses.add(await ask("late", "POST", f"/fake-code/x?q={QUERY}", {}, BODY))
    simulator.tokens.revoke_all()
    statuses.add(await ask("dead token", "POST", "/token/echo", {}, BODY))
    for _ in range(3):
        statuses.add(await ask("unreachable", "POST", f"/dead/x?q={QUERY}", {}, BODY))
    statuses.add(await ask("no route", "GET", f"/nowhere?q={QUERY}"))
    statuses.add(await ask("bad path", "GET", f"/code/../x?q={QUERY}"))
    statuses.add(await ask("unsignable", "GET", f"/app/x?=1&q={QUERY}"))
    statuses.add(await ask("unknown caller", "GET", "/code/echo", {"Authorization": f"Bearer {WRONG_TOKEN}"}))
    statuses.add(await ask("origin", "GET", "/code/echo", {"Origin": "https://evil.example"}))
    statuses.add(await ask("bad wish", "GET", "/code/echo", {"X-Request-Timeout": PLANTED.api_key}))
    garbage = f"GET /code HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CALLER_TOKEN}\r\nbad line\r\n\r\n".encode()
    statuses.add(await gathering.raw("garbage", garbage, gathering.process.port))
    broken = request_bytes("POST", "/fake-code/x", {"Authorization": f"Bearer {CALLER_TOKEN}"}, BODY, chunk_bytes=5)
    statuses.add(await gathering.raw("framing", broken.replace(b"0\r\n\r\n", b"zz\r\n"), gathering.process.port))
    for target in ("/status", "/metrics", "/", "/readyz", "/healthz", f"/nowhere?q={QUERY}"):
        statuses.add(await gathering.admin(target))
    return statuses


async def refuse_a_reload(process: Process, config: Document) -> None:
    """A configuration into which somebody wrote secrets: refused, and its problems do not repeat them."""
    folder = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")[-2].decode()
    bad = json.loads(json.dumps(config))
    bad["credentials"]["code"]["app_code"] = PLANTED.app_code
    bad["credentials"]["token"]["password"] = {"value": PLANTED.password}
    bad["routes"][0]["upstream"] = f"https://user:{PLANTED.sk}@example.com/"
    Path(folder).write_text(yaml.safe_dump(bad))
    process.signal(signal.SIGHUP)
    await process.says("configuration not loaded")
    Path(folder).write_text(yaml.safe_dump(config))


async def test_refused_files_do_not_repeat_secrets(tmp_path: Path) -> None:
    """``check`` of a file into which secrets were written names the places, not the values."""
    path = tmp_path / "gateway.yaml"
    config = document(
        route("a", f"https://user:{PLANTED.sk}@example.com/", "code"),
        credentials={"code": {"kind": "app_code", "app_code": PLANTED.app_code, PLANTED.api_key: 1}},
        callers=[{"name": "c", "token": CALLER_TOKEN, "routes": ["*"]}],
    )
    del config["credentials"]["code"][PLANTED.api_key]
    path.write_text(yaml.safe_dump(config))

    text = await command("check", "-c", str(path), environ={})
    served = await command("serve", "-c", str(path), environ={})

    assert b"app_code" in text
    assert searched({"check": text, "serve": served}, SECRETS) == []


async def test_a_wrong_password_does_not_show_itself(start_process: StartProcess) -> None:
    """What IAM and the upstreams refuse is named by credential and code, never by value."""
    wrong = {"PASSWORD": "pl4nted/wrong+password", "APP_CODE": "pl4nted/wrong+code", "API_KEY": "pl4nted/wrong+key"}
    async with Simulator(PLANTED) as simulator:
        kinds = {name: credentials(simulator)[name] for name in ("token", "code", "bearer")}
        wanted = [entry for entry in routes(simulator) if entry["credential"] in kinds]
        process = await start_process(document(*wanted, credentials=kinds), wrong)
        gathering = Gathering(process)
        for name in ("token", "code", "v2-key"):
            await gathering.ask(name, "POST", f"/{name}/echo", {}, BODY)
        await gathering.admin("/status")
        await gathering.admin("/readyz")
        process.signal(signal.SIGTERM)
        await process.ended()

    gathering.said |= {"stderr": process.stderr.encode(), "stdout": process.stdout.encode()}
    assert "credential 'token'" in process.stderr
    assert searched(gathering.said, [*wrong.values(), CALLER_TOKEN]) == []
