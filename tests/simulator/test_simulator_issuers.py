"""The simulator's other issuers: agencies, identity providers, a metadata service, a pod's agent; and what goes wrong."""

import hashlib
import hmac
import json

import pytest

from gateway.simulator import Options, Simulator
from gateway.simulator.signature import DERIVED, Presented, Unreadable, parse

from .senders import JSON, Reply, Wall, send, signed, token_request

TOKENS = "/v3/auth/tokens"
KEYS = "/openstack/latest/securitykey"


def scoped(auth: dict[str, object]) -> bytes:
    return json.dumps({"auth": {**auth, "scope": {"project": {"name": "cn-north-4"}}}}).encode()


async def assume(simulator: Simulator, token: str | None, agency: str) -> Reply:
    role = {"domain_name": simulator.options.agency_domain, "agency_name": agency}
    fields = [("Content-Type", JSON)] + ([] if token is None else [("X-Auth-Token", token)])
    body = scoped({"identity": {"methods": ["assume_role"], "assume_role": role}})
    return await send(simulator.urls["iam"] + TOKENS, "POST", fields, body)


async def test_an_agency(simulator: Simulator, token: str) -> None:
    """The user's token opens the agency it was given, and no other."""
    reply = await assume(simulator, token, simulator.options.agency)

    assert reply.status == 201
    assert reply.json()["token"]["methods"] == ["assume_role"]
    used = await send(simulator.urls["v1_iam"] + "/echo", "GET", [("X-Auth-Token", reply.fields["x-subject-token"])])
    assert used.status == 200
    assert (await assume(simulator, token, "another")).status == 404
    assert (await assume(simulator, None, simulator.options.agency)).status == 401
    simulator.tokens.revoke_all()
    assert (await assume(simulator, token, simulator.options.agency)).status == 401


@pytest.mark.parametrize(
    ("provider", "id_token", "status"),
    [
        pytest.param(None, None, 201, id="right"),
        pytest.param("another", None, 404, id="another provider"),
        pytest.param(None, "x", 401, id="another token"),
    ],
)
async def test_an_identity_provider(
    simulator: Simulator, provider: str | None, id_token: str | None, status: int
) -> None:
    """An ID token of the provider that is known gives a token."""
    fields = [("Content-Type", JSON), ("X-Idp-Id", provider or simulator.options.idp)]
    body = scoped({"id_token": {"id": id_token or simulator.options.id_token}})

    reply = await send(simulator.urls["iam"] + "/v3.0/OS-AUTH/id-token/tokens", "POST", fields, body)

    assert reply.status == status


async def test_a_metadata_service(simulator: Simulator, wall: Wall) -> None:
    """Keys with a token or without, until tokens are asked for; a token ends when its time is up."""
    put = [("X-Metadata-Token-Ttl-Seconds", "60"), ("Content-Length", "0")]
    url = simulator.urls["metadata"]
    token = (await send(url + "/meta-data/latest/api/token", "PUT", put)).body.decode()
    shown = [("X-Metadata-Token", token)]

    assert (await send(url + KEYS)).status == 200
    assert (await send(url + KEYS, "GET", shown)).status == 200
    simulator.accept(metadata_tokens=True)
    assert (await send(url + KEYS)).status == 401
    wall.now += 61
    assert (await send(url + KEYS, "GET", shown)).status == 401
    assert (await send(url + "/meta-data/latest/api/token", "PUT", [("Content-Length", "0")])).status == 400
    assert simulator.counters.keys_issued == 2


async def test_temporary_keys_open_and_expire(simulator: Simulator, wall: Wall) -> None:
    """Keys that were handed out sign requests, with their security token alone and until they expire."""
    fields = [("Authorization", simulator.options.pod_token), ("Content-Type", JSON)]
    credential = (await send(simulator.urls["pod"], "POST", fields, b"{}")).json()["credential"]

    async def use(token: str) -> Reply:
        url, signed_fields = signed(
            simulator.urls["v1_iam"] + "/echo",
            "GET",
            credential["access"],
            credential["secret"],
            wall.now,
            headers=[("X-Security-Token", token)],
        )
        return await send(url, "GET", signed_fields)

    assert (await use(credential["securitytoken"])).json()["credential"] == "temporary_aksk"
    assert (await use("another")).status == 401
    wall.now += 24 * 3600
    assert "token expires" in (await use(credential["securitytoken"])).json()["error_msg"]
    assert (await send(simulator.urls["pod"], "POST", [("Authorization", "x")], b"{}")).status == 401


