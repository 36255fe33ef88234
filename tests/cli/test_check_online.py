"""`check --online` tells a newcomer what is missing, in words."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.cli.online import _other_region
from gateway.config import load
from gateway.credentials import kinds
from gateway.simulator import Simulator

from .command import run


async def checked(
    simulator: Simulator,
    folder: Path,
    credential: dict[str, Any],
    family: str = "v1_iam",
    *,
    limits: dict[str, Any] | None = None,
    **environ: str,
) -> tuple[int, str]:
    """Exit status and everything that was found, of a configuration with one route."""
    known = {name.upper(): value for name, value in simulator.credentials.items()} | environ
    document = {
        "credentials": {"mine": credential},
        "routes": [
            {
                "name": "r",
                "path": "/r",
                "upstream": simulator.urls[family],
                "credential": "mine",
                "limits": limits or {},
            }
        ],
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    finished = await asyncio.to_thread(run, "check", "--online", "--json", "-c", path, environ=known)
    assert known["PASSWORD"] not in finished.stdout + finished.stderr
    found = json.loads(finished.stdout)["online"]
    return finished.returncode, "\n".join(f"{each['ok']} {each['what']}: {each['message']}" for each in found)


def token(simulator: Simulator) -> dict[str, Any]:
    known = simulator.options
    return {
        "kind": "iam_token",
        "iam_url": simulator.urls["iam"],
        "domain": known.domain,
        "user": known.user,
        "project": known.project,
        "password": {"env": "PASSWORD"},
    }


AKSK = {"kind": "aksk_signature", "access_key": {"env": "AK"}, "secret_key": {"env": "SK"}}
APP = {"kind": "app_signature", "app_key": {"env": "APP_KEY"}, "app_secret": {"env": "APP_SECRET"}}
APP_KEY = {"kind": "app_key", "app_key": {"env": "APP_KEY"}}
API_KEY = {"kind": "api_key", "api_key": {"env": "API_KEY"}}


@pytest.mark.parametrize(
    ("credential", "family"),
    [
        pytest.param(AKSK, "v1_iam", id="AK/SK"),
        pytest.param(APP, "v1_app", id="app"),
        pytest.param(APP_KEY, "v1_app", id="AppKey"),
        pytest.param(API_KEY, "v2_api_key", id="API key"),
    ],
)
async def test_all_well(modelarts: Simulator, tmp_path: Path, credential: dict[str, Any], family: str) -> None:
    """What fits is said to fit, and no credential is sent to find out."""
    status, text = await checked(modelarts, tmp_path, credential, family)

    assert status == 0, text
    assert "takes this kind of credential" in text
    assert modelarts.counters.accepted == {}
    assert modelarts.state["locked"]["access_keys"] == []


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param("domain-scoped", "whole account (domain scope)", id="domain scope"),
        pytest.param("locked-user", "locked this user", id="locked user"),
        pytest.param("wrong-password", "domain, user or password", id="wrong password"),
        pytest.param("no-access", "programmatic access", id="no access"),
        pytest.param("already-expired", "clock", id="expired"),
        pytest.param("status=503", "IAM answered 503", id="IAM down"),
    ],
)
async def test_what_iam_says(modelarts: Simulator, tmp_path: Path, fault: str, says: str) -> None:
    """A token that cannot be had: why, and what to do about it."""
    modelarts.faults.add(fault, family="iam")

    status, text = await checked(modelarts, tmp_path, token(modelarts))

    assert status == 1
    assert says in text


async def test_another_project(modelarts: Simulator, tmp_path: Path) -> None:
    """A project that IAM does not know: projects belong to regions."""
    status, text = await checked(modelarts, tmp_path, {**token(modelarts), "project": "cn-north-1"})

    assert status == 1
    assert "named after its region" in text


@pytest.mark.parametrize("hours", [-2, 2, 48])
async def test_the_clock(modelarts: Simulator, tmp_path: Path, hours: int) -> None:
    """A clock that is off is found by the token's times and by the upstream's Date, in either direction."""
    modelarts.clock_offset_seconds = hours * 3600

    status, text = await checked(modelarts, tmp_path, token(modelarts))
    signed, of_signed = await checked(modelarts, tmp_path, AKSK)

    assert (status, signed) == (1, 1)
    side = "behind" if hours > 0 else "ahead of"
    assert f"{side} that of IAM" in text
    assert f"{side} that of the upstream" in of_signed
    assert "NTP" in text


@pytest.mark.parametrize(
    ("credential", "family", "says"),
    [
        pytest.param(APP_KEY, "v1_iam", ("IAM address", "APP address"), id="AppKey on the IAM address"),
        pytest.param(APP, "v1_iam", ("IAM address", "iam_token or aksk_signature"), id="app signature likewise"),
        pytest.param(AKSK, "v1_app", ("APP address", "app_signature"), id="AK/SK on the APP address"),
        pytest.param(AKSK, "maas", ("MaaS", "api_key"), id="AK/SK for MaaS"),
        pytest.param(API_KEY, "v2", ("takes tokens", "iam_token"), id="API key where tokens are taken"),
        pytest.param(AKSK, "nowhere", ("no service at this URL", "region"), id="no service"),
    ],
)
async def test_addresses(
    modelarts: Simulator, tmp_path: Path, credential: dict[str, Any], family: str, says: tuple[str, ...]
) -> None:
    """A credential at an address that takes another kind, and an address where nothing is."""
    modelarts.urls["nowhere"] = modelarts.urls["iam"] + "/v1/infers/another"
    modelarts.urls["maas"] = modelarts.urls["maas"] + "/v1/chat/completions"

    status, text = await checked(modelarts, tmp_path, credential, family)

    assert status == 1
    for words in says:
        assert words in text


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("http://127.0.0.1:1/v1/infers/x", ("refused", "host and port"), id="nobody listens"),
        pytest.param("https://{here}/v1/infers/x", ("TLS", "an http port behind an https URL"), id="http behind https"),
    ],
)
async def test_no_connection(modelarts: Simulator, tmp_path: Path, url: str, says: tuple[str, ...]) -> None:
    """An upstream that cannot be reached: what happened, and what to look at."""
    modelarts.urls["away"] = url.format(here=modelarts.urls["iam"].removeprefix("http://"))

    status, text = await checked(modelarts, tmp_path, AKSK, "away")

    assert status == 1
    for words in says:
        assert words in text


async def test_an_upstream_that_says_nothing(modelarts: Simulator, tmp_path: Path) -> None:
    """Looking ends with the route's own limit for connecting, which is named."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects, and nobody shakes hands
        modelarts.urls["silent"] = f"https://127.0.0.1:{silent.getsockname()[1]}/v1/infers/x"

        status, text = await checked(modelarts, tmp_path, AKSK, "silent", limits={"connect": "200ms"})

    assert status == 1
    assert "did not accept a connection in time (limits.connect)" in text
    assert "firewall" in text


