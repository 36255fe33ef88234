"""Plain requests in, authorised requests out: each kind of credential, verified by the simulator."""

import hashlib

import pytest
from running import InProcess, StartGateway

from flows.setups import environ, everything
from gateway.simulator import Simulator

KINDS = [
    pytest.param("token", "token", "x-auth-token", id="iam_token"),
    pytest.param("aksk", "aksk", "authorization", id="aksk_signature"),
    pytest.param("temporary", "temporary_aksk", "authorization", id="aksk_signature, temporary key"),
    pytest.param("app", "app_signature", "authorization", id="app_signature"),
    pytest.param("code", "app_code", "x-apig-appcode", id="app_code"),
    pytest.param("key", "app_key", "apikey", id="app_key"),
    pytest.param("v2", "token", "x-auth-token", id="iam_token on v2"),
    pytest.param("v2-key", "api_key", "authorization", id="api_key on v2"),
    pytest.param("open", "none", None, id="none"),
]
# What a caller might bring along, of its own or by mistake; `_` for `-` as some servers read it.
THEIRS = {
    "Authorization": "Bearer theirs",
    "Proxy-Authorization": "Basic theirs",
    "X-Auth-Token": "theirs",
    "X-Subject-Token": "theirs",
    "X-Apig-AppCode": "theirs",
    "apikey": "theirs",
    "X-API-Key": "theirs",
    "X-Sdk-Date": "20200101T000000Z",
    "X-Sdk-Content-Sha256": "UNSIGNED-PAYLOAD",
    "X-Security-Token": "theirs",
    "X-HW-ID": "theirs",
    "X-HW-AppKey": "theirs",
    "X-Project-Id": "theirs",
    "X-Domain-Id": "theirs",
    "X-Apig-Mode": "debug",
    "x_auth_token": "theirs",
    "X_Apig-AppCode": "theirs",
    "X_SDK_DATE": "20200101T000000Z",
    "Connection": "X-Auth-Token, Authorization, X-Sdk-Date, apikey, X-Apig-AppCode",
}


async def gateway_of(start_gateway: StartGateway, simulator: Simulator) -> InProcess:
    gateway = await start_gateway(everything(simulator), environ(simulator))
    await gateway.until_ready()
    return gateway


@pytest.mark.parametrize(("path", "kind", "header"), KINDS)
async def test_every_kind_is_accepted(
    start_gateway: StartGateway, modelarts: Simulator, path: str, kind: str, header: str | None
) -> None:
    """An unsigned request arrives authorised by exactly the credential of its route, with body and query untouched."""
    gateway = await gateway_of(start_gateway, modelarts)
    body = b'{"data": "\xe8\xaf\x97"}' * 1000

    reply = await gateway.ask("POST", f"/{path}/echo?b=2&a=1", {"Content-Type": "application/json"}, body=body)
    empty = await gateway.ask("GET", f"/{path}/echo")

    assert reply.status == 200, reply.body
    assert empty.status == 200, empty.body
    echo = reply.json()
    assert (echo["credential"], echo["method"], echo["body_bytes"]) == (kind, "POST", len(body))
    assert echo["sha256"] == hashlib.sha256(body).hexdigest()
    assert "/echo?" in echo["target"]
    carried = {name.lower() for name, _ in echo["headers"]} & {
        "authorization",
        "x-auth-token",
        "x-apig-appcode",
        "apikey",
        "x-api-key",
    }
    assert carried == ({header} if header else set())


@pytest.mark.parametrize(("path", "kind", "header"), KINDS)
async def test_what_callers_bring_never_travels(
    start_gateway: StartGateway, modelarts: Simulator, path: str, kind: str, header: str | None
) -> None:
    """A caller's own credentials are dropped, whatever their spelling, and naming ours in Connection removes nothing."""
    gateway = await gateway_of(start_gateway, modelarts)

    reply = await gateway.ask("POST", f"/{path}/echo", THEIRS, body=b"{}")

    assert reply.status == 200, reply.body
    assert reply.json()["credential"] == kind
    assert not [value for _, value in reply.json()["headers"] if "theirs" in value or "20200101T" in value]
    assert not [name for name, _ in reply.json()["headers"] if "_" in name]


@pytest.mark.parametrize("path", ["/maas/v1/chat/completions", "/maas/openai/v1/models"])
async def test_model_service_takes_its_key(start_gateway: StartGateway, modelarts: Simulator, path: str) -> None:
    """The OpenAI-style service behind MaaS is reached with its API key, on each of its paths."""
    gateway = await gateway_of(start_gateway, modelarts)
    chat = b'{"model": "m", "messages": [{"role": "user", "content": "plain words"}]}'

    if path.endswith("models"):
        reply = await gateway.ask("GET", path)
    else:
        reply = await gateway.ask("POST", path, {"Content-Type": "application/json"}, body=chat)

    assert reply.status == 200, reply.body
    assert modelarts.counters.accepted["api_key"] == 1


async def test_wrong_secrets_are_told_apart(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """The upstream's own refusal of a wrong secret passes through untouched, without Proxy-Status."""
    wrong = {name: value[:-1] + "x" for name, value in environ(modelarts).items()}
    wrong["PASSWORD"] = modelarts.options.password
    gateway = await start_gateway(everything(modelarts), wrong)

    replies = [await gateway.ask("POST", path, body=b"{}") for path in ("/app", "/code", "/key", "/v2-key")]

    assert [reply.status for reply in replies] == [401] * 4
    assert [reply.code for reply in replies] == ["APIG.0303"] * 3 + ["ModelArts.0208"]
    assert [reply.get("Proxy-Status") for reply in replies] == [None] * 4
