"""What every kind of credential promises; a new kind is tried without being told of here."""

from pathlib import Path
from typing import Any

import pytest

from gateway import credentials, headers
from gateway.config.secrets import SecretStore
from gateway.config.types import CredentialSettings
from gateway.credentials.base import Credential
from gateway.credentials.token import Token
from gateway.deadline import Deadline
from gateway.outbound import Outline

from .fakes import NO_DEADLINE, Clock, added, outbound, refusal, services

PLANTED = "planted-secret-value"
KINDS = sorted(credentials.kinds())

# The settings of each kind that are no secrets; secrets are filled in by themselves.
PLAIN_SETTINGS: dict[str, dict[str, Any]] = {
    "iam_token": {"region": "cn-north-4", "project": "cn-north-4", "domain": "d", "user": "u"},
    "aksk_signature": {"project_id": "p1"},
}


def settings(kind: str) -> CredentialSettings:
    model = credentials.kinds()[kind].Settings
    entry: dict[str, Any] = {"kind": kind, **PLAIN_SETTINGS.get(kind, {})}
    for name, field in model.model_fields.items():
        if "Secret" in str(field.annotation):
            entry[name] = {"env": "PLANTED_SECRET"}
    context = {"environ": {"PLANTED_SECRET": PLANTED}, "secrets": SecretStore(), "folder": Path.cwd()}
    return model.model_validate(entry, context=context)


def made(kind: str, clock: Clock) -> Credential:
    async def shared_token(name: str, refused: bytes | None) -> Token:
        return Token(PLANTED.encode(), clock.wall() + 3600)

    return credentials.create("mine", settings(kind), services(clock, shared_token=shared_token))


def started(kind: str, clock: Clock) -> Credential:
    credential = made(kind, clock)
    credential.start()
    return credential


def test_the_kinds() -> None:
    """Kinds are found by being there; these are the ones the configuration promises."""
    assert set(KINDS) >= {
        "app_code",
        "app_key",
        "api_key",
        "none",
        "app_signature",
        "aksk_signature",
        "iam_token",
    }


@pytest.mark.parametrize("kind", KINDS)
async def test_adds_what_it_owns(kind: str) -> None:
    """A credential adds headers it owns, each once, and changes nothing else of the request."""
    credential = started(kind, Clock())
    request, untouched = outbound(), outbound()

    await credential.authorize(request, NO_DEADLINE)
    await credential.close()

    new = [name.decode() for name, _ in request.fields[1:]]
    assert request.fields[:1] == untouched.fields
    assert set(new) <= credential.owned_headers
    assert len(new) == len(set(new))
    assert bool(new) is (kind != "none")
    for attribute in Outline.__slots__:
        assert getattr(request.outline, attribute) == getattr(untouched.outline, attribute)


@pytest.mark.parametrize("kind", KINDS)
def test_owned_headers_are_dropped_from_callers(kind: str) -> None:
    """No caller can send what a credential writes."""
    for name in credentials.kinds()[kind].owned_headers:
        lowered = name.lower().encode()
        assert lowered in headers.CALLER_CREDENTIALS or lowered.startswith(headers.CALLER_CREDENTIAL_PREFIXES)


@pytest.mark.parametrize("kind", KINDS)
async def test_shows_no_secret(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither its state nor its repr, its settings' repr or its log holds the secret, whatever happened to it."""
    caplog.set_level("DEBUG")
    credential = started(kind, Clock())
    request = outbound()
    await credential.authorize(request, NO_DEADLINE)
    for refusal_class in ("auth_expired", "auth_invalid", "auth_signature", "auth_locked", "auth_clock"):
        await credential.refused(request, refusal(refusal_class), NO_DEADLINE)

    shown = [repr(credential), str(credential.state()), repr(credential.settings), caplog.text]
    await credential.close()

    assert not any(PLANTED in text for text in shown)


@pytest.mark.parametrize("kind", KINDS)
async def test_each_attempt_is_authorized_by_itself(kind: str) -> None:
    """A second attempt, from a clean copy and a second later, carries a full set again."""
    clock = Clock()
    credential = started(kind, clock)
    first, second = outbound(), outbound()

    await credential.authorize(first, NO_DEADLINE)
    await clock.advance(1)
    await credential.authorize(second, NO_DEADLINE)
    await credential.close()

    assert set(added(first)) == set(added(second))
    if credential.signs:
        assert added(first)["X-Sdk-Date"] != added(second)["X-Sdk-Date"]
        assert added(first)["Authorization"] != added(second)["Authorization"]


@pytest.mark.parametrize("kind", KINDS)
async def test_refused_never_raises(kind: str) -> None:
    """A refusal is an answer to pass on: whatever class it has, and also past the deadline."""
    credential = started(kind, Clock())
    request = outbound()
    await credential.authorize(request, NO_DEADLINE)

    for refusal_class in ("auth_expired", "auth_invalid", "auth_missing", "auth_scope", "forbidden", "unknown"):
        assert await credential.refused(request, refusal(refusal_class), Deadline(0.0)) in (True, False)
    credential.accepted(request)
    await credential.close()


@pytest.mark.parametrize("kind", KINDS)
def test_says_its_kind(kind: str) -> None:
    """Kind, settings and class belong together."""
    found = credentials.kinds()[kind]

    assert found.kind == kind
    assert settings(kind).kind == kind
    assert found.__doc__


@pytest.mark.parametrize("kind", KINDS)
async def test_close_without_start(kind: str) -> None:
    """A credential that was never started can be closed, as ``check`` does."""
    await made(kind, Clock()).close()


@pytest.mark.parametrize("kind", KINDS)
async def test_only_what_renews_says_that_another_attempt_may_help(kind: str) -> None:
    """Where a kind does not renew, nobody needs to look into a refusal before it is passed on."""
    credential = started(kind, Clock())
    request = outbound()
    await credential.authorize(request, NO_DEADLINE)

    cured = await credential.refused(request, refusal("auth_expired"), Deadline(0.0))
    await credential.close()

    assert credential.renews is (kind == "iam_token")
    assert credential.renews or not cured


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_certain_changes_nothing(kind: str) -> None:
    """A refusal that may be a caller's own words leaves every credential as it was."""
    credential = started(kind, Clock())
    request = outbound()
    await credential.authorize(request, NO_DEADLINE)
    before = credential.state()

    for refusal_class in ("auth_expired", "auth_invalid", "auth_signature", "auth_locked", "auth_clock", "model_error"):
        for _ in range(5):
            assert not await credential.refused(request, refusal(refusal_class, certain=False), NO_DEADLINE)

    assert credential.state() == before
    await credential.close()
