"""A project-scoped IAM token, by password, for an agency, or for an OpenID Connect identity."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from gateway.config import places
from gateway.config.types import (
    ConnectionField,
    CredentialSettings,
    Duration,
    SecretValue,
    UpstreamUrlField,
)
from gateway.config.types import (
    Settings as SettingsPart,
)
from gateway.credentials.base import Credential, CredentialState, Services
from gateway.credentials.by_agency import ByAgency
from gateway.credentials.by_id_token import ByIdToken
from gateway.credentials.by_password import ByPassword
from gateway.credentials.iam import Iam, Scope
from gateway.credentials.refresh import Refresher
from gateway.credentials.token import Token
from gateway.deadline import Deadline
from gateway.outbound import Outbound
from gateway.refusals import Refusal
from gateway.routes import Connection, UpstreamUrl
from gateway.secret import Secret

# A wrong region, a wrong account and arrears all look like an invalid token, and no new one cures them.
_INVALID_SPACING_SECONDS = 60.0
# Refreshes that refusals may force, over all routes, so that no pattern of answers turns into a storm on IAM.
_FORCED_AT_MOST = 6
_FORCED_WITHIN_SECONDS = 60.0

Region = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
# It leaves in a header of its own.
ProviderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class AssumeRoleSettings(SettingsPart):
    """Acting for another account that has made ours its agent."""

    domain: Annotated[Name, Field(description="The account that made the agency, by name.")]
    agency: Annotated[Name, Field(description="The agency's name.")]


class OidcSettings(SettingsPart):
    """Being whom an OpenID Connect identity provider vouches for."""

    provider: Annotated[ProviderName, Field(description="The identity provider's name in IAM.")]
    id_token: SecretValue


class IamToken(Credential):
    """``X-Auth-Token``, obtained at start, renewed in the background, replaced when an upstream says that it died."""

    kind = "iam_token"
    renews = True
    owned_headers = frozenset({"X-Auth-Token"})

    class Settings(CredentialSettings):
        kind: Literal["iam_token"]
        region: Region | None = None
        iam_url: UpstreamUrlField | None = None
        project: Name | None = None
        project_id: Name | None = None
        domain: Name | None = None
        user: Name | None = None
        password: SecretValue | None = None
        assume_role: AssumeRoleSettings | None = None
        oidc: OidcSettings | None = None
        timeout: Duration = 10.0  # seconds one attempt may take
        renew_at: Annotated[float, Field(ge=0.1, le=0.95)] = 0.8  # share of the life after which a token is renewed
        connection: ConnectionField = Connection()

        @model_validator(mode="after")
        def _one_of_each(self) -> Self:
            if (self.region is None) == (self.iam_url is None):
                raise ValueError("write one of region (cn-north-4) and iam_url (https://iam.…)")
            if (self.project is None) == (self.project_id is None):
                raise ValueError("write one of project (its name, as cn-north-4) and project_id")
            missing = [key for key in ("domain", "user", "password") if getattr(self, key) is None]
            if self.oidc is None and missing:
                raise ValueError(
                    f"{', '.join(missing)} missing: a token is obtained by domain, user and password, or by oidc"
                )
            if self.oidc is not None and (len(missing) < 3 or self.assume_role is not None):
                raise ValueError("oidc stands alone: leave out domain, user, password and assume_role")
            return self

        def url(self) -> UpstreamUrl:
            """Where IAM is: as written, or by region; Europe's regions have a domain of their own."""
            if self.iam_url is not None:
                return self.iam_url
            top = "eu" if (self.region or "").startswith("eu-west-1") else "com"
            return places.upstream_url(f"https://iam.{self.region}.myhuaweicloud.{top}")

    def __init__(self, name: str, settings: Settings, services: Services) -> None:
        super().__init__(name, settings, services)
        secret, self._obtain_own = _way(settings, services)
        self._refresher = Refresher(
            name,
            self._fetch,
            services,
            attempt_seconds=settings.timeout,
            renew_at=settings.renew_at,
            secrets=(secret,),
        )
        self._field: tuple[bytes, bytes] = (b"", b"")
        # Tokens that a refusal on a route brought about, and when (monotonic), until the route accepts one.
        self._brought: dict[str, tuple[bytes, float]] = {}
        self._forced: deque[float] = deque(maxlen=_FORCED_AT_MOST)
        self._invalid_forced_at = float("-inf")

    def start(self) -> None:
        self._refresher.start()

    async def close(self) -> None:
        await self._refresher.close()

    async def authorize(self, outbound: Outbound, deadline: Deadline) -> None:
        token = self._refresher.token() or await self._refresher.usable(deadline)
        if self._field[1] is not token.value:
            self._field = (b"X-Auth-Token", token.value)
        outbound.fields.append(self._field)

    async def refused(self, outbound: Outbound, refusal: Refusal, deadline: Deadline) -> bool:
        sent = next((value for name, value in outbound.fields if name == b"X-Auth-Token"), None)
        if not (refusal.certain and refusal.refresh) or sent is None or _owner_mismatch(outbound, refusal):
            return False
        expired = refusal.refusal_class == "auth_expired"
        current = self._refresher.token()
        if current is None or current.value == sent:
            if self._is_futile(outbound.outline.route.name, sent):
                return False
            if not self._refresher.attempting and not self._may_force(expired):
                return False
        cured = await self._refresher.replace(sent, deadline, drop=expired)
        fresh = self._refresher.token()
        if cured and fresh is not None:
            self._brought[outbound.outline.route.name] = (fresh.value, self.services.monotonic())
        return cured

    def accepted(self, outbound: Outbound) -> None:
        if self._brought:
            self._brought.pop(outbound.outline.route.name, None)

    def state(self) -> CredentialState:
        return self._refresher.state()

    async def obtain(self, refused: bytes | None) -> Token:
        """A token for another worker process, fetched once however many ask (``Services.shared_token``).

        Raises:
            FetchFailed: there is none, with the time after which to ask again.
        """
        return await self._refresher.obtain(refused)

    def wake(self) -> None:
        self._refresher.wake()

    async def _fetch(self, refused: bytes | None) -> Token:
        if self.services.shared_token is not None:
            return await self.services.shared_token(self.name, refused)
        return await self._obtain_own()

    def _is_futile(self, route: str, sent: bytes) -> bool:
        """The route refuses the very token that its last refusal brought about: another would fare no better."""
        value, instant = self._brought.get(route, (b"", 0.0))
        return value == sent and self.services.monotonic() - instant < _INVALID_SPACING_SECONDS

    def _may_force(self, expired: bool) -> bool:
        now = self.services.monotonic()
        if not expired:
            if now - self._invalid_forced_at < _INVALID_SPACING_SECONDS:
                return False
            self._invalid_forced_at = now
        if len(self._forced) == _FORCED_AT_MOST and now - self._forced[0] < _FORCED_WITHIN_SECONDS:
            return False
        self._forced.append(now)
        return True


