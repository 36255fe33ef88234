"""Every way to be somebody: what it asks its issuer for, and what it makes of odd answers; all behind one promise."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from gateway import credentials
from gateway.config import places
from gateway.config.secrets import SecretStore
from gateway.credentials.base import Credential
from gateway.credentials.by_agency import ByAgency
from gateway.credentials.by_id_token import ByIdToken
from gateway.credentials.by_password import ByPassword
from gateway.credentials.from_metadata import FromMetadata
from gateway.credentials.from_pod import FromPod
from gateway.credentials.iam import Iam, Scope
from gateway.credentials.keys import read_keys, unpacked
from gateway.credentials.lock_outs import LockOuts
from gateway.credentials.token import Cause, FetchFailed, Token
from gateway.errors import CredentialUnavailable
from gateway.routes import Connection
from gateway.secret import Secret

from .fakes import NO_DEADLINE, START, Clock, added, outbound, refusal, services
from .test_iam import TOKEN, answering, described, iam

PLANTED = "planted-secret-value"
IAM = {"kind": "iam_token", "region": "cn-north-4", "project": "cn-north-4"}
USER = {"domain": "d", "user": "u", "password": {"env": "PLANTED"}}
ASSUMED = {"domain": "other", "agency": "inference"}
WAYS: dict[str, dict[str, Any]] = {
    "by password": {**IAM, **USER},
    "by agency": {**IAM, **USER, "assume_role": ASSUMED},
    "by ID token": {**IAM, "oidc": {"provider": "idp", "id_token": {"env": "PLANTED"}}},
    "from environment": {"kind": "aksk_signature", "from": "environment"},
    "from file": {"kind": "aksk_signature", "from": "file", "credentials_file": "credentials"},
    "from metadata": {"kind": "aksk_signature", "from": "metadata"},
    "from pod": {"kind": "aksk_signature", "from": "pod"},
    "derived": {
        "kind": "aksk_signature",
        "access_key": {"env": "PLANTED"},
        "secret_key": {"env": "PLANTED"},
        "algorithm": "V11-HMAC-SHA256",
        "region": "cn-north-4",
    },
}


def keys_body(expires_in: float = 3600.0, **changes: Any) -> bytes:
    expires_at = datetime.fromtimestamp(START + expires_in, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"
    credential = {"access": "AK", "secret": PLANTED, "securitytoken": PLANTED, "expires_at": expires_at}
    return json.dumps({"credential": credential | changes}).encode()


def context(folder: Path, **more: str) -> dict[str, Any]:
    """What the configuration is read in: an environment and a folder with all that any way looks for."""
    (folder / "credentials").write_text(f"[basic]\nak = AK\nsk = {PLANTED}\nsecurity_token = {PLANTED}\n")
    (folder / "pod-token").write_text(PLANTED)
    environ = {
        "PLANTED": PLANTED,
        "HUAWEICLOUD_SDK_AK": "AK",
        "HUAWEICLOUD_SDK_SK": PLANTED,
        "HUAWEICLOUD_SDK_PROJECT_ID": "p1",
        "HC_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/credentials",
        "HC_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(folder / "pod-token"),
    }
    return {"environ": environ | more, "secrets": SecretStore(), "folder": folder}


def made(way: str, clock: Clock, folder: Path) -> Credential:
    """A credential whose issuer is the test."""
    entry = WAYS[way]

    async def issued(name: str, refused: bytes | None) -> Token:
        if entry["kind"] == "iam_token":
            return Token(PLANTED.encode(), clock.wall() + 3600)
        return read_keys(keys_body(clock.wall() - START + 3600), "the test", clock.wall())

    kind = credentials.kinds()[entry["kind"]]
    settings = kind.Settings.model_validate(entry, context=context(folder))
    return credentials.create("mine", settings, services(clock, shared_token=issued))


@pytest.mark.parametrize("way", WAYS)
async def test_the_promise_of_every_credential(way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It adds what it owns, each once, anew for each attempt; never raises when refused; and shows no secret."""
    caplog.set_level("DEBUG")
    clock = Clock()
    credential = made(way, clock, tmp_path)
    credential.start()
    first, second = outbound(), outbound()

    await credential.authorize(first, NO_DEADLINE)
    for refusal_class in ("auth_expired", "auth_invalid", "auth_missing", "auth_signature", "auth_scope", "unknown"):
        assert await credential.refused(first, refusal(refusal_class), NO_DEADLINE) in (True, False)
    await clock.advance(1)
    await credential.authorize(second, NO_DEADLINE)
    shown = [repr(credential), str(credential.state()), repr(credential.settings), caplog.text]
    await credential.close()

    names = [name.decode() for name, _ in first.fields[1:]]
    assert names
    assert set(names) <= credential.owned_headers
    assert len(names) == len(set(names))
    assert set(added(first)) == set(added(second))
    assert not any(PLANTED in text for text in shown)


