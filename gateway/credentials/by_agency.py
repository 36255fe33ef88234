"""A token of another account that has made us its agent (IAM API Reference, "Obtaining an Agency Token")."""

from collections.abc import Callable

from gateway.credentials.by_password import ByPassword
from gateway.credentials.iam import Iam, Meanings, Scope
from gateway.credentials.token import Cause, FetchFailed, Token

_MEANINGS = Meanings(
    on_401="IAM did not take our user's token for the agency",
    on_403="IAM does not let this user act for the agency; the user needs the permission Agent Operator",
    on_404="IAM knows no such agency; check assume_role.domain (the account that made it) and assume_role.agency",
    cause_of_401=Cause.REFUSED,
)
# The user's token is fetched anew when less than this is left of it, or a tenth of a very short life.
_LEFT_SECONDS = 60.0


class ByAgency:
    """Acts for ``domain`` under its agency; the user's own token is kept for as long as it holds."""

    def __init__(self, iam: Iam, user: ByPassword, domain: str, agency: str, wall: Callable[[], float]) -> None:
        self._iam = iam
        self._user = user
        self._domain = domain
        self._agency = agency
        self._wall = wall
        self._own: Token | None = None
        self._own_until = 0.0
        self._own_generation = -1  # of the password it was obtained with

    async def fetch(self, scope: Scope) -> Token:
        """A token for a project of the account that made the agency.

        Raises:
            FetchFailed: there is none, or none for our own user.
        """
        kept = self._own
        if kept is not None and self._wall() < self._own_until and self._own_generation == self._user.generation:
            try:
                return await self._assume(kept, scope)
            except FetchFailed as failure:
                if failure.status != 401:  # else our own token died early
                    raise
        return await self._assume(await self._fetch_own(), scope)

    async def _fetch_own(self) -> Token:
        generation = self._user.generation
        token = await self._user.fetch(None)  # agencies belong to the account, not to a project
        self._own, self._own_generation = token, generation
        self._own_until = token.expiry - min(_LEFT_SECONDS, (token.expiry - self._wall()) / 10)
        return token

    async def _assume(self, own: Token, scope: Scope) -> Token:
        role = {"domain_name": self._domain, "agency_name": self._agency}
        auth = {"identity": {"methods": ["assume_role"], "assume_role": role}, "scope": scope.as_json()}
        return await self._iam.issue(auth, _MEANINGS, fields={"X-Auth-Token": own.value.decode("ascii")})
