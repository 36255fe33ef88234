"""The start of the running program: what keeps it from it, what it says, when it is ready, what it leaves alone."""

import asyncio
import signal
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from fake_modelarts import FakeModelArts
from raw_caller import Caller, ask, request_bytes
from running import Process, StartProcess, document, free_port, route

from flows.setups import credentials, environ
from gateway.simulator import Simulator

# Each line with a # has a problem of its own.
WRONG = """\
listen: 127.0.0.1:1
admin: 127.0.0.1:2
workers: 012                         # text in YAML 1.2
process: {drain: 45, head: 10s}      # without a unit
credentials:
  literal: {kind: app_code, app_code: written-into-the-file}   # a secret in the file
  missing: {kind: app_code, app_code: {env: NOT_THERE}}        # a secret that is not there
routes:
  - {name: r, path: /r, upstream: https://127.0.0.1:9, credential: literal, colour: red}   # an unknown key
  - name: twice
    path: /twice
    path: /again                     # a key that stands twice
    upstream: https://127.0.0.1:9
    credential: none
"""


async def test_a_wrong_file(start_process: StartProcess, tmp_path: Path) -> None:
    """Exit 2, each problem with its line, and the secret in the file is not repeated."""
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    marked = [number for number, line in enumerate(WRONG.splitlines(), 1) if "#" in line]

    process = await start_process(path, wait=False)

    assert await process.ended() == 2
    assert [number for number in marked if f"wrong.yaml:{number}:" not in process.stderr] == []
    assert f"{len(marked)} problems" in process.stderr
    assert "written-into-the-file" not in process.stderr
    assert process.stdout == ""


async def test_what_it_warns_of(start_process: StartProcess, fake: FakeModelArts) -> None:
    """A port open to the network without callers, and a credential sent in the clear, are allowed and warned about."""
    config = document(
        route("r", fake.url),
        route("clear", "http://192.0.2.1", "code"),
        credentials={"code": {"kind": "app_code", "app_code": {"env": "CODE"}}},
    )
    process = await start_process(config | {"listen": f"0.0.0.0:{free_port()}"}, {"CODE": "the-code"})

    assert (await process.ask("GET", "/r")).status == 200
    assert "is open to the network with neither callers nor tls.client_ca" in process.stderr
    assert "route 'clear' sends credential 'code' over http" in process.stderr


async def readiness(process: Process) -> tuple[int, Any]:  # Any: JSON
    reply = await ask(process.admin_port, "GET", "/readyz")
    return reply.status, reply.json()


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_readiness(
    start_process: StartProcess, fake: FakeModelArts, modelarts: Simulator, tmp_path: Path, workers: int
) -> None:
    """Not ready before every credential is usable, though it serves; then ready while any is, the others named as degraded."""
    (tmp_path / "password").write_text("wrong")
    token = {**credentials(modelarts)["token"], "password": {"file": str(tmp_path / "password")}}
    app = {"kind": "app_signature", "app_key": {"env": "APP_KEY"}, "app_secret": {"env": "WRONG"}}
    process = await start_process(
        document(
            route("open", fake.url),
            route("token", modelarts.urls["v1_iam"], "token"),
            route("app", modelarts.urls["v1_app"], "app"),
            credentials={"token": token, "app": app},
            workers=workers,
        ),
        environ(modelarts) | {"WRONG": "5" * 32},
    )

    await process.says("15 minutes")
    at_first = await readiness(process)
    meanwhile = [(await process.ask("GET", target)).status for target in ("/open", "/token/echo")]
    (tmp_path / "password").write_text(modelarts.options.password)
    async with asyncio.timeout(10):
        while (whole := await readiness(process))[0] != 200:
            await asyncio.sleep(0.05)
    refused = [(await process.ask("GET", "/app/echo")).status for _ in range(6)]
    async with asyncio.timeout(5):
        while not (degraded := await readiness(process))[1]["degraded"]:
            await asyncio.sleep(0.05)

    assert at_first[0] == 503
    assert at_first[1]["ready"] is False
    assert [reason.partition(":")[0] for reason in at_first[1]["reasons"]] == ["credential token"]
    assert meanwhile == [200, 503]
    assert whole == (200, {"ready": True, "degraded": []})
    assert refused[-1] == 503
    assert (degraded[0], degraded[1]["ready"]) == (200, True)
    assert degraded[1]["degraded"][0].startswith("credential app: ")
    assert (await ask(process.admin_port, "GET", "/healthz")).status == 200


