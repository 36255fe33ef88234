"""The token credential as the story meets it: authorize, refused, accepted."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.secrets import SecretStore
from gateway.credentials.iam_token import IamToken
from gateway.credentials.token import FetchFailed, Token
from gateway.errors import CredentialUnavailable
from gateway.outbound import Outbound
from gateway.refusals import classify

from .fakes import NO_DEADLINE, Clock, added, outbound, refusal, services

ENTRY: dict[str, Any] = {
    "kind": "iam_token",
    "region": "cn-north-4",
    "project": "cn-north-4",
    "domain": "account",
    "user": "gateway",
    "password": {"env": "PASSWORD"},
}


def settings(**changes: Any) -> IamToken.Settings:
    entry = {key: value for key, value in (ENTRY | changes).items() if value is not None}
    return IamToken.Settings.model_validate(entry, context={"environ": {"PASSWORD": "p"}, "secrets": SecretStore()})


class House:
    """A started credential whose tokens t1, t2 … come from ``obtain``."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.fetched = 0
        self.failure: FetchFailed | None = None
        self.credential = IamToken("account", settings(), services(self.clock, shared_token=self.obtain))

    async def obtain(self, name: str, refused: bytes | None) -> Token:
        self.fetched += 1
        if self.failure is not None:
            raise self.failure
        return Token(b"t%d" % self.fetched, self.clock.wall() + 86400)

    async def sent(self, route: str = "poetry", **changes: Any) -> Outbound:
        request = outbound(route=route, **changes)
        await self.credential.authorize(request, NO_DEADLINE)
        return request

    async def refused(self, request: Outbound, refusal_class: str, code: str = "APIG.0301") -> bool:
        return await self.credential.refused(request, refusal(refusal_class, code), NO_DEADLINE)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    made.credential.start()
    yield made
    await made.credential.close()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"region": None}, "one of region", id="no address"),
        pytest.param({"iam_url": "https://iam.example.com"}, "one of region", id="two addresses"),
        pytest.param({"project": None}, "one of project", id="no project"),
        pytest.param({"project_id": "p1"}, "one of project", id="two projects"),
        pytest.param({"region": "cn north"}, "pattern", id="odd region"),
        pytest.param({"region": "evil.example.com/"}, "pattern", id="region that leads elsewhere"),
        pytest.param({"domain": ""}, "at least 1", id="empty domain"),
        pytest.param({"renew_at": 1.0}, "less than or equal to 0.95", id="renewed when it is over"),
        pytest.param({"timeout": 10}, "unit", id="bare number"),
        pytest.param({"password": "written-here"}, "a secret comes from", id="secret in the file"),
        pytest.param({"pasword": 1}, "not permitted", id="unknown key"),
    ],
)
def test_problems_of_the_file(changes: dict[str, Any], problem: str) -> None:
    """What cannot work is a problem that says what would."""
    with pytest.raises(ValidationError, match=problem):
        settings(**changes)


@pytest.mark.parametrize(
    ("changes", "authority"),
    [
        pytest.param({}, "iam.cn-north-4.myhuaweicloud.com", id="by region"),
        pytest.param({"region": "eu-west-101"}, "iam.eu-west-101.myhuaweicloud.eu", id="Europe"),
        pytest.param({"region": "eu-west-0"}, "iam.eu-west-0.myhuaweicloud.com", id="Paris"),
        pytest.param({"region": None, "iam_url": "https://iam.example.com:444/v3"}, "iam.example.com:444", id="by URL"),
    ],
)
def test_where_iam_is(changes: dict[str, Any], authority: str) -> None:
    """A region gives the address; a URL is taken as written."""
    assert settings(**changes).url().authority == authority


async def test_the_header(house: House) -> None:
    """The first request waits for the first token; others share it."""
    first, second = await house.sent(), await house.sent()

    assert added(first) == added(second) == {"X-Auth-Token": "t1"}
    assert house.fetched == 1
    assert house.credential.state().usable


async def test_a_token_that_died_early(house: House) -> None:
    """It is dropped, one is fetched, and the request may be sent once more; also a second time within the minute."""
    request = await house.sent()
    assert await house.refused(request, "auth_expired")
    again = await house.sent()
    house.credential.accepted(again)
    assert await house.refused(again, "auth_expired")

    assert added(await house.sent()) == {"X-Auth-Token": "t3"}
    assert house.fetched == 3


