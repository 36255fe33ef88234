"""Credentials that go stale, are rotated, refused, locked or found elsewhere, seen from callers, IAM and upstreams."""

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from running import Document, InProcess, StartGateway, document, route

from flows.setups import credentials, environ
from gateway.simulator import Options, Simulator

# How long the steady load lasts; a release is tried with 60.
STEADY_SECONDS = float(os.environ.get("GATEWAY_STEADY_SECONDS", "9"))
LIFE_SECONDS = 3.0


async def with_token(start_gateway: StartGateway, simulator: Simulator, **iam: Any) -> InProcess:
    only = {"token": credentials(simulator, **iam)["token"]}
    return await start_gateway(
        document(route("token", simulator.urls["v1_iam"], "token"), credentials=only), environ(simulator)
    )


@pytest.mark.timeout(STEADY_SECONDS + 60)
async def test_short_lives_under_steady_load(start_gateway: StartGateway) -> None:
    """Tokens that live 3 seconds: no request fails, no expired token ever leaves, and IAM sees one fetch for each life."""
    async with Simulator(Options(token_life_seconds=LIFE_SECONDS)) as simulator:
        gateway = await with_token(start_gateway, simulator)
        await gateway.until_ready()
        statuses: Counter[int] = Counter()
        began = time.monotonic()

        async def caller() -> None:
            while time.monotonic() - began < STEADY_SECONDS:
                reply = await gateway.ask("POST", "/token/echo", body=b"{}")
                statuses[reply.status] += 1
                await asyncio.sleep(0.02)

        await asyncio.gather(*(caller() for _ in range(8)))
        lives = (time.monotonic() - began) / (0.8 * LIFE_SECONDS)  # a life ends where the next begins

        assert set(statuses) == {200}
        assert statuses[200] > 20 * STEADY_SECONDS
        assert simulator.counters.refused == Counter()
        assert simulator.counters.tokens_issued <= lives + 2
        assert simulator.counters.requests["iam"] == simulator.counters.tokens_issued


async def test_many_meet_a_revoked_token(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """200 at once: one fetch, every one answered 200, and none sent again but for its one refused attempt."""
    gateway = await with_token(start_gateway, modelarts)
    await gateway.until_ready()
    modelarts.tokens.revoke_all()

    replies = await asyncio.gather(*(gateway.ask("POST", f"/token/echo?n={n}", body=b"{}") for n in range(200)))

    assert Counter(reply.status for reply in replies) == {200: 200}
    assert modelarts.counters.requests["iam"] == 2
    refused = modelarts.counters.refused["APIG.0307"]
    assert modelarts.counters.accepted["token"] == 200
    assert modelarts.counters.requests["v1_iam"] == 200 + refused <= 400


def busiest(instants: list[float], within_seconds: float = 10.0) -> int:
    """The most requests that came in any such time."""
    return max((sum(1 for other in instants if 0 <= other - each < within_seconds) for each in instants), default=0)


@pytest.mark.parametrize(
    ("fault", "iam"),
    [
        pytest.param("status=503", {}, id="down"),
        pytest.param("stall", {"timeout": "300ms"}, id="hanging"),
        pytest.param("garbage", {}, id="nonsense"),
        pytest.param("reset-mid-body", {}, id="breaking off"),
        pytest.param("empty", {}, id="empty"),
        pytest.param("no-token", {}, id="no token"),
        pytest.param("malformed", {}, id="malformed"),
        pytest.param("two-tokens", {}, id="two tokens"),
        pytest.param("endless-token", {}, id="a token of 70 KB"),
        pytest.param("odd-expiry", {}, id="no date"),
        pytest.param("domain-scoped", {}, id="domain scope"),
        pytest.param("already-expired", {}, id="expired"),
        pytest.param("throttled", {}, id="throttled"),
    ],
)
async def test_iam_in_trouble(
    start_gateway: StartGateway, modelarts: Simulator, fault: str, iam: dict[str, str]
) -> None:
    """Callers get 503 with a time to come back, nothing reaches the upstream, IAM is not stormed, and it ends by itself."""
    modelarts.faults.add(fault, family="iam")
    gateway = await with_token(start_gateway, modelarts, **iam)

    for _ in range(20):
        reply = await gateway.ask("GET", "/token/echo")
        assert (reply.status, reply.code) == (503, "Gateway.CredentialUnavailable")
        assert int(reply.get("Retry-After") or 0) >= 1
        await asyncio.sleep(0.05)
    assert modelarts.counters.requests["v1_iam"] == 0
    modelarts.faults.clear()
    await gateway.until_ready(10)

    assert (await gateway.ask("GET", "/token/echo")).status == 200
    assert busiest(modelarts.counters.iam_requests_at) <= 10


@pytest.mark.parametrize("fault", ["long-token", "plain-expiry", "chunked"])
async def test_unusual_answers_of_iam(start_gateway: StartGateway, modelarts: Simulator, fault: str) -> None:
    """What is unusual, and a token all the same, is taken."""
    modelarts.faults.add(fault, family="iam")
    gateway = await with_token(start_gateway, modelarts)
    await gateway.until_ready()

    assert (await gateway.ask("GET", "/token/echo")).status == 200


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param("locked-user", "locked this user", id="locked"),
        pytest.param("password-expired", "expired", id="expired"),
        pytest.param("no-access", "programmatic access", id="no access"),
        pytest.param("status=400", "check project, domain and user", id="400"),
    ],
)
async def test_iam_refuses(start_gateway: StartGateway, modelarts: Simulator, fault: str, says: str) -> None:
    """A refusal is not argued with: one attempt, and the reason to read in readiness, status and every answer."""
    modelarts.faults.add(fault, family="iam")
    gateway = await with_token(start_gateway, modelarts)

    replies = [await gateway.ask("GET", "/token/echo") for _ in range(30)]
    status = await gateway.status()

    assert {reply.status for reply in replies} == {503}
    assert says in replies[-1].json()["error_msg"]
    assert int(replies[-1].get("Retry-After") or 0) > 30
    assert says in str(status["credentials"])
    assert modelarts.counters.requests["iam"] == 1