def _way(settings: IamToken.Settings, services: Services) -> tuple[Secret, Callable[[], Awaitable[Token]]]:
    """The secret behind the token, and how a token is obtained."""
    iam = Iam(settings.url(), settings.connection, services.wall)
    scope = Scope(settings.project, settings.project_id)
    if settings.oidc is not None:
        oidc = settings.oidc
        identity = ByIdToken(iam, oidc.provider, oidc.id_token, services.lock_outs, services.monotonic)
        return oidc.id_token, lambda: identity.fetch(scope)
    domain, name, password = settings.domain, settings.user, settings.password
    if domain is None or name is None or password is None:
        raise ValueError("settings that were not validated")
    user = ByPassword(iam, domain, name, password, services.lock_outs, services.monotonic)
    if settings.assume_role is None:
        return password, lambda: user.fetch(scope)
    role = settings.assume_role
    agency = ByAgency(iam, user, role.domain, role.agency, services.wall)
    return password, lambda: agency.fetch(scope)


def _owner_mismatch(outbound: Outbound, refusal: Refusal) -> bool:
    """On v2 services this code means that the token's user does not own the service, which no new token changes
    (ModelArts user guide, "Troubleshooting" of v2 inference)."""
    return refusal.code == "ModelArts.0203" and "/v2/infer/" in outbound.outline.path
