"""Signatures: what the vendor's package signs is accepted, and nothing else is."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.simulator import Simulator, signature

from .senders import Fields, Wall, send, signed

BODY = b'{"data": {"req_data": [{"petal_length": 5.1}]}}'
JSON_FIELDS = [("Content-Type", "application/json")]


VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "signing.json").read_text())["vectors"]


@pytest.mark.parametrize(
    "vector",
    [pytest.param(v, id=v["id"]) for v in VECTORS if v["agreement"]["tier"] == "all"],
)
def test_what_every_official_signer_signs(vector: dict[str, Any]) -> None:
    """Every case that all official implementations agree on is verified from its raw target and fields."""
    sent = vector["input"]
    parts = urlsplit(sent["url"])
    target = sent["url"].split(parts.netloc, 1)[1]
    target = target if target.startswith("/") else "/" + target
    fields = [(name.encode(), value.encode()) for name, value in sent["headers"]]
    if not any(name.lower() == b"host" for name, _ in fields):
        fields.append((b"Host", parts.netloc.encode()))
    fields.append((b"X-Sdk-Date", sent["sdk_date"].encode()))
    body_sha256 = hashlib.sha256(base64.b64decode(sent["body_base64"])).hexdigest()

    presented = signature.parse(vector["expected"]["authorization"])
    hashed = signature.payload_hash(fields, presented.signed, body_sha256)
    canonical = signature.canonical_request(sent["method"], target.encode(), fields, presented.signed, hashed)

    assert canonical.decode() == vector["expected"]["canonical_request"]
    assert signature.compute(sent["secret"], sent["sdk_date"], canonical) == presented.signature


def test_the_published_example() -> None:
    """The example printed in the API Request Signing Guide gives the printed signature."""
    fields = [
        (b"Content-Type", b"application/json"),
        (b"Host", b"service.region.example.com"),
        (b"X-Sdk-Date", b"20191115T033655Z"),
    ]
    target = b"/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs?limit=2&marker=13551d6b-755d-4757-b956-536f674975c0"
    canonical = signature.canonical_request(
        "GET", target, fields, ("content-type", "host", "x-sdk-date"), hashlib.sha256(b"").hexdigest()
    )

    assert (
        signature.compute("MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc", "20191115T033655Z", canonical)
        == "7be6668032f70418fcc22abc52071e57aff61b84a1d2381bb430d6870f4f6ebe"
    )


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        pytest.param(b"/", b"/", id="root"),
        pytest.param(b"/a", b"/a/", id="slash appended"),
        pytest.param(b"/a/", b"/a/", id="slash there"),
        pytest.param(b"/a//b", b"/a//b/", id="empty segment kept"),
        pytest.param(b"/a%2fb", b"/a/b/", id="encoded slash separates"),
        pytest.param(b"/%252F", b"/%252F/", id="decoded once"),
        pytest.param(b"/%e4%b8%ad%41", b"/%E4%B8%ADA/", id="escapes in canonical form"),
        pytest.param(b"/a:b@c!*", b"/a%3Ab%40c%21%2A/", id="reserved"),
        pytest.param(b"/%zz", b"/%25zz/", id="broken escape"),
    ],
)
def test_canonical_path(raw: bytes, canonical: bytes) -> None:
    """Decoded once, encoded again by segment, ending in a slash."""
    assert signature.canonical_path(raw) == canonical


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        pytest.param(b"", b"", id="none"),
        pytest.param(b"b=2&a=1", b"a=1&b=2", id="sorted"),
        pytest.param(b"a=2&a=1", b"a=1&a=2", id="values sorted"),
        pytest.param(b"a", b"a=", id="equals added"),
        pytest.param(b"a=%20~*/", b"a=%20~%2A%2F", id="value encoded"),
        pytest.param(b"a=b=c", b"a=b%3Dc", id="second equals is value"),
        pytest.param(b"&a=1&&", b"a=1", id="empty pairs"),
    ],
)
def test_canonical_query(raw: bytes, canonical: bytes) -> None:
    """Pairs decoded, sorted and encoded again."""
    assert signature.canonical_query(raw) == canonical


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({"method": "GET"}, id="get"),
        pytest.param({"method": "POST", "body": BODY, "headers": JSON_FIELDS}, id="json"),
        pytest.param({"method": "DELETE", "body": b'{"a": 1}', "headers": JSON_FIELDS}, id="delete with a body"),
        pytest.param({"method": "GET", "query": [("b", "2 +/"), ("a", "ä"), ("c", "")]}, id="query"),
        pytest.param(
            {"method": "POST", "body": b"\x00\xff", "headers": [("Content-Type", "application/octet-stream")]},
            id="unsigned payload",
        ),
        pytest.param(
            {"method": "POST", "body": b'{"a": "' + b"x" * 300_000 + b'"}', "headers": JSON_FIELDS}, id="several chunks"
        ),
        pytest.param({"method": "GET", "headers": [("X-Project-Id", "p"), ("X-Stage", "RELEASE")]}, id="more headers"),
    ],
)
@pytest.mark.parametrize(
    ("family", "key", "secret", "kind"),
    [
        pytest.param("v1_iam", "ak", "sk", "aksk", id="aksk"),
        pytest.param("v1_app", "app_key", "app_secret", "app_signature", id="app"),
    ],
)
async def test_what_the_vendor_signs(
    simulator: Simulator, wall: Wall, request_: dict[str, Any], family: str, key: str, secret: str, kind: str
) -> None:
    """Requests signed by huaweicloudsdkcore are let in on both v1 addresses."""
    credentials = simulator.credentials
    url, fields = signed(
        simulator.urls[family] + "/echo/%E4%BD%A0:b",
        key=credentials[key],
        secret=credentials[secret],
        now=wall.now,
        **request_,
    )

    reply = await send(url, request_["method"], fields, request_.get("body", b""))

    assert reply.status == 200, reply.body
    assert simulator.state["accepted"] == {kind: 1}


async def test_temporary_access_key(simulator: Simulator, wall: Wall) -> None:
    """A temporary access key needs its security token, and the lasting one has none."""
    credentials = simulator.credentials
    url = simulator.urls["v1_iam"] + "/echo"

    async def status(key: str, secret: str, token: str | None) -> int:
        headers = [] if token is None else [("X-Security-Token", token)]
        target, fields = signed(url, "GET", credentials[key], credentials[secret], wall.now, headers=headers)
        return (await send(target, "GET", fields)).status

    assert await status("temporary_ak", "temporary_sk", credentials["security_token"]) == 200
    assert await status("temporary_ak", "temporary_sk", "another") == 401
    assert await status("temporary_ak", "temporary_sk", None) == 401
    assert await status("ak", "sk", credentials["security_token"]) == 401


def replaced(fields: Fields, name: str, value: str) -> Fields:
    return [(key, value if key.lower() == name.lower() else old) for key, old in fields]


def mutate(how: str, url: str, fields: Fields, body: bytes) -> tuple[str, Fields, bytes]:
    """One change to a signed request on its way."""
    authorization = dict(fields)["Authorization"]
    match how:
        case "body":
            return url, fields, body[:-1] + b" "
        case "body gone":
            return url, fields, b""
        case "path":
            return url.replace("/echo", "/echo/x"), fields, body
        case "query":
            return url.replace("a=1", "a=2"), fields, body
        case "query added":
            return url + "&z=1", fields, body
        case "host":
            return url, replaced(fields, "Host", "other.example.com"), body
        case "date":
            return url, replaced(fields, "X-Sdk-Date", "20231114T221321Z"), body
        case "signature":
            return url, replaced(fields, "Authorization", authorization[:-1] + "xg"[authorization.endswith("x")]), body
        case "fewer signed":
            return url, replaced(fields, "Authorization", authorization.replace("host;", "")), body
        case "signed header twice":
            return url, [*fields, ("X-Stage", "RELEASE")], body
        case "header unsigned hash":
            return url, [*fields, ("X-Sdk-Content-Sha256", "UNSIGNED-PAYLOAD")], body + b" "
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    "how",
    [
        "body",
        "body gone",
        "path",
        "query",
        "query added",
        "host",
        "date",
        "signature",
        "fewer signed",
        "signed header twice",
        "header unsigned hash",
    ],
)
@pytest.mark.parametrize(
    ("family", "key", "secret", "code"),
    [
        pytest.param("v1_iam", "ak", "sk", "APIG.0301", id="aksk"),
        pytest.param("v1_app", "app_key", "app_secret", "APIG.0303", id="app"),
    ],
)
async def test_any_change_on_the_way_is_noticed(
    simulator: Simulator, wall: Wall, how: str, family: str, key: str, secret: str, code: str
) -> None:
    """Whatever a signature covers cannot be changed."""
    credentials = simulator.credentials
    url, fields = signed(
        simulator.urls[family] + "/echo",
        "POST",
        credentials[key],
        credentials[secret],
        wall.now,
        query=[("a", "1")],
        body=BODY,
        headers=[*JSON_FIELDS, ("X-Stage", "RELEASE")],
    )
    assert (await send(url, "POST", fields, BODY)).status == 200

    url, fields, body = mutate(how, url, fields, BODY)
    reply = await send(url, "POST", fields, body)

    assert (reply.status, reply.json()["error_code"]) == (401, code)
    assert reply.json()["request_id"] == reply.fields["x-request-id"]


async def test_refusal_quotes_what_was_expected(simulator: Simulator, wall: Wall) -> None:
    """A mismatch is answered with the server's canonical request on one line."""
    credentials = simulator.credentials
    url, fields = signed(simulator.urls["v1_iam"] + "/echo", "GET", credentials["ak"], "another", wall.now)

    message = (await send(url, "GET", fields)).json()["error_msg"]

    host = simulator.urls["iam"].removeprefix("http://")
    path = simulator.urls["v1_iam"].removeprefix(simulator.urls["iam"])
    assert message == (
        "Incorrect IAM authentication information: verify aksk signature fail, canonicalRequest:"
        f"GET|{path}/echo/||host:{host}|x-sdk-date:20231114T221320Z||host;x-sdk-date|{hashlib.sha256(b'').hexdigest()}"
    )