@pytest.mark.parametrize("way", WAYS)
async def test_close_without_start(way: str, tmp_path: Path) -> None:
    """A credential that was never started asks nobody, and can be closed."""
    credential = made(way, Clock(), tmp_path)
    obtained = way in ("by password", "by agency", "by ID token", "from metadata", "from pod")

    if obtained:
        with pytest.raises(CredentialUnavailable):
            await credential.authorize(outbound(), NO_DEADLINE)
    assert credential.state().usable is not obtained
    await credential.close()


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        pytest.param({**IAM}, "domain, user, password missing", id="nobody"),
        pytest.param({**IAM, "domain": "d", "user": "u"}, "password missing", id="no password"),
        pytest.param({**WAYS["by ID token"], "user": "u"}, "oidc stands alone", id="two identities"),
        pytest.param({**WAYS["by ID token"], "assume_role": ASSUMED}, "oidc stands alone", id="oidc for an agency"),
        pytest.param({**IAM, **USER, "assume_role": {"domain": "d"}}, "agency", id="half an agency"),
        pytest.param({"kind": "aksk_signature"}, "where the keys come from", id="no keys"),
        pytest.param({**WAYS["from file"], "from": "elsewhere"}, "'environment', 'file'", id="unknown source"),
        pytest.param({**WAYS["from pod"], "access_key": {"env": "PLANTED"}}, "leave out access_key", id="keys twice"),
        pytest.param({**WAYS["from pod"], "credentials_file": "credentials"}, "with from: file", id="file for nothing"),
        pytest.param({**WAYS["from file"], "credentials_file": "nowhere"}, "cannot be read", id="no file"),
        pytest.param({**WAYS["from pod"], "metadata_url": "http://127.0.0.1"}, "with from: metadata", id="url"),
        pytest.param({**WAYS["from metadata"], "metadata_url": "http://10.0.0.1"}, "loopback", id="keys from anywhere"),
        pytest.param({**WAYS["derived"], "region": None}, "region goes with", id="derived for no region"),
        pytest.param({**WAYS["from pod"], "region": "cn-north-4"}, "region goes with", id="region for nothing"),
    ],
)
def test_problems_of_the_file(entry: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """What cannot work is a problem that says what would."""
    entry = {key: value for key, value in entry.items() if value is not None}

    with pytest.raises(ValidationError, match=problem):
        credentials.kinds()[entry["kind"]].Settings.model_validate(entry, context=context(tmp_path))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"HUAWEICLOUD_SDK_SK": ""}, "HUAWEICLOUD_SDK_SK is empty", id="no secret key"),
        pytest.param({"HUAWEICLOUD_SDK_PROJECT_ID": "a b"}, "not an id", id="odd project"),
        pytest.param({"HC_CONTAINER_CREDENTIALS_FULL_URI": ""}, "not set", id="not in a pod"),
    ],
)
def test_problems_of_the_environment(changes: dict[str, str], problem: str, tmp_path: Path) -> None:
    """What the surroundings lack is named."""
    way = "from pod" if "HC_CONTAINER_CREDENTIALS_FULL_URI" in changes else "from environment"

    with pytest.raises(ValidationError, match=problem):
        credentials.kinds()["aksk_signature"].Settings.model_validate(WAYS[way], context=context(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("ak = AK\n", "not an INI file", id="no section"),
        pytest.param("[global]\nak = AK\n", "no section", id="another section"),
        pytest.param("[basic]\nak = AK\n", "no sk", id="half"),
        pytest.param("[basic]\nak = AK\nsk =\n", "is empty", id="empty"),
        pytest.param("[basic]\nak = AK\nsk = planted\n\n[basic]\n", "not an INI file", id="twice"),
    ],
)
def test_problems_of_the_sdk_file(text: str, problem: str, tmp_path: Path) -> None:
    """Each is named, and nothing of the file is repeated."""
    surroundings = context(tmp_path)
    (tmp_path / "credentials").write_text(text)

    with pytest.raises(ValidationError, match=problem) as caught:
        credentials.kinds()["aksk_signature"].Settings.model_validate(WAYS["from file"], context=surroundings)
    assert "planted" not in str(caught.value.errors()[0]["msg"])


