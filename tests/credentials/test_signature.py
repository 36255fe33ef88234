"""The two kinds that sign: what is covered, how bodies enter, and when a key is held back."""

import hashlib
from typing import Any

import pytest
from pydantic import ValidationError

from gateway import signing
from gateway.config.secrets import SecretStore
from gateway.credentials.aksk_signature import AkSkSignature
from gateway.credentials.app_signature import AppSignature
from gateway.errors import CredentialUnavailable
from gateway.outbound import Outbound
from gateway.refusals import classify
from gateway.secret import Secret

from .fakes import NO_DEADLINE, START, Clock, FakeBody, added, outbound, refusal, services

ENVIRON = {"KEY": "the-key", "SECRET": "the-secret", "TOKEN": "the-token"}


def app_signature(clock: Clock, payload: str = "auto", **more: Any) -> AppSignature:
    settings = AppSignature.Settings.model_validate(
        {"kind": "app_signature", "app_key": {"env": "KEY"}, "app_secret": {"env": "SECRET"}, "payload": payload},
        context={"environ": ENVIRON, "secrets": SecretStore()},
    )
    return AppSignature("mine", settings, services(clock, **more))


def secret_of(credential: AppSignature) -> Secret:
    settings = credential.settings
    assert isinstance(settings, AppSignature.Settings)
    return settings.app_secret


def verify(request: Outbound, payload_hash: str) -> None:
    """Recompute the signature of the request from what leaves, over the headers it says are signed."""
    outline = request.outline
    sent = {name.decode().lower(): value.decode("latin-1") for name, value in [*outline.fields, *request.fields]}
    sent["host"] = outline.authority
    names = sent["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    canonical, signed_headers = signing.canonical_request(
        outline.method, outline.path, outline.query or "", [(name, sent[name]) for name in names], payload_hash
    )
    signature = signing.signature("the-secret", signing.string_to_sign(sent["x-sdk-date"], canonical))
    assert sent["authorization"] == signing.authorization("the-key", signed_headers, signature)


@pytest.mark.parametrize(
    ("payload", "body", "unsigned", "buffered_up_to"),
    [
        pytest.param("auto", FakeBody(), False, -1, id="auto, no body"),
        pytest.param("auto", FakeBody(b"x" * 10, replay_bytes=10), False, 10, id="auto, fits"),
        pytest.param("auto", FakeBody(b"x" * 11, replay_bytes=10), True, 10, id="auto, does not fit"),
        pytest.param("auto", FakeBody(b"x" * 10, chunked=True, replay_bytes=10), False, 10, id="auto, chunked, fits"),
        pytest.param("auto", FakeBody(b"", chunked=True), False, 1024, id="auto, chunked and empty"),
        pytest.param("hash", FakeBody(), False, -1, id="hash, no body"),
        pytest.param("hash", FakeBody(b"x" * 5000, replay_bytes=10), False, 5000, id="hash, large"),
        pytest.param("unsigned", FakeBody(), False, -1, id="unsigned, no body"),
        pytest.param("unsigned", FakeBody(b"x"), True, -1, id="unsigned, never buffers"),
        pytest.param("unsigned", FakeBody(b"x", chunked=True), True, 0, id="unsigned, chunked"),
        pytest.param("unsigned", FakeBody(b"", chunked=True), False, 0, id="unsigned, chunked and empty"),
    ],
)
async def test_how_bodies_enter(payload: str, body: FakeBody, unsigned: bool, buffered_up_to: int) -> None:
    """Hashed or announced as unsigned as configured; an empty body never comes with a content hash header."""
    request = outbound(body)

    await app_signature(Clock(), payload).authorize(request, NO_DEADLINE)

    assert added(request).get("X-Sdk-Content-Sha256") == ("UNSIGNED-PAYLOAD" if unsigned else None)
    assert body.buffered_up_to == buffered_up_to
    verify(request, "UNSIGNED-PAYLOAD" if unsigned else hashlib.sha256(body.content).hexdigest())


@pytest.mark.parametrize(
    ("stages", "signed"),
    [
        pytest.param([b"X-Stage: RELEASE"], True, id="one"),
        pytest.param([b"x-stage: RELEASE"], True, id="any case"),
        pytest.param([], False, id="none"),
        pytest.param([b"X-Stage: A", b"x-stage: B"], False, id="two, which signers read differently"),
        pytest.param([b"X-Stage:"], False, id="empty"),
        pytest.param([b"X-Stage: failed to reach the limit"], False, id="white space"),
        pytest.param([b"X-Stage: \xe9"], False, id="outside ASCII"),
        pytest.param([b"X_Stage: A"], False, id="another name"),
    ],
)
async def test_stage(stages: list[bytes], signed: bool) -> None:
    """X-Stage is covered where exactly one plain value leaves."""
    request = outbound(fields=tuple(stages))

    await app_signature(Clock()).authorize(request, NO_DEADLINE)

    assert (b";x-stage" in dict(request.fields)[b"Authorization"]) is signed
    verify(request, hashlib.sha256(b"{}").hexdigest())


async def test_temporary_keys() -> None:
    """The security token and the project leave, and are covered."""
    settings = AkSkSignature.Settings.model_validate(
        {
            "kind": "aksk_signature",
            "access_key": {"env": "KEY"},
            "secret_key": {"env": "SECRET"},
            "security_token": {"env": "TOKEN"},
            "project_id": "p1",
        },
        context={"environ": ENVIRON},
    )
    request = outbound()

    await AkSkSignature("mine", settings, services(Clock())).authorize(request, NO_DEADLINE)

    assert added(request)["X-Security-Token"] == "the-token"
    assert added(request)["X-Project-Id"] == "p1"
    assert "SignedHeaders=host;x-project-id;x-sdk-date;x-security-token," in added(request)["Authorization"]
    verify(request, hashlib.sha256(b"{}").hexdigest())