async def test_a_given_hash_must_be_the_bodys(simulator: Simulator, wall: Wall) -> None:
    """A signed hash of some other body does not cover this one."""
    credentials = simulator.credentials
    headers = [*JSON_FIELDS, ("X-Sdk-Content-Sha256", hashlib.sha256(BODY).hexdigest())]
    url, fields = signed(
        simulator.urls["v1_iam"] + "/echo",
        "POST",
        credentials["ak"],
        credentials["sk"],
        wall.now,
        body=BODY,
        headers=headers,
    )

    assert (await send(url, "POST", fields, BODY)).status == 200
    assert (await send(url, "POST", fields, BODY + b" ")).status == 401


@pytest.mark.parametrize(
    ("skew_seconds", "status"),
    [
        pytest.param(900, 200, id="15 min behind"),
        pytest.param(-900, 200, id="15 min ahead"),
        pytest.param(901, 401, id="901 s behind"),
        pytest.param(-901, 401, id="901 s ahead"),
    ],
)
@pytest.mark.parametrize(
    ("family", "key", "secret"),
    [pytest.param("v1_iam", "ak", "sk", id="aksk"), pytest.param("v1_app", "app_key", "app_secret", id="app")],
)
async def test_the_clock_window(
    simulator: Simulator, wall: Wall, skew_seconds: int, status: int, family: str, key: str, secret: str
) -> None:
    """A signature lives 15 minutes either way; the refusal names both times."""
    credentials = simulator.credentials
    simulator.clock_offset_seconds = skew_seconds
    url, fields = signed(simulator.urls[family] + "/echo", "GET", credentials[key], credentials[secret], wall.now)

    reply = await send(url, "GET", fields)

    assert reply.status == status
    if status == 401:
        server_time = signature.sdk_date(wall.now + skew_seconds)
        assert (
            f"signature expired, signature time:20231114T221320Z,server time:{server_time}" in reply.json()["error_msg"]
        )


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        pytest.param("v1_iam", ("Access=", "Access=X"), "Get secretKey failed,ak:XSIMULATED", id="unknown access key"),
        pytest.param("v1_app", ("Access=", "Access=X"), "app not found, appkey XSIMULATED", id="unknown app key"),
        pytest.param("v1_iam", (";x-sdk-date", ""), "x-sdk-date is missing or not signed", id="date not signed"),
        pytest.param("v1_iam", ("Signature=", "Signed="), "Authorization is not of the form", id="malformed"),
        pytest.param("v1_iam", ("SDK-HMAC-SHA256", "Bearer"), "decrypt token fail", id="another scheme"),
    ],
)
async def test_bad_authorization(
    simulator: Simulator, wall: Wall, family: str, change: tuple[str, str], message: str
) -> None:
    """What cannot be checked is refused in the words of its address."""
    credentials = simulator.credentials
    url, fields = signed(simulator.urls[family] + "/echo", "GET", credentials["ak"], credentials["sk"], wall.now)
    authorization = dict(fields)["Authorization"].replace(*change)

    reply = await send(url, "GET", replaced(fields, "Authorization", authorization))

    assert reply.status == 401
    assert message in reply.json()["error_msg"]


async def test_six_bad_signatures_lock_the_access_key(simulator: Simulator, wall: Wall) -> None:
    """More than five failures in a row lock an access key for five minutes; a success in between starts anew."""
    credentials = simulator.credentials
    echo = simulator.urls["v1_iam"] + "/echo"

    async def status_and_message(secret: str) -> tuple[int, str]:
        url, fields = signed(echo, "GET", credentials["ak"], secret, wall.now)
        reply = await send(url, "GET", fields)
        return reply.status, reply.json().get("error_msg", "")

    for _ in range(5):
        await status_and_message("another")
    assert (await status_and_message(credentials["sk"]))[0] == 200
    for _ in range(6):
        assert "verify aksk signature fail" in (await status_and_message("another"))[1]

    assert await status_and_message(credentials["sk"]) == (
        401,
        "Incorrect IAM authentication information: AK access failed to reach the limit,forbidden",
    )
    assert simulator.state["locked"]["access_keys"] == [credentials["ak"]]
    wall.now += 301
    assert (await status_and_message(credentials["sk"]))[0] == 200
