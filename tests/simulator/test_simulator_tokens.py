"""IAM: tokens are handed out as IAM does it, and checked as API Gateway and the dispatcher do."""

import json
from typing import Any

import pytest

from gateway.simulator import Simulator
from gateway.simulator.tokens import huawei_time

from .senders import JSON, Reply, Wall, send, token_request


async def ask(simulator: Simulator, body: bytes) -> Reply:
    return await send(simulator.urls["iam"] + "/v3/auth/tokens", "POST", [("Content-Type", JSON)], body)


async def use(simulator: Simulator, token: str, family: str = "v1_iam") -> Reply:
    return await send(simulator.urls[family] + "/echo", "GET", [("X-Auth-Token", token)])


async def test_a_token_as_iam_hands_it_out(simulator: Simulator, wall: Wall) -> None:
    """201, a long token in the header, its project and expiry in the body, in Huawei's time format."""
    reply = await ask(simulator, token_request(simulator.credentials))

    token = reply.json()["token"]
    assert reply.status == 201
    assert reply.fields["x-subject-token"].startswith("MII")
    assert 6000 <= len(reply.fields["x-subject-token"]) <= 9000
    assert token["expires_at"] == huawei_time(wall.now + 24 * 3600) == "2023-11-15T22:13:20.000000Z"
    assert token["project"]["name"] == simulator.credentials["project"]
    assert (await use(simulator, reply.fields["x-subject-token"])).status == 200


@pytest.mark.parametrize(
    ("scope", "has_project"),
    [
        pytest.param({"project": {"id": "5117a7ed0b0ec7ffffffffffffffb0ec"}}, True, id="project by id"),
        pytest.param({"project": {"name": "cn-north-4"}, "domain": {"name": "simulated-account"}}, True, id="both"),
        pytest.param({"domain": {"name": "simulated-account"}}, False, id="domain"),
        pytest.param({"domain": {"id": "5117a7ed0d0a1140ffffffffffffd0aa"}}, False, id="domain by id"),
        pytest.param(None, False, id="no scope"),
    ],
)
async def test_scope(simulator: Simulator, scope: object, has_project: bool) -> None:
    """Only project scope gives a token that a service takes; the others are told that they lack a project."""
    reply = await ask(simulator, token_request(simulator.credentials, scope))

    assert reply.status == 201
    assert ("project" in reply.json()["token"]) is has_project
    for family in ("v1_iam", "v2"):
        used = await use(simulator, reply.fields["x-subject-token"], family)
        assert used.status == (200 if has_project else 400)
        if not has_project:
            assert used.json()["error_code"] == "ModelArts.0204"
            assert "projectId" in used.json()["error_msg"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        pytest.param(
            b"", 400, {"code": 400, "message": "The request body is invalid", "title": "Bad Request"}, id="empty"
        ),
        pytest.param(
            b"{}", 400, {"code": 400, "message": "The request body is invalid", "title": "Bad Request"}, id="no auth"
        ),
        pytest.param(
            b'{"auth": {"identity": {"methods": ["totp"]}}}',
            400,
            {"code": 400, "message": "The request body is invalid", "title": "Bad Request"},
            id="another method",
        ),
    ],
)
async def test_malformed(simulator: Simulator, body: bytes, status: int, error: dict[str, Any]) -> None:
    """What is no password request gets IAM's 400."""
    reply = await ask(simulator, body)

    assert (reply.status, reply.json()) == (status, {"error": error})


async def test_unknown_project(simulator: Simulator) -> None:
    """A project that is not there gives no token."""
    reply = await ask(simulator, token_request(simulator.credentials, {"project": {"name": "cn-north-1"}}))

    assert reply.status == 404
    assert "x-subject-token" not in reply.fields


