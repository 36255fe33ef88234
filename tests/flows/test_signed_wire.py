"""What leaves on a signed route, byte for byte at a socket, judged by the vendor's own signer."""

import hashlib
import itertools
import random

import pytest
from fake_modelarts import FakeModelArts
from raw_caller import ask
from running import Document, InProcess, StartGateway, document, route

from flows.official_sdk import signed_headers, verifies

KEY, SECRET = "SIGNEDWIREKEY0000000", "signed-wire-secret"
ENVIRON = {"KEY": KEY, "SECRET": SECRET, "TOKEN": "security-token-of-the-test"}
MIB = 1024 * 1024
SIZES = [0, 1, MIB, MIB + 1, 5 * MIB]
BODY = random.Random(7).randbytes(5 * MIB)


def credentials() -> Document:
    """App signatures with each way of hashing, and an access key with everything that can be signed."""
    app = {"kind": "app_signature", "app_key": {"env": "KEY"}, "app_secret": {"env": "SECRET"}}
    return {
        **{payload: {**app, "payload": payload} for payload in ("auto", "hash", "unsigned")},
        "aksk": {
            "kind": "aksk_signature",
            "access_key": {"env": "KEY"},
            "secret_key": {"env": "SECRET"},
            "security_token": {"env": "TOKEN"},
            "project_id": "project-of-the-test",
        },
    }


async def signing_gateway(start_gateway: StartGateway, fake: FakeModelArts) -> InProcess:
    upstream = f"{fake.url}/v1/infers/S"
    routes = [route(name, upstream, name) for name in credentials()]
    return await start_gateway(document(*routes, credentials=credentials()), ENVIRON)


@pytest.mark.parametrize("size", SIZES, ids=["0 B", "1 B", "1 MiB", "1 MiB + 1", "5 MiB"])
@pytest.mark.parametrize("payload", ["auto", "hash", "unsigned"])
@pytest.mark.parametrize("chunk_bytes", [0, 70_000], ids=["Content-Length", "chunked"])
async def test_bodies(
    start_gateway: StartGateway, fake: FakeModelArts, size: int, payload: str, chunk_bytes: int
) -> None:
    """The signature holds for every size, framing and payload mode, and the body arrives whole."""
    gateway = await signing_gateway(start_gateway, fake)

    reply = await gateway.ask("POST", f"/{payload}/x?a=1", body=BODY[:size], chunk_bytes=chunk_bytes)

    assert reply.status == 200
    request = fake.last
    assert request.body == BODY[:size]
    assert verifies(request, KEY, SECRET)
    unsigned = size > 0 and (payload == "unsigned" or (payload == "auto" and size > MIB))
    assert request.get("X-Sdk-Content-Sha256") == ("UNSIGNED-PAYLOAD" if unsigned else None)
    # A chunked body that had arrived whole before the head left has a length that is known.
    assert request.chunked != (request.get("Content-Length") is not None)
    assert not request.chunked or (chunk_bytes and unsigned)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS"])
async def test_methods(start_gateway: StartGateway, fake: FakeModelArts, method: str) -> None:
    """Every method is signed as it leaves, with and without a body."""
    gateway = await signing_gateway(start_gateway, fake)

    await gateway.ask(method, "/auto/x")
    await gateway.ask(method, "/hash/x", body=b"body")

    assert [request.method for request in fake.received] == [method, method]
    assert [verifies(request, KEY, SECRET) for request in fake.received] == [True, True]
    assert [request.body for request in fake.received] == [b"", b"body"]


@pytest.mark.parametrize(
    ("sent", "left"),
    [
        pytest.param("", "", id="nothing behind the prefix"),
        pytest.param("/", "/", id="a slash"),
        pytest.param("/predictions/poetry", "/predictions/poetry", id="plain"),
        pytest.param("/a%20b", "/a%20b", id="encoded space"),
        pytest.param("/%e8%af%97", "/%E8%AF%97", id="lower-case escapes"),
        pytest.param("/a%7Eb-_.~", "/a~b-_.~", id="needlessly encoded tilde"),
        pytest.param("/x;v=1,2(3)!*'@:$&=+", "/x%3Bv%3D1%2C2%283%29%21%2A%27%40%3A%24%26%3D%2B", id="sub-delimiters"),
        pytest.param("/x?", "/x", id="empty query"),
        pytest.param("/x?b=2&a=1", "/x?a=1&b=2", id="sorted by key"),
        pytest.param("/x?a=2&a=10&a=1", "/x?a=1&a=10&a=2", id="repeated key sorted by value"),
        pytest.param("/x?q=a+b", "/x?q=a%20b", id="plus"),
        pytest.param("/x?q=a;b", "/x?q=a%3Bb", id="semicolon"),
        pytest.param("/x?flag", "/x?flag=", id="key without value"),
        pytest.param("/x?a=b=c", "/x?a=b%3Dc", id="second equals sign"),
        pytest.param("/x?%e8%af%97=%7e/", "/x?%E8%AF%97=~%2F", id="escapes in the query"),
    ],
)
async def test_targets(start_gateway: StartGateway, fake: FakeModelArts, sent: str, left: str) -> None:
    """Path and query leave in the canonical form that was signed."""
    gateway = await signing_gateway(start_gateway, fake)

    await gateway.ask("POST", f"/auto{sent}", body=b"{}")

    assert fake.last.target == f"/v1/infers/S{left}"
    assert verifies(fake.last, KEY, SECRET)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/auto/a//b", id="empty segment"),
        pytest.param("/auto/a%2Fb", id="encoded slash"),
        pytest.param("/auto/x?=1", id="empty key"),
        pytest.param("/auto/x?a=1&&b=2", id="empty pair"),
        pytest.param("/auto/../x", id="dot segment"),
        pytest.param("/auto/%2e%2E/x", id="encoded dot segment"),
    ],
)
async def test_targets_that_never_leave(start_gateway: StartGateway, fake: FakeModelArts, target: str) -> None:
    """What has no agreed canonical form is refused, and nothing reaches the upstream."""
    gateway = await signing_gateway(start_gateway, fake)

    reply = await gateway.ask("POST", target, body=b"{}")

    assert (reply.status, reply.code) == (400, "Gateway.BadPath")
    assert fake.connections == 0