async def test_the_sdk_file_is_read_again(tmp_path: Path) -> None:
    """Changed keys of the file are used from the next request on, and a percent sign is a percent sign."""
    surroundings = context(tmp_path)
    kind = credentials.kinds()["aksk_signature"]
    settings = kind.Settings.model_validate(WAYS["from file"], context=surroundings)
    credential = credentials.create("mine", settings, services(Clock()))
    before, after = outbound(), outbound()

    await credential.authorize(before, NO_DEADLINE)
    (tmp_path / "credentials").write_text("[basic]\nak = OTHER\nsk = 100%s\nsecurity_token = t\n")
    assert surroundings["secrets"].refresh() == []
    await credential.authorize(after, NO_DEADLINE)

    assert "Access=AK," in added(before)["Authorization"]
    assert "Access=OTHER," in added(after)["Authorization"]
    assert added(after)["X-Security-Token"] == "t"


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Recorder:
    """Answers in turn, and remembers method, path, fields and body of each request."""

    def __init__(self, *answers: Handler) -> None:
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        self._answers = list(answers)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        fields = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.method, request.raw_path, fields, json.loads(body) if body else None))
        return await (self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])(request)


def user_of(port: int, lock_outs: LockOuts | None = None, password: Secret | None = None) -> tuple[Iam, ByPassword]:
    address = Iam(places.upstream_url(f"http://127.0.0.1:{port}"), Connection(), lambda: START)
    return address, ByPassword(address, "d", "u", password or Secret(PLANTED), lock_outs or LockOuts(), lambda: 0.0)


async def test_an_agency() -> None:
    """The user's token of the account, then with it the agency's of a project; the user's is used again while it holds."""
    recorder = Recorder(answering(described(project=None, domain={"name": "d"})), answering())
    async with iam(recorder.answer) as port:
        address, user = user_of(port)
        agency = ByAgency(address, user, "other", "inference", lambda: START)
        token = await agency.fetch(Scope("cn-north-4"))
        await agency.fetch(Scope(project_id="p1"))

    asked = [body["auth"] for _, _, _, body in recorder.seen]
    assert token.value == TOKEN.encode()
    assert asked[0]["scope"] == {"domain": {"name": "d"}}
    assert asked[1]["identity"] == {
        "methods": ["assume_role"],
        "assume_role": {"domain_name": "other", "agency_name": "inference"},
    }
    assert asked[1]["scope"] == {"project": {"name": "cn-north-4"}}
    assert [fields.get("x-auth-token") for _, _, fields, _ in recorder.seen] == [None, TOKEN, TOKEN]
    assert len(recorder.seen) == 3


@pytest.mark.parametrize(
    ("status", "body", "reason", "cause"),
    [
        pytest.param(401, "{}", "did not take our user's token", Cause.REFUSED, id="401"),
        pytest.param(403, "{}", "Agent Operator", Cause.REFUSED, id="no permission"),
        pytest.param(
            404, '{"error": {"message": "Could not find agency"}}', "no such agency", Cause.TRANSIENT, id="404"
        ),
    ],
)
async def test_an_agency_that_is_refused(status: int, body: str, reason: str, cause: Cause) -> None:
    """What is wrong with the agency is no matter of the password, and is said so."""
    recorder = Recorder(answering(described(project=None)), answering(body, status=status, fields=[]))
    async with iam(recorder.answer) as port:
        address, user = user_of(port)
        with pytest.raises(FetchFailed, match=reason) as caught:
            await ByAgency(address, user, "other", "inference", lambda: START).fetch(Scope("cn-north-4"))

    assert caught.value.cause is cause


async def test_an_agency_after_a_rotation() -> None:
    """A new password is really tried: the user's token of the old one is not used again."""
    recorder = Recorder(answering(described()))
    async with iam(recorder.answer) as port:
        password = Secret(PLANTED)
        address, user = user_of(port, password=password)
        agency = ByAgency(address, user, "other", "inference", lambda: START)
        await agency.fetch(Scope("cn-north-4"))
        password.replace("another")
        await agency.fetch(Scope("cn-north-4"))

    assert [body["auth"]["identity"]["methods"] for _, _, _, body in recorder.seen] == [
        ["password"],
        ["assume_role"],
    ] * 2