@pytest.mark.parametrize("project_id", ["", "a b", "a\n", "é"])
def test_a_project_that_cannot_be_a_header(project_id: str) -> None:
    """What would break the header is a problem of the file."""
    with pytest.raises(ValidationError):
        AkSkSignature.Settings.model_validate(
            {
                "kind": "aksk_signature",
                "access_key": {"env": "KEY"},
                "secret_key": {"env": "SECRET"},
                "project_id": project_id,
            },
            context={"environ": ENVIRON},
        )


async def test_clock_skew() -> None:
    """The date is the upstream's time, not ours."""
    request = outbound(clock_skew_seconds=3600.0)

    await app_signature(Clock()).authorize(request, NO_DEADLINE)

    assert added(request)["X-Sdk-Date"] == "20231114T231320Z"
    assert START == 1_700_000_000.0  # 2023-11-14T22:13:20Z


async def test_no_query() -> None:
    """A request without a query is signed with an empty one."""
    request = outbound(query=None)

    await app_signature(Clock()).authorize(request, NO_DEADLINE)

    verify(request, hashlib.sha256(b"{}").hexdigest())


async def test_a_locked_key_is_held() -> None:
    """Nothing is sent for 5 minutes, the reason and the time are told, and then it goes on."""
    clock = Clock()
    credential = app_signature(clock)

    assert not await credential.refused(outbound(), refusal("auth_locked"), NO_DEADLINE)
    await clock.advance(100)
    with pytest.raises(CredentialUnavailable, match="locked") as caught:
        await credential.authorize(outbound(), NO_DEADLINE)
    assert caught.value.retry_after_seconds == pytest.approx(200)
    assert not credential.state().usable
    await clock.advance(200)

    await credential.authorize(outbound(), NO_DEADLINE)
    assert credential.state().usable


async def test_refused_signatures_in_a_row() -> None:
    """The fourth refusal without a success between holds the key, before the upstream locks it."""
    clock = Clock()
    credential = app_signature(clock)
    for _ in range(3):
        assert not await credential.refused(outbound(), refusal("auth_signature"), NO_DEADLINE)
    credential.accepted(outbound())
    for _ in range(3):
        await credential.refused(outbound(), refusal("auth_signature"), NO_DEADLINE)
        await credential.refused(outbound(), refusal("auth_clock"), NO_DEADLINE)
    await credential.authorize(outbound(), NO_DEADLINE)

    await credential.refused(outbound(), refusal("auth_signature"), NO_DEADLINE)

    with pytest.raises(CredentialUnavailable, match="in a row"):
        await credential.authorize(outbound(), NO_DEADLINE)


LOCK = b"APIG.0301 failed to reach the limit"
WHOLE = b'{"error_code":"APIG.0301","error_msg":"failed to reach the limit"}'


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(400, b"cannot parse the prompt: " + LOCK, id="text"),
        pytest.param(401, b"cannot parse the prompt: " + LOCK, id="text under 401"),
        pytest.param(422, b'{"detail":[{"loc":["body","prompt"],"input":["' + LOCK + b'"]}]}', id="pydantic"),
        pytest.param(422, (b'{"detail":[{"input":["' + LOCK + b"x" * 5000)[:4096], id="pydantic, cut"),
        pytest.param(400, b'{"error_code":"MR.0105","error_msg":"' + LOCK + b'"}', id="the model's own code"),
        pytest.param(400, WHOLE, id="an echo"),
        pytest.param(500, b'{"error_code":"APIG.0303","error_msg":"verify signature fail"}', id="an echo, signature"),
        pytest.param(400, b'{"error_code":"ModelArts.4905","error_msg":"x"}', id="an echo of a documented 400"),
        pytest.param(200, b"data: " + WHOLE + b"\n\n", id="an event"),
    ],
)
async def test_a_model_that_quotes_its_caller(status: int, body: bytes) -> None:
    """What one caller makes a model say holds the key for nobody, however often."""
    spread: list[str] = []
    credential = app_signature(Clock(), spread=lambda name, what, why: spread.append(what))
    found = classify(status, body)
    assert found is not None

    for _ in range(8):
        await credential.refused(outbound(), found, NO_DEADLINE)

    await credential.authorize(outbound(), NO_DEADLINE)
    assert credential.state().usable
    assert credential.state().last_error is None
    assert spread == []


@pytest.mark.parametrize(
    "refusal_class", ["auth_locked", "auth_signature", "auth_invalid", "auth_expired", "auth_clock", "model_error"]
)
async def test_what_is_not_certain(refusal_class: str) -> None:
    """It holds nothing, counts for nothing, and clears nothing that was counted."""
    credential = app_signature(Clock())
    for _ in range(3):
        await credential.refused(outbound(), refusal("auth_signature"), NO_DEADLINE)
    before = credential.state()

    for _ in range(8):
        await credential.refused(outbound(), refusal(refusal_class, certain=False), NO_DEADLINE)

    assert credential.state() == before
    await credential.refused(outbound(), refusal("auth_signature"), NO_DEADLINE)
    assert not credential.state().usable


async def test_a_changed_secret_lifts_the_hold() -> None:
    """Whoever rotates the secret does not wait, and the new one is used."""
    credential = app_signature(Clock())
    await credential.refused(outbound(), refusal("auth_locked"), NO_DEADLINE)
    secret_of(credential).replace("another")
    request, reference = outbound(), outbound()
    await app_signature(Clock()).authorize(reference, NO_DEADLINE)

    await credential.authorize(request, NO_DEADLINE)

    assert credential.state().usable
    assert added(request)["Authorization"] != added(reference)["Authorization"]