async def test_everything_that_can_be_signed(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A security token, the project and the caller's X-Stage leave signed; the caller's own versions of ours do not."""
    gateway = await signing_gateway(start_gateway, fake)
    theirs = {"X-Stage": "RELEASE", "X-Project-Id": "theirs", "X-Security-Token": "theirs", "Content-Type": "text/x"}

    await gateway.ask("POST", "/aksk/x", theirs, body=b"{}")

    assert verifies(fake.last, KEY, SECRET)
    assert set(signed_headers(fake.last)) == {"host", "x-sdk-date", "x-security-token", "x-project-id", "x-stage"}
    assert fake.last.all("X-Security-Token") == [ENVIRON["TOKEN"]]
    assert fake.last.all("X-Project-Id") == ["project-of-the-test"]
    assert fake.last.all("X-Stage") == ["RELEASE"]


async def test_host_is_the_upstreams(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Host and port of the URL are sent and signed, though another address is dialled."""
    upstream = "http://signed.example.com:8123/v1/infers/S"
    there = {"address": f"127.0.0.1:{fake.port}"}
    gateway = await start_gateway(
        document(route("auto", upstream, "auto", connection=there), credentials=credentials()), ENVIRON
    )

    await gateway.ask("POST", "/auto", {"X-Forwarded-Host": "x"}, body=b"{}")

    assert fake.last.all("Host") == ["signed.example.com:8123"]
    assert verifies(fake.last, KEY, SECRET)


async def test_each_attempt_is_signed_anew(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A second attempt carries one signature of its own over the same body, not two."""
    from fake_modelarts import refuses

    upstream = f"{fake.url}/v1/infers/S"
    gateway = await start_gateway(
        document(route("hash", upstream, "hash", retry={"idempotent": True}), credentials=credentials()), ENVIRON
    )
    fake.plan = [refuses("502 Bad Gateway", "APIG.0201", "Backend unavailable.")]

    reply = await gateway.ask("POST", "/hash", body=BODY[: 3 * MIB // 2])

    assert reply.status == 200
    assert len(fake.received) == 2
    assert all(len(request.all("Authorization")) == 1 and verifies(request, KEY, SECRET) for request in fake.received)
    assert {request.sha256 for request in fake.received} == {hashlib.sha256(BODY[: 3 * MIB // 2]).hexdigest()}


@pytest.mark.parametrize("seed", range(4))
async def test_any_target_that_passes_verifies(start_gateway: StartGateway, fake: FakeModelArts, seed: int) -> None:
    """Random paths and queries either are refused with 400 or leave with a signature that verifies."""
    gateway = await signing_gateway(start_gateway, fake)
    choose = random.Random(seed)
    alphabet = [*"abcXYZ019-._~!$'()*+,;:@", "%20", "%2B", "%e4%bd%a0", "%7e", "%25", "%3d", "%26", "%3F"]
    verdicts = set()
    for _ in range(60):
        path = "".join(itertools.chain("/", choose.choices(alphabet, k=choose.randrange(1, 8))))
        pairs = ["".join(choose.choices([*alphabet, "=", "/", "?"], k=choose.randrange(1, 8))) for _ in range(3)]
        target = f"/auto{path}?{'&'.join(pairs[: choose.randrange(4)])}"
        before = len(fake.received)

        reply = await ask(gateway.port, "POST", target, body=b"{}")

        verdicts.add(reply.status)
        if reply.status == 200:
            assert verifies(fake.last, KEY, SECRET), target
        else:
            assert (reply.status, reply.code, len(fake.received)) == (400, "Gateway.BadPath", before), target
    assert 200 in verdicts