async def test_iam_is_not_there(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Without IAM it starts, serves what needs none of it, and says where nobody answered."""
    nowhere = f"127.0.0.1:{free_port()}"
    token = {
        "kind": "iam_token",
        "iam_url": f"http://{nowhere}",
        **dict.fromkeys(("domain", "user", "project"), "x"),
        "password": {"env": "PASSWORD"},
    }
    process = await start_process(
        document(route("r", fake.url), route("t", fake.url, "token"), credentials={"token": token}), {"PASSWORD": "x"}
    )

    await process.says("next attempt in")
    refused = await process.ask("GET", "/t")
    status, told = await readiness(process)

    assert (await process.ask("GET", "/r")).status == 200
    assert (refused.status, refused.code) == (503, "Gateway.CredentialUnavailable")
    assert refused.get("Retry-After") is not None
    assert status == 503
    assert f"no connection to IAM, {nowhere}: Connection refused" in str(told)


async def test_what_the_environment_says_of_proxies(
    start_process: StartProcess, fake: FakeModelArts, modelarts: Simulator, tmp_path: Path
) -> None:
    """Proxy variables and .netrc change nothing about how upstreams and IAM are reached."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    (tmp_path / ".netrc").write_text("default login somebody password planted-in-netrc\n")
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"), nowhere)
    process = await start_process(
        document(
            route("r", fake.url),
            route("token", modelarts.urls["v1_iam"], "token"),
            credentials={"token": credentials(modelarts)["token"]},
        ),
        environ(modelarts) | proxies | {"HOME": str(tmp_path), "no_proxy": ""},
    )

    statuses = [(await process.ask("GET", target)).status for target in ("/r", "/token/echo")]

    assert statuses == [200, 200]
    assert fake.last.get("Authorization") is None


async def test_a_renewed_certificate(start_process: StartProcess, fake: FakeModelArts, tmp_path: Path) -> None:
    """Certificate files are read again in every process; a broken one leaves the old in use. To give TLS up takes a restart."""
    authority = trustme.CA()
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def issue(name: str) -> None:
        issued = authority.issue_cert("127.0.0.1", common_name=name)
        issued.private_key_pem.write_to_path(str(key))
        issued.cert_chain_pems[0].write_to_path(str(certificate))

    issue("first")
    tls = {"certificate": str(certificate), "key": str(key)}
    process = await start_process(document(route("r", fake.url), tls=tls, workers=2))
    context = ssl.create_default_context()
    authority.configure_trust(context)

    async def served() -> set[str]:
        """The names in the certificates of twelve connections, enough to have met every worker."""
        found = set()
        for _ in range(12):
            async with Caller(process.port, tls=context) as caller:
                await caller.send(request_bytes("GET", "/r"))
                assert (await caller.reply()).status == 200
                names = dict(part[0] for part in caller.writer.get_extra_info("peercert")["subject"])
                found.add(str(names["commonName"]))
        return found

    first = await served()
    issue("second")
    async with asyncio.timeout(8):
        while await served() != {"second"}:
            await asyncio.sleep(0.1)
    certificate.write_text("not a certificate")
    await process.says("the new TLS certificate or key cannot be used")
    afterwards = await served()
    config = yaml.safe_load(process.path.read_text())
    del config["tls"]
    process.path.write_text(yaml.safe_dump(config))
    process.signal(signal.SIGHUP)
    await process.says("tls: a change of this takes a restart")

    assert (first, afterwards) == ({"first"}, {"second"})
    assert await served() == {"second"}
