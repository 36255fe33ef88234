"""A token by user and password (IAM API Reference, "Obtaining a User Token Through Password Authentication")."""

from collections.abc import Callable
from typing import Any

from gateway.credentials.iam import Iam, Meanings, Scope
from gateway.credentials.lock_outs import LockOuts
from gateway.credentials.token import Cause, Token
from gateway.secret import Secret

_MEANINGS = Meanings(
    on_401="IAM refused domain, user or password",
    on_403="IAM does not let this user obtain a token: programmatic access, access rules, arrears?",
    on_404="",
    cause_of_401=Cause.LOCK_OUT,
)


class ByPassword:
    """An IAM user of an account (``domain``); a HUAWEI ID cannot get tokens."""

    def __init__(
        self, iam: Iam, domain: str, user: str, password: Secret, lock_outs: LockOuts, now: Callable[[], float]
    ) -> None:
        """``now`` is monotonic."""
        self.domain = domain
        self._iam = iam
        self._user = user
        self._password = password
        self._lock_outs = lock_outs
        self._now = now

    @property
    def generation(self) -> int:
        """Changes with the password."""
        return self._password.generation

    async def fetch(self, scope: Scope | None) -> Token:
        """A token for a project, or with None for the account as a whole, which is what managing agencies takes.

        Raises:
            FetchFailed: also when this very password was refused a while ago.
        """
        password = self._password.reveal()
        user = {"name": self._user, "password": password, "domain": {"name": self.domain}}
        auth: dict[str, Any] = {  # Any: JSON
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"domain": {"name": self.domain}} if scope is None else scope.as_json(),
        }
        identity = (self._iam.authority, self.domain, self._user, password)
        async with self._lock_outs.trying(*identity, now=self._now):
            return await self._iam.issue(auth, _MEANINGS, project_scoped=scope is not None)