async def test_wrong_passwords_of_two_gateways(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """Two gateways with two credentials of one user, a reload that changes one, and callers: IAM hears of it twice."""
    wrong = environ(modelarts) | {"PASSWORD": "wrong"}
    token = credentials(modelarts)["token"]
    both = {"token": token, "other": {**token, "renew_at": 0.7}}
    routes = [route("token", modelarts.urls["v1_iam"], "token"), route("other", modelarts.urls["v1_iam"], "other")]
    gateways = [await start_gateway(document(*routes, credentials=both), wrong) for _ in range(2)]

    for gateway in gateways:
        for path in ("/token/echo", "/other/echo") * 10:
            assert (await gateway.ask("GET", path)).status == 503

    assert modelarts.counters.iam_attempts == 2
    assert modelarts.state["locked"]["users"] == []


class Mounted:
    """A folder as Kubernetes mounts a Secret: files are links into ``..data``, which is a link that is swapped."""

    def __init__(self, folder: Path, **values: str) -> None:
        self._folder = folder
        self._count = 0
        folder.mkdir()
        self.swap(**values)
        for name in values:
            (folder / name).symlink_to(Path("..data") / name)

    def swap(self, **values: str) -> None:
        self._count += 1
        version = self._folder / f"..version-{self._count}"
        version.mkdir()
        for name, value in values.items():
            (version / name).write_text(value + "\n")
        link = self._folder / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self._folder / "..data")

    def path(self, name: str) -> str:
        return str(self._folder / name)