async def test_an_id_token() -> None:
    """The documented request; a refused ID token is not shown again before it changes."""
    recorder = Recorder(answering(), answering("{}", status=401, fields=[]))
    id_token = Secret("first")
    async with iam(recorder.answer) as port:
        address = Iam(places.upstream_url(f"http://127.0.0.1:{port}/v3"), Connection(), lambda: START)
        identity = ByIdToken(address, "idp", id_token, LockOuts(), lambda: 0.0)
        await identity.fetch(Scope("cn-north-4"))
        for _ in range(3):
            with pytest.raises(FetchFailed, match="refused the ID token") as caught:
                await identity.fetch(Scope("cn-north-4"))
        id_token.replace("second")
        with pytest.raises(FetchFailed):
            await identity.fetch(Scope("cn-north-4"))

    method, path, fields, body = recorder.seen[0]
    assert (method, path, fields["x-idp-id"]) == ("POST", "/v3.0/OS-AUTH/id-token/tokens", "idp")
    assert body == {"auth": {"id_token": {"id": "first"}, "scope": {"project": {"name": "cn-north-4"}}}}
    assert caught.value.cause is Cause.LOCK_OUT
    assert len(recorder.seen) == 3


def plain(status: int, body: bytes = b"") -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    return answer


def metadata_of(port: int) -> FromMetadata:
    return FromMetadata(places.upstream_url(f"http://127.0.0.1:{port}"), lambda: START, lambda: 0.0)


async def test_metadata_by_its_token() -> None:
    """A token first, then the keys with it; the token is kept."""
    recorder = Recorder(plain(200, b"metadata-token"), plain(200, keys_body()))
    async with iam(recorder.answer) as port:
        metadata = metadata_of(port)
        keys = await metadata.fetch()
        await metadata.fetch()

    assert unpacked(keys) == ("AK", PLANTED, PLANTED)
    assert keys.expiry == START + 3600
    assert PLANTED not in repr(keys)
    assert [(method, path) for method, path, _, _ in recorder.seen] == [
        ("PUT", "/meta-data/latest/api/token"),
        ("GET", "/openstack/latest/securitykey"),
        ("GET", "/openstack/latest/securitykey"),
    ]
    assert recorder.seen[0][2]["x-metadata-token-ttl-seconds"] == "21600"
    assert [fields.get("x-metadata-token") for _, _, fields, _ in recorder.seen[1:]] == ["metadata-token"] * 2


@pytest.mark.parametrize("status", [400, 404, 405, 503])
async def test_metadata_without_tokens(status: int) -> None:
    """A service that knows no tokens is asked without, and not asked for one each time."""
    recorder = Recorder(plain(status), plain(200, keys_body()))
    async with iam(recorder.answer) as port:
        metadata = metadata_of(port)
        await metadata.fetch()
        await metadata.fetch()

    assert [method for method, _, _, _ in recorder.seen] == ["PUT", "GET", "GET"]
    assert all("x-metadata-token" not in fields for _, _, fields, _ in recorder.seen)


async def test_a_metadata_token_that_died() -> None:
    """401 with a token: another token, and once more."""
    recorder = Recorder(
        plain(200, b"first"), plain(401, b"Unauthorized"), plain(200, b"second"), plain(200, keys_body())
    )
    async with iam(recorder.answer) as port:
        await metadata_of(port).fetch()

    assert [fields.get("x-metadata-token") for _, _, fields, _ in recorder.seen] == [None, "first", None, "second"]