async def test_other_credentials_from_now_on(simulator: Simulator, token: str) -> None:
    """A changed password is taken at once, the old one refused, and the tokens it brought die."""
    old = token_request(simulator.credentials)
    changed = await send(
        simulator.urls["admin"] + "/_simulator/credentials", "POST", [("Content-Type", JSON)], b'{"password": "new"}'
    )

    assert changed.json()["accepted"]["password"] == "new"
    assert (await send(simulator.urls["v1_iam"] + "/echo", "GET", [("X-Auth-Token", token)])).status == 401
    fields = [("Content-Type", JSON)]
    assert (await send(simulator.urls["iam"] + TOKENS, "POST", fields, old)).status == 401
    new = token_request(simulator.credentials)
    assert (await send(simulator.urls["iam"] + TOKENS, "POST", fields, new)).status == 201
    bad = await send(simulator.urls["admin"] + "/_simulator/credentials", "POST", fields, b'{"pasword": "x"}')
    assert bad.status == 400


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        pytest.param("malformed", 201, "token", id="malformed"),
        pytest.param("two-tokens", 201, "token", id="two tokens"),
        pytest.param("odd-expiry", 201, '"tomorrow"', id="no date"),
        pytest.param("chunked", 201, "token", id="chunked"),
        pytest.param("locked-user", 401, "IAM.0061", id="locked"),
        pytest.param("wrong-password", 401, "IAM.0062", id="wrong"),
        pytest.param("password-expired", 401, "IAM.0066", id="expired"),
        pytest.param("no-access", 403, "IAM.0081", id="no access"),
    ],
)
async def test_what_can_go_wrong_at_iam(simulator: Simulator, fault: str, status: int, says: str) -> None:
    """IAM answers badly when it is told to."""
    simulator.faults.add(fault, family="iam")

    reply = await send(
        simulator.urls["iam"] + TOKENS, "POST", [("Content-Type", JSON)], token_request(simulator.credentials)
    )

    assert reply.status == status
    assert says in reply.body.decode()


@pytest.mark.parametrize(("fault", "length"), [("long-token", 20_000), ("endless-token", 70_000)])
async def test_long_tokens(simulator: Simulator, fault: str, length: int) -> None:
    """A token can be as long as asked."""
    simulator.faults.add(fault, family="iam")

    reply = await send(
        simulator.urls["iam"] + TOKENS, "POST", [("Content-Type", JSON)], token_request(simulator.credentials)
    )

    assert len(reply.fields["x-subject-token"]) == length


@pytest.mark.parametrize(
    ("fault", "code"),
    [("unknown-key", "APIG.0301"), ("no-project", "ModelArts.0212"), ("other-region", "ModelArts.0207")],
)
async def test_what_can_go_wrong_at_the_upstream(simulator: Simulator, token: str, fault: str, code: str) -> None:
    """An upstream refuses a good credential when it is told to."""
    fields = [("X-Auth-Token", token), ("X-Simulate", fault)]

    reply = await send(simulator.urls["v1_iam"] + "/echo", "GET", fields)

    assert (reply.status, reply.json()["error_code"]) == (401, code)


def test_a_derived_signature_is_read() -> None:
    """The younger algorithm names day, region and service; its key fits that day alone."""
    value = f"{DERIVED} Credential=AK/20231114/cn-north-4/apic, SignedHeaders=host;x-sdk-date, Signature={'0' * 64}"
    presented = parse(value)

    assert presented == Presented("AK", ("host", "x-sdk-date"), "0" * 64, "20231114/cn-north-4/apic")
    assert presented.compute("SK", "20231115T000000Z", b"x") == ""
    extracted = hmac.new(b"AK", b"SK", hashlib.sha256).digest()
    key = hmac.new(extracted, b"20231114/cn-north-4/apic\x01", hashlib.sha256).hexdigest()
    text = f"{DERIVED}\n20231114T000000Z\n20231114/cn-north-4/apic\n{hashlib.sha256(b'x').hexdigest()}"
    expected = hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
    assert presented.compute("SK", "20231114T000000Z", b"x") == expected
    with pytest.raises(Unreadable):
        parse(value.replace("/apic", ""))


async def test_keys_live_as_long_as_told() -> None:
    """The life of temporary keys can be set."""
    async with Simulator(Options(key_life_seconds=3)) as simulator:
        credential = (await send(simulator.urls["metadata"] + KEYS)).json()["credential"]

    assert credential["expires_at"].endswith("Z")