async def test_an_upstream_that_is_a_host_alone(modelarts: Simulator, tmp_path: Path) -> None:
    """MaaS as a prefix for all its paths fits an API key, and no other kind."""
    status, text = await checked(modelarts, tmp_path, API_KEY, "maas")
    wrong, of_wrong = await checked(modelarts, tmp_path, AKSK, "maas")

    assert status == 0, text
    assert "takes this kind of credential" in text
    assert wrong == 1
    assert "this is MaaS" in of_wrong


async def test_a_prefix_where_nothing_is(modelarts: Simulator, tmp_path: Path) -> None:
    """An upstream that is a prefix, and no service's own address, may answer 404 itself: that is no failure."""
    modelarts.urls["prefix"] = modelarts.urls["iam"] + "/team/models"

    status, text = await checked(modelarts, tmp_path, APP_KEY, "prefix")

    assert status == 0, text
    assert "a path below it" in text


@pytest.mark.parametrize(
    ("host", "project", "wrong"),
    [
        pytest.param("infer-modelarts-cn-north-4.modelarts-infer.com", "cn-north-4", False, id="same"),
        pytest.param("infer-modelarts-cn-north-4.modelarts-infer.com", "cn-north-4_team", False, id="sub-project"),
        pytest.param("infer-modelarts-cn-north-4.modelarts-infer.com", "cn-north-1", True, id="another"),
        pytest.param("x.apig.ap-southeast-1.huaweicloudapis.com", "cn-north-4", True, id="app address of another"),
        pytest.param("10.0.0.8", "cn-north-4", False, id="no region in the address"),
    ],
)
def test_regions(host: str, project: str, wrong: bool, tmp_path: Path) -> None:
    """A credential of one region and a service in another are told apart by their names."""
    path = tmp_path / "gateway.yaml"
    credential = {"kind": "iam_token", "iam_url": "https://iam.example.com", "domain": "d", "user": "u"}
    document = {
        "credentials": {"mine": {**credential, "project": project, "password": {"env": "P"}}},
        "routes": [{"name": "r", "path": "/r", "upstream": f"https://{host}/v1/infers/S", "credential": "mine"}],
    }
    path.write_text(yaml.safe_dump(document))
    config = load(path, kinds(), environ={"P": "p"})

    text = _other_region(config.routes[0], config)

    assert (text is not None) is wrong
    assert text is None or "wrong region" in text
