"""A token from its first fetch to its early death, seen from IAM, from the upstream and from the caller."""

import asyncio
import hashlib
import json

import pytest
from fake_modelarts import Call, FakeModelArts
from running import InProcess, StartGateway, document, route

from flows.setups import credentials, environ
from gateway.simulator import Simulator


async def token_gateway(start_gateway: StartGateway, simulator: Simulator, **more: object) -> InProcess:
    routes = [
        route("token", simulator.urls["v1_iam"], "token", **more),
        route("v2", simulator.urls["v2"], "token", **more),
    ]
    only_token = {"token": credentials(simulator)["token"]}
    return await start_gateway(document(*routes, credentials=only_token), environ(simulator))


async def test_one_fetch_for_all(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """200 callers that come before the first token wait for the one fetch in progress."""
    modelarts.faults.add("slow=300ms", family="iam", times=1)
    gateway = await token_gateway(start_gateway, modelarts)

    replies = await asyncio.gather(*(gateway.ask("GET", "/token/echo") for _ in range(200)))

    assert {reply.status for reply in replies} == {200}
    assert (modelarts.counters.iam_attempts, modelarts.counters.tokens_issued) == (1, 1)


async def test_a_caller_that_leaves_takes_nobody_along(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """The shared fetch goes on when a caller that waits for it goes away."""
    modelarts.faults.add("slow=300ms", family="iam", times=1)
    gateway = await token_gateway(start_gateway, modelarts)

    leaving = asyncio.create_task(gateway.ask("GET", "/token/echo"))
    staying = asyncio.create_task(gateway.ask("GET", "/token/echo"))
    await asyncio.sleep(0.1)
    leaving.cancel()

    assert (await staying).status == 200
    assert modelarts.counters.iam_attempts == 1


@pytest.mark.parametrize("path", ["token", "v2"])
async def test_a_token_that_died_early(start_gateway: StartGateway, modelarts: Simulator, path: str) -> None:
    """The upstream says that the token is dead: one new token, one more attempt, the same body byte for byte."""
    gateway = await token_gateway(start_gateway, modelarts)
    await gateway.until_ready()
    modelarts.tokens.revoke_all()
    body = bytes(range(256)) * 2048

    reply = await gateway.ask("POST", f"/{path}/echo", body=body)

    assert reply.status == 200
    assert reply.json()["sha256"] == hashlib.sha256(body).hexdigest()
    assert modelarts.counters.tokens_issued == 2
    family = "v1_iam" if path == "token" else "v2"
    assert modelarts.counters.requests[family] == 2
    (line,) = [line for line in await gateway.access_log() if line["route"] == path]
    assert (line["attempts"], line["code"], line["outcome"]) == (2, 200, "complete")


async def test_replayed_byte_for_byte(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """Both attempts are the same request but for the token: recorded at a socket, chunked bodies included."""

    async def dead_once(call: Call) -> None:
        await call.body()
        await call.reply(
            "401 Unauthorized",
            json.dumps({"error_code": "APIG.0307", "error_msg": "The token must be updated."}).encode(),
        )

    async with FakeModelArts() as fake:
        fake.plan = [dead_once]
        only_token = {"token": credentials(modelarts)["token"]}
        gateway = await start_gateway(
            document(route("r", f"{fake.url}/v1/infers/S", "token"), credentials=only_token), environ(modelarts)
        )
        await gateway.until_ready()
        body = bytes(range(256)) * 3000

        reply = await gateway.ask("POST", "/r/x?b=2&a=1", {"X-Mine": "1"}, body=body, chunk_bytes=10_000)

        first, second = fake.received
        assert reply.status == 200
        assert first.body == second.body == body
        assert first.target == second.target == "/v1/infers/S/x?b=2&a=1"
        changing = {"x-auth-token", "content-length", "transfer-encoding"}
        plain = [
            [field for field in request.fields if field[0].decode().lower() not in changing]
            for request in (first, second)
        ]
        assert plain[0] == plain[1]
        tokens = [request.all("X-Auth-Token") for request in (first, second)]
        assert [len(each) for each in tokens] == [1, 1]
        assert tokens[0] != tokens[1]


async def test_too_large_to_send_again(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """A body beyond ``replay`` is not sent twice: the caller gets the refusal, and the next request a new token."""
    gateway = await token_gateway(start_gateway, modelarts, replay="4KiB")
    await gateway.until_ready()
    modelarts.tokens.revoke_all()

    first = await gateway.ask("POST", "/token/echo", body=b"x" * 100_000)
    async with asyncio.timeout(5):
        while modelarts.counters.tokens_issued < 2:
            await asyncio.sleep(0.01)
    second = await gateway.ask("POST", "/token/echo", body=b"x" * 100_000)

    assert (first.status, first.code, first.get("Proxy-Status")) == (401, "APIG.0307", None)
    assert second.status == 200


async def test_many_find_it_dead_at_once(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """200 requests that meet the dead token together bring about one fetch, and all of them succeed."""
    gateway = await token_gateway(start_gateway, modelarts)
    await gateway.until_ready()
    modelarts.tokens.revoke_all()

    replies = await asyncio.gather(*(gateway.ask("POST", "/token/echo", body=b"{}") for _ in range(200)))

    assert {reply.status for reply in replies} == {200}
    assert (modelarts.counters.iam_attempts, modelarts.counters.tokens_issued) == (2, 2)


async def test_a_refusal_that_no_token_cures(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """An upstream that refuses every token costs IAM one more fetch, not one for each request; the answer passes."""
    gateway = await token_gateway(start_gateway, modelarts)
    await gateway.until_ready()
    modelarts.faults.add("invalid-token", family="v1_iam")

    replies = [await gateway.ask("POST", "/token/echo", body=b"{}") for _ in range(20)]

    assert {(reply.status, reply.code) for reply in replies} == {(401, "APIG.0301")}
    assert modelarts.counters.iam_attempts <= 2


async def test_a_wrong_password_is_not_hammered(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """IAM hears of a wrong password once; callers hear 503 at once, with a time to come back."""
    wrong = environ(modelarts) | {"PASSWORD": "wrong"}
    only_token = {"token": credentials(modelarts)["token"]}
    gateway = await start_gateway(
        document(route("token", modelarts.urls["v1_iam"], "token"), credentials=only_token), wrong
    )

    replies = [await gateway.ask("GET", "/token/echo") for _ in range(50)]

    assert {(reply.status, reply.code) for reply in replies} == {(503, "Gateway.CredentialUnavailable")}
    assert min(int(reply.get("Retry-After") or 0) for reply in replies[1:]) > 60
    assert modelarts.counters.iam_attempts == 1
    assert modelarts.state["locked"]["users"] == []
    assert modelarts.counters.requests["v1_iam"] == 0


@pytest.mark.parametrize("deviation", ["no-token", "no-expiry", "already-expired", "empty", "reset"])
async def test_answers_of_iam_that_are_none(start_gateway: StartGateway, modelarts: Simulator, deviation: str) -> None:
    """An answer of IAM that lacks what a token needs is a failure like any other: nothing is sent, and it recovers alone."""
    modelarts.faults.add(deviation, family="iam", times=1)
    gateway = await token_gateway(start_gateway, modelarts)

    refused = await gateway.ask("GET", "/token/echo")
    await gateway.until_ready()
    served = await gateway.ask("GET", "/token/echo")

    assert (refused.status, refused.code, served.status) == (503, "Gateway.CredentialUnavailable", 200)
    assert modelarts.counters.requests["v1_iam"] == 1


async def test_a_token_without_a_project(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """A token for the whole account is never sent, and the reason is told."""
    modelarts.faults.add("domain-scoped", family="iam")
    gateway = await token_gateway(start_gateway, modelarts)

    refused = await gateway.ask("GET", "/token/echo")

    assert (refused.status, refused.code) == (503, "Gateway.CredentialUnavailable")
    assert "project" in refused.json()["error_msg"]
    assert modelarts.counters.requests["v1_iam"] == 0


async def test_iam_down_at_start(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """The gateway listens, says why it is not ready, and recovers alone."""
    modelarts.faults.add("status=503", family="iam", times=2)
    gateway = await token_gateway(start_gateway, modelarts)

    from raw_caller import ask

    not_ready = await ask(gateway.admin_port, "GET", "/readyz")
    healthy = await ask(gateway.admin_port, "GET", "/healthz")
    await gateway.until_ready()

    assert (not_ready.status, healthy.status) == (503, 200)
    assert "credential token" in not_ready.json()["reasons"][0]
    assert (await gateway.ask("GET", "/token/echo")).status == 200


async def test_the_clock_of_the_upstream(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """An upstream whose clock is an hour ahead refuses the first signature and takes the corrected second one."""
    modelarts.clock_offset_seconds = 3600
    app = {"app": credentials(modelarts)["app"]}
    gateway = await start_gateway(
        document(route("app", modelarts.urls["v1_app"], "app"), credentials=app), environ(modelarts)
    )

    first = await gateway.ask("POST", "/app/echo", body=b"{}")
    second = await gateway.ask("POST", "/app/echo", body=b"{}")

    assert (first.status, second.status) == (200, 200)
    assert modelarts.counters.requests["v1_app"] == 3
    upstream = modelarts.urls["iam"]
    assert abs(await gateway.metric(f'gateway_clock_skew_seconds{{upstream="{upstream}"}}') - 3600) < 5