@pytest.mark.parametrize(
    ("answers", "reason", "cause"),
    [
        pytest.param([plain(404), plain(401, b"Please configure Cloud Service Agency first")], "no agency", Cause.REFUSED, id="no agency"),
        pytest.param([plain(404), plain(404)], "no agency", Cause.REFUSED, id="404"),
        pytest.param([plain(404), plain(401), plain(404)], "wants a token", Cause.TRANSIENT, id="wants and gives none"),
        pytest.param([plain(404), plain(500)], "answered 500", Cause.TRANSIENT, id="500"),
        pytest.param([plain(500)], "request for a token", Cause.TRANSIENT, id="500 to the PUT"),
        pytest.param([plain(200, b"\x00")], "characters", Cause.TRANSIENT, id="odd token"),
        pytest.param([plain(404), plain(200, b"")], "empty or not JSON", Cause.TRANSIENT, id="empty"),
        pytest.param([plain(404), plain(200, b"[]")], "holds no keys", Cause.TRANSIENT, id="a list"),
        pytest.param([plain(404), plain(200, keys_body(secret=""))], "lacks", Cause.TRANSIENT, id="no secret"),
        pytest.param([plain(404), plain(200, keys_body(access="a b"))], "lacks", Cause.TRANSIENT, id="no key"),
        pytest.param([plain(404), plain(200, keys_body(expires_at="soon"))], "when the keys expire", Cause.TRANSIENT, id="odd expiry"),
        pytest.param([plain(404), plain(200, keys_body(-1))], "already expired", Cause.TRANSIENT, id="expired"),
    ],
)  # fmt: skip
async def test_odd_answers_of_the_metadata_service(answers: list[Handler], reason: str, cause: Cause) -> None:
    """Each is a failure with a reason in our words."""
    async with iam(Recorder(*answers).answer) as port:
        with pytest.raises(FetchFailed, match=reason) as caught:
            await metadata_of(port).fetch()

    assert caught.value.cause is cause
    assert PLANTED not in caught.value.reason


async def test_a_pods_identity() -> None:
    """The pod's token is shown as the cluster wrote it, with an empty object; names of other answers are understood."""
    body = {"accessKeyId": "AK", "secretAccessKey": "SK", "securityToken": "T", "expiration": "2023-11-14T23:13:20.5Z"}
    recorder = Recorder(plain(200, json.dumps({"credentials": body}).encode()), plain(403))
    async with iam(recorder.answer) as port:
        pod = FromPod(places.upstream_url(f"http://127.0.0.1:{port}/c"), Secret(PLANTED), lambda: START)
        keys = await pod.fetch()
        with pytest.raises(FetchFailed, match="refused this pod") as caught:
            await pod.fetch()

    method, path, fields, sent = recorder.seen[0]
    assert (method, path, fields["authorization"], sent) == ("POST", "/c", PLANTED, {})
    assert unpacked(keys) == ("AK", "SK", "T")
    assert keys.expiry == START + 3600.5
    assert caught.value.cause is Cause.REFUSED


async def test_refused_keys_are_replaced_once_a_minute(tmp_path: Path) -> None:
    """Keys that an upstream calls expired are fetched anew; a second time not before a minute has passed."""
    clock = Clock()
    fetched = 0

    async def issued(name: str, refused: bytes | None) -> Token:
        nonlocal fetched
        fetched += 1
        return read_keys(keys_body(clock.wall() - START + 3600, access=f"AK{fetched}"), "the test", clock.wall())

    kind = credentials.kinds()["aksk_signature"]
    settings = kind.Settings.model_validate(WAYS["from metadata"], context=context(tmp_path))
    credential = credentials.create("mine", settings, services(clock, shared_token=issued))
    credential.start()
    request, after = outbound(), outbound()
    await credential.authorize(request, NO_DEADLINE)

    assert not await credential.refused(request, refusal("auth_expired", certain=False), NO_DEADLINE)
    assert fetched == 1
    assert await credential.refused(request, refusal("auth_invalid"), NO_DEADLINE)
    await credential.authorize(after, NO_DEADLINE)
    assert not await credential.refused(after, refusal("auth_invalid"), NO_DEADLINE)
    await clock.advance(61)
    assert await credential.refused(after, refusal("auth_invalid"), NO_DEADLINE)
    await credential.close()

    assert "Access=AK2," in added(after)["Authorization"]
    assert fetched == 3


@pytest.mark.parametrize("way", sorted(WAYS))
def test_whether_a_refusal_can_be_cured(tmp_path: Path, way: str) -> None:
    """Only what is obtained from somewhere could be another one after a refusal."""
    kind = credentials.kinds()[WAYS[way]["kind"]]
    settings = kind.Settings.model_validate(WAYS[way], context=context(tmp_path))

    credential = credentials.create("mine", settings, services(Clock()))

    assert credential.renews is (WAYS[way]["kind"] == "iam_token" or WAYS[way].get("from") in ("metadata", "pod"))