async def test_five_wrong_passwords_lock_the_user(simulator: Simulator, wall: Wall) -> None:
    """The fifth failure within 15 minutes locks for 15 minutes, the right password included."""
    wrong = token_request(simulator.credentials, password="wrong")
    for _ in range(5):
        reply = await ask(simulator, wrong)
        assert reply.status == 401
        assert reply.json() == {
            "error": {"code": 401, "message": "The username or password is wrong.", "title": "Unauthorized"}
        }

    locked = await ask(simulator, token_request(simulator.credentials))
    assert (locked.status, locked.json()["error_code"]) == (401, "IAM.0061")
    wall.now += 15 * 60 + 1
    assert (await ask(simulator, token_request(simulator.credentials))).status == 201
    assert simulator.state["iam_attempts"] == 7
    assert simulator.state["tokens_issued"] == 1


async def test_failures_far_apart_do_not_lock(simulator: Simulator, wall: Wall) -> None:
    """Failures older than 15 minutes are forgotten."""
    for _ in range(8):
        assert (await ask(simulator, token_request(simulator.credentials, password="wrong"))).status == 401
        wall.now += 5 * 60

    assert (await ask(simulator, token_request(simulator.credentials))).status == 201


@pytest.mark.parametrize(
    ("family", "code", "message"),
    [
        pytest.param("v1_iam", "APIG.0301", "token expires, expires_at: 2023-11-15T22:13:20.000000Z", id="v1"),
        pytest.param("v2", "ModelArts.0202", "The token has expired.", id="v2"),
    ],
)
async def test_tokens_expire(
    simulator: Simulator, wall: Wall, token: str, family: str, code: str, message: str
) -> None:
    """A token is refused from its expires_at on."""
    wall.now += 24 * 3600 - 1
    assert (await use(simulator, token, family)).status == 200
    wall.now += 1
    reply = await use(simulator, token, family)

    assert (reply.status, reply.json()["error_code"]) == (401, code)
    assert message in reply.json()["error_msg"]


async def test_revoked_tokens(simulator: Simulator, token: str) -> None:
    """Revoked tokens must be updated; one fetched afterwards is good, and an old one stays dead."""
    await send(simulator.urls["admin"] + "/_simulator/tokens/revoke", "POST")

    assert (await use(simulator, token)).json()["error_code"] == "APIG.0307"
    fresh = await ask(simulator, token_request(simulator.credentials))
    assert (await use(simulator, fresh.fields["x-subject-token"])).status == 200
    assert (await use(simulator, token)).status == 401


async def test_a_new_token_leaves_the_old_one_valid(simulator: Simulator, token: str) -> None:
    """Two tokens may be used side by side."""
    await ask(simulator, token_request(simulator.credentials))

    assert (await use(simulator, token)).status == 200


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        pytest.param("no-token", 201, id="no token"),
        pytest.param("no-expiry", 201, id="no expiry"),
        pytest.param("domain-scoped", 201, id="domain scoped"),
        pytest.param("already-expired", 201, id="already expired"),
        pytest.param("empty", 201, id="empty"),
        pytest.param("status=503,retry-after=7", 503, id="status"),
        pytest.param("throttled", 429, id="throttled"),
    ],
)
async def test_bad_answers_on_request(simulator: Simulator, wall: Wall, fault: str, status: int) -> None:
    """IAM can be told to answer badly, as often as asked."""
    simulator.faults.add(fault, family="iam", times=1)

    bad = await ask(simulator, token_request(simulator.credentials))
    good = await ask(simulator, token_request(simulator.credentials))

    assert bad.status == status
    assert good.status == 201
    body = json.loads(bad.body or b"{}").get("token", {})
    match fault:
        case "no-token":
            assert "x-subject-token" not in bad.fields
        case "no-expiry":
            assert "expires_at" not in body
        case "domain-scoped":
            assert "project" not in body
        case "already-expired":
            assert body["expires_at"] < huawei_time(wall.now)
        case "empty":
            assert bad.body == b""
        case "throttled":
            assert bad.json()["error_code"] == "IAM.0012"
        case _:
            assert bad.fields["retry-after"] == "7"