async def until(condition: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_rotated_password(start_gateway: StartGateway, modelarts: Simulator, tmp_path: Path) -> None:
    """Swapped twice: each new password is tried at once, and the old token serves until it has brought a new one."""
    mounted = Mounted(tmp_path / "secret", password=modelarts.options.password)
    gateway = await with_token(start_gateway, modelarts, password={"file": mounted.path("password")})
    await gateway.until_ready()

    mounted.swap(password="not-yet-the-right-one")
    await until(lambda: modelarts.counters.iam_attempts == 2)
    assert (await gateway.ask("GET", "/token/echo")).status == 200
    await asyncio.sleep(0.1)
    mounted.swap(password="the-new-one")
    modelarts.accept(password="the-new-one")  # and IAM lets the old password's tokens die
    await until(lambda: modelarts.counters.tokens_issued == 2)

    assert (await gateway.ask("GET", "/token/echo")).status == 200
    assert modelarts.counters.iam_attempts == 3


async def test_a_changed_environment(
    start_gateway: StartGateway, modelarts: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload reads the environment again: the new password is tried at once, although the token has long to live."""
    gateway = await with_token(start_gateway, modelarts)
    await gateway.until_ready()
    monkeypatch.setenv("PASSWORD", "the-new-one")
    modelarts.accept(password="the-new-one")

    assert await gateway.gateway.reload()
    await until(lambda: modelarts.counters.tokens_issued == 2)

    assert (await gateway.ask("GET", "/token/echo")).status == 200


async def test_a_rotated_key_pair(start_gateway: StartGateway, modelarts: Simulator, tmp_path: Path) -> None:
    """Access key and secret are swapped together, and no request is signed with one of each."""
    mounted = Mounted(tmp_path / "secret", ak=modelarts.options.ak, sk=modelarts.options.sk)
    aksk = {
        "aksk": {
            "kind": "aksk_signature",
            "access_key": {"file": mounted.path("ak")},
            "secret_key": {"file": mounted.path("sk")},
        }
    }
    gateway = await start_gateway(document(route("aksk", modelarts.urls["v1_iam"], "aksk"), credentials=aksk))
    assert (await gateway.ask("GET", "/aksk/echo")).status == 200
    mounted.swap(ak="ANOTHERACCESSKEY0000", sk="another-secret-key")

    async with asyncio.timeout(10):
        while (await gateway.ask("GET", "/aksk/echo")).status == 200:
            await asyncio.sleep(0.02)
    modelarts.accept(ak="ANOTHERACCESSKEY0000", sk="another-secret-key")

    assert (await gateway.ask("GET", "/aksk/echo")).status == 200
    assert modelarts.counters.refused == {"APIG.0301": 1}


async def test_many_learn_of_the_clock_together(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """Requests that were refused together by an upstream an hour ahead are all signed again, and all succeed."""
    modelarts.clock_offset_seconds = 3600
    app = {"app": credentials(modelarts)["app"]}
    gateway = await start_gateway(
        document(route("app", modelarts.urls["v1_app"], "app"), credentials=app), environ(modelarts)
    )

    replies = await asyncio.gather(*(gateway.ask("POST", "/app/echo", body=b"{}") for _ in range(20)))

    assert {reply.status for reply in replies} == {200}


async def test_a_clock_of_our_own_that_is_wrong(start_gateway: StartGateway) -> None:
    """An IAM that is two days behind issues tokens that look expired; they are told by its clock, and serve."""
    async with Simulator() as simulator:
        simulator.clock_offset_seconds = -2 * 86400
        gateway = await with_token(start_gateway, simulator)
        await gateway.until_ready()

        assert (await gateway.ask("GET", "/token/echo")).status == 200


async def test_a_key_that_nobody_knows_is_held(start_gateway: StartGateway, modelarts: Simulator) -> None:
    """After a few refusals the key rests, with the reason in words, and the upstream is left alone."""
    aksk = {"aksk": credentials(modelarts)["aksk"]}
    gateway = await start_gateway(
        document(route("aksk", modelarts.urls["v1_iam"], "aksk"), credentials=aksk),
        environ(modelarts) | {"AK": "NOSUCHKEY00000000000"},
    )

    replies = [await gateway.ask("GET", "/aksk/echo") for _ in range(20)]

    assert Counter(reply.status for reply in replies) == {401: 4, 503: 16}
    assert "Check the key" in replies[-1].json()["error_msg"]
    assert int(replies[-1].get("Retry-After") or 0) > 200


def identities(simulator: Simulator, folder: Path) -> dict[str, tuple[Document, str]]:
    """A credential for each way to be somebody, and what the upstream takes it for."""
    known = simulator.options
    token = credentials(simulator)["token"]
    (folder / "id-token").write_text(known.id_token + "\n")
    (folder / "credentials").write_text(f"[basic]\nak = {known.ak}\nsk = {known.sk}\nproject_id = p1\n")
    nobody = {key: value for key, value in token.items() if key not in {"domain", "user", "password"}}
    return {
        "agency": ({**token, "assume_role": {"domain": known.agency_domain, "agency": known.agency}}, "token"),
        "oidc": ({**nobody, "oidc": {"provider": known.idp, "id_token": {"file": str(folder / "id-token")}}}, "token"),
        "environment": ({"kind": "aksk_signature", "from": "environment"}, "temporary_aksk"),
        "file": (
            {"kind": "aksk_signature", "from": "file", "credentials_file": str(folder / "credentials")},
            "aksk",
        ),
        "metadata": (
            {"kind": "aksk_signature", "from": "metadata", "metadata_url": simulator.urls["metadata"]},
            "temporary_aksk",
        ),
        "pod": ({"kind": "aksk_signature", "from": "pod"}, "temporary_aksk"),
        "derived": (
            {
                "kind": "aksk_signature",
                "access_key": {"env": "AK"},
                "secret_key": {"env": "SK"},
                "algorithm": "V11-HMAC-SHA256",
                "region": "cn-north-4",
            },
            "aksk",
        ),
    }


def surroundings(simulator: Simulator, folder: Path) -> dict[str, str]:
    """The environment that the official SDKs would find."""
    known = simulator.options
    (folder / "pod-token").write_text(known.pod_token)
    return environ(simulator) | {
        "HUAWEICLOUD_SDK_AK": known.temporary_ak,
        "HUAWEICLOUD_SDK_SK": known.temporary_sk,
        "HUAWEICLOUD_SDK_SECURITY_TOKEN": known.security_token,
        "HC_CONTAINER_CREDENTIALS_FULL_URI": simulator.urls["pod"],
        "HC_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(folder / "pod-token"),
    }


@pytest.mark.parametrize("way", ["agency", "oidc", "environment", "file", "metadata", "pod", "derived"])
async def test_ways_to_be_somebody(start_gateway: StartGateway, modelarts: Simulator, tmp_path: Path, way: str) -> None:
    """Whatever a credential is obtained from, the upstream verifies it."""
    credential, kind = identities(modelarts, tmp_path)[way]
    gateway = await start_gateway(
        document(route("r", modelarts.urls["v1_iam"], "c"), credentials={"c": credential}),
        surroundings(modelarts, tmp_path),
    )
    await gateway.until_ready()

    reply = await gateway.ask("POST", "/r/echo?b=2&a=1", body=b"{}" * 1000)

    assert reply.status == 200, reply.body
    assert reply.json()["credential"] == kind


async def test_temporary_keys_are_renewed(start_gateway: StartGateway, tmp_path: Path) -> None:
    """Keys of a very short life are renewed like tokens: no request fails, no expired key leaves."""
    async with Simulator(Options(key_life_seconds=1.5, metadata_tokens=True)) as simulator:
        credential, _ = identities(simulator, tmp_path)["metadata"]
        gateway = await start_gateway(
            document(route("r", simulator.urls["v1_iam"], "c"), credentials={"c": credential}),
        )
        await gateway.until_ready()
        began = time.monotonic()
        while time.monotonic() - began < 3:
            reply = await gateway.ask("POST", "/r/echo", body=b"{}")
            assert reply.status == 200, reply.body
            await asyncio.sleep(0.02)

        assert simulator.counters.refused == Counter()
        assert 3 <= simulator.counters.keys_issued <= 4


@pytest.mark.parametrize("status", [404, 405, 503])
async def test_a_metadata_service_without_tokens(
    start_gateway: StartGateway, modelarts: Simulator, tmp_path: Path, status: int
) -> None:
    """A service that knows no tokens is asked the plain way."""
    modelarts.faults.add(f"status={status}", family="metadata", path="/api/token")
    credential, kind = identities(modelarts, tmp_path)["metadata"]
    gateway = await start_gateway(document(route("r", modelarts.urls["v1_iam"], "c"), credentials={"c": credential}))
    await gateway.until_ready()

    assert (await gateway.ask("GET", "/r/echo")).json()["credential"] == kind


async def test_a_server_without_an_agency(start_gateway: StartGateway, modelarts: Simulator, tmp_path: Path) -> None:
    """It is said in words, and not asked for again and again."""
    modelarts.faults.add("no-agency", family="metadata", path="securitykey")
    credential, _ = identities(modelarts, tmp_path)["metadata"]
    gateway = await start_gateway(document(route("r", modelarts.urls["v1_iam"], "c"), credentials={"c": credential}))

    replies = [await gateway.ask("GET", "/r/echo") for _ in range(10)]

    assert {reply.status for reply in replies} == {503}
    assert "has no agency" in replies[-1].json()["error_msg"]
    assert modelarts.counters.requests["metadata"] == 2


async def test_an_agency_survives_its_users_token(
    start_gateway: StartGateway, modelarts: Simulator, tmp_path: Path
) -> None:
    """All tokens revoked, the user's own among them: one request notices, and is answered 200."""
    credential, _ = identities(modelarts, tmp_path)["agency"]
    gateway = await start_gateway(
        document(route("r", modelarts.urls["v1_iam"], "c"), credentials={"c": credential}), environ(modelarts)
    )
    await gateway.until_ready()
    assert modelarts.counters.iam_attempts == 2
    modelarts.tokens.revoke_all()

    reply = await gateway.ask("POST", "/r/echo", body=b"{}")

    assert reply.status == 200
    assert modelarts.counters.iam_attempts == 5  # the agency once in vain, the user, the agency
