"""Each address takes its own credentials and no other, one at a time."""

import pytest

from gateway.simulator import Simulator

from .senders import Reply, send

RIGHT = {
    "app_code": ("X-Apig-AppCode", "{app_code}"),
    "app_key": ("apikey", "{app_key}"),
    "api_key": ("Authorization", "Bearer {api_key}"),
    "token": ("X-Auth-Token", "{token}"),
}


async def knock(simulator: Simulator, family: str, *fields: tuple[str, str]) -> Reply:
    suffix = "/v1/models" if family == "maas" else "/echo"
    return await send(simulator.urls[family] + suffix, "GET", fields)


@pytest.mark.parametrize(
    ("family", "kind", "accepted"),
    [
        pytest.param("v1_iam", "token", True, id="v1 iam, token"),
        pytest.param("v1_iam", "app_code", False, id="v1 iam, app code"),
        pytest.param("v1_iam", "app_key", False, id="v1 iam, app key"),
        pytest.param("v1_iam", "api_key", False, id="v1 iam, api key"),
        pytest.param("v1_app", "token", False, id="v1 app, token"),
        pytest.param("v1_app", "app_code", True, id="v1 app, app code"),
        pytest.param("v1_app", "app_key", True, id="v1 app, app key"),
        pytest.param("v1_app", "api_key", False, id="v1 app, api key"),
        pytest.param("v2", "token", True, id="v2, token"),
        pytest.param("v2", "api_key", False, id="v2, api key"),
        pytest.param("v2_api_key", "api_key", True, id="v2 with api key, api key"),
        pytest.param("v2_api_key", "token", False, id="v2 with api key, token"),
        pytest.param("maas", "api_key", True, id="maas, api key"),
        pytest.param("maas", "token", False, id="maas, token"),
    ],
)
async def test_each_address_takes_its_own(
    simulator: Simulator, token: str, family: str, kind: str, accepted: bool
) -> None:
    """A right credential opens its own address and no other; a wrong value opens nothing."""
    name, template = RIGHT[kind]
    value = template.format(token=token, **simulator.credentials)

    right = await knock(simulator, family, (name, value))
    wrong = await knock(simulator, family, (name, value[:-1]))
    nothing = await knock(simulator, family)

    assert (right.status == 200) is accepted, right.body
    assert simulator.state["accepted"] == ({kind: 1} if accepted else {})
    for refused in (wrong, nothing):
        assert refused.status in {400, 401}
        assert refused.json()["error_code"]


@pytest.mark.parametrize(
    ("family", "fields", "status", "body"),
    [
        pytest.param(
            "v1_iam",
            [],
            401,
            {
                "error_code": "APIG.0301",
                "error_msg": "Incorrect IAM authentication information: x-auth-token not found",
            },
            id="v1 iam, nothing",
        ),
        pytest.param(
            "v1_iam",
            [("X-Auth-Token", "MIIxyz")],
            401,
            {"error_code": "APIG.0301", "error_msg": "Incorrect IAM authentication information: decrypt token fail"},
            id="v1 iam, unknown token",
        ),
        pytest.param(
            "v1_app",
            [],
            401,
            {
                "error_code": "APIG.0303",
                "error_msg": "Incorrect app authentication information: Access or Credential is empty in Authorization",
            },
            id="v1 app, nothing",
        ),
        pytest.param(
            "v1_app",
            [("apikey", "01177c425f71487ec362ba84dc4abd3b")],
            401,
            {
                "error_code": "APIG.0303",
                "error_msg": "Incorrect app authentication information: app not found, "
                "appkey 01177c425f71487ec362ba84dc4abd3b",
            },
            id="v1 app, unknown app key",
        ),
    ],
)
async def test_documented_bodies(
    simulator: Simulator, family: str, fields: list[tuple[str, str]], status: int, body: dict[str, str]
) -> None:
    """API Gateway's refusals have its three members, and every answer its request id and server name."""
    reply = await knock(simulator, family, *fields)

    assert reply.status == status
    assert reply.json() == {**body, "request_id": reply.fields["x-request-id"]}
    assert reply.fields["server"] == "api-gateway"


async def test_maas_writes_both_shapes(simulator: Simulator) -> None:
    """MaaS answers with OpenAI's error member and Huawei's members in one body."""
    missing = await knock(simulator, "maas")
    wrong = await knock(simulator, "maas", ("Authorization", "Bearer another"))

    assert (missing.status, missing.json()["error_code"]) == (400, "ModelArts.81002")
    assert (wrong.status, wrong.json()["error_code"]) == (401, "ModelArts.81003")
    assert wrong.json()["error"]["code"] == "ModelArts.81003"
    assert set(wrong.json()) == {"error", "error_code", "error_msg", "span_id"}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        pytest.param(
            [("X-Apig-AppCode", "{app_code}"), ("Authorization", "Bearer x")], "Simulator.SeveralCredentials", id="two"
        ),
        pytest.param(
            [("X-Apig-AppCode", "{app_code}"), ("x-apig-appcode", "{app_code}")],
            "Simulator.SeveralCredentials",
            id="one twice",
        ),
        pytest.param(
            [("X-Apig-AppCode", "{app_code}"), ("X_Auth_Token", "x")], "Simulator.SeveralCredentials", id="underscores"
        ),
        pytest.param(
            [("X-Apig-AppCode", "{app_code}"), ("X-Sdk-Date", "20240101T000000Z")],
            "Simulator.StrayCredential",
            id="part of a signature",
        ),
    ],
)
async def test_leaks_are_refused(simulator: Simulator, fields: list[tuple[str, str]], code: str) -> None:
    """More than one credential at once is a leak, even where one of them is right."""
    sent = [(name, value.format(**simulator.credentials)) for name, value in fields]

    reply = await knock(simulator, "v1_app", *sent)

    assert (reply.status, reply.json()["error_code"]) == (400, code)
    assert simulator.credentials["app_code"] not in reply.body.decode()


async def test_the_open_service(simulator: Simulator) -> None:
    """A service without authentication asks for nothing."""
    reply = await knock(simulator, "v2_open")

    assert (reply.status, reply.fields["server"]) == (200, "ModelArts")


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        pytest.param("/v1/infers/another", "POST", 404, "APIG.0101", id="unknown service"),
        pytest.param("/v1/infers", "POST", 400, "ModelArts.4201", id="no service"),
        pytest.param("/", "GET", 404, "APIG.0101", id="root"),
        pytest.param("/v1/infers/51aa7ed0-0001-4a00-8000-000000000001", "OPTIONS", 404, "APIG.0101", id="preflight"),
    ],
)
async def test_addresses_that_are_not_there(
    simulator: Simulator, path: str, method: str, status: int, code: str
) -> None:
    """What is not published is not found."""
    reply = await send(simulator.urls["iam"] + path, method)

    assert (reply.status, reply.json()["error_code"]) == (status, code)


async def test_credentials_are_masked(simulator: Simulator) -> None:
    """Neither the echo nor the state shows a credential."""
    code = simulator.credentials["app_code"]

    echoed = await knock(simulator, "v1_app", ("X-Apig-AppCode", code), ("X-Other", "seen"))

    assert ["X-Apig-AppCode", "***"] in echoed.json()["headers"]
    assert ["X-Other", "seen"] in echoed.json()["headers"]
    assert code not in str(simulator.state)
    assert code not in echoed.body.decode()