async def test_a_late_refusal(house: House) -> None:
    """A refusal of a token that has been replaced meanwhile fetches nothing: the new one is there."""
    early, late = await house.sent(), await house.sent()
    assert await house.refused(early, "auth_expired")

    assert await house.refused(late, "auth_expired")

    assert house.fetched == 2


async def test_a_route_that_no_token_cures(house: House) -> None:
    """A URL of another region refuses every token: after one try a minute others are left in peace."""
    for _ in range(20):
        request = await house.sent("wrong-region")
        await house.refused(request, "auth_expired")
        house.credential.accepted(await house.sent("poetry"))
    assert house.fetched == 2
    await house.clock.advance(61)

    assert await house.refused(await house.sent("wrong-region"), "auth_expired")

    assert house.fetched == 3


async def test_no_storm(house: House) -> None:
    """No pattern of refusals brings about more than six fetches a minute."""
    for _ in range(50):
        request = await house.sent()
        await house.refused(request, "auth_expired")
        house.credential.accepted(request)

    assert house.fetched == 1 + 6


async def test_an_invalid_token(house: House) -> None:
    """It forces one refresh a minute, and goes on serving other routes while none is had."""
    house.failure = None
    assert await house.refused(await house.sent("a"), "auth_invalid")
    assert not await house.refused(await house.sent("b"), "auth_invalid")
    assert house.fetched == 2
    await house.clock.advance(61)
    house.failure = FetchFailed("down")

    assert not await house.refused(await house.sent("c"), "auth_invalid")

    assert house.fetched == 3
    assert added(await house.sent()) == {"X-Auth-Token": "t2"}


@pytest.mark.parametrize(
    ("refusal_class", "code", "path"),
    [
        pytest.param("auth_scope", "ModelArts.0212", "/v1/infers/S", id="scope"),
        pytest.param("auth_missing", "APIG.0301", "/v1/infers/S", id="missing"),
        pytest.param("auth_signature", "APIG.0301", "/v1/infers/S", id="signature"),
        pytest.param("forbidden", "APIG.0302", "/v1/infers/S", id="forbidden"),
        pytest.param("auth_invalid", "ModelArts.0203", "/v2/infer/S", id="not the owner, on v2"),
    ],
)
async def test_refusals_that_no_token_cures(house: House, refusal_class: str, code: str, path: str) -> None:
    """What is not the token's age is passed on."""
    assert not await house.refused(await house.sent(path=path), refusal_class, code)

    assert house.fetched == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(401, b"cannot parse: APIG.0307", id="text under 401"),
        pytest.param(401, b'{"error_msg":"APIG.0307', id="cut off"),
        pytest.param(400, b'{"error_code":"APIG.0307"}', id="an echo"),
        pytest.param(401, b'{"detail":[{"input":{"error_code":"APIG.0307"}}]}', id="pydantic"),
    ],
)
async def test_a_model_that_quotes_its_caller(house: House, status: int, body: bytes) -> None:
    """What one caller makes a model say drops no token that others use."""
    found = classify(status, body)
    assert found is not None

    assert not await house.credential.refused(await house.sent(), found, NO_DEADLINE)

    assert house.fetched == 1
    assert added(await house.sent()) == {"X-Auth-Token": "t1"}


async def test_what_is_not_certain(house: House) -> None:
    """It fetches nothing, whatever else it says."""
    found = refusal("auth_expired", certain=False)

    assert not await house.credential.refused(await house.sent(), found, NO_DEADLINE)

    assert house.fetched == 1


async def test_nothing_is_sent_without_a_token(house: House) -> None:
    """A dead token and an issuer that is down: 503 with the reason and a time, and no header."""
    request = await house.sent()
    house.failure = FetchFailed("no connection to IAM")
    assert not await house.refused(request, "auth_expired")
    later = outbound()

    with pytest.raises(CredentialUnavailable, match="no connection to IAM") as caught:
        await house.credential.authorize(later, NO_DEADLINE)

    assert added(later) == {}
    assert caught.value.retry_after_seconds is not None
    assert not house.credential.state().usable
