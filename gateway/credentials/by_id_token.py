"""A token for an OpenID Connect identity (IAM API Reference, "Obtaining a Token with an OpenID Connect ID Token")."""

from collections.abc import Callable

from gateway.credentials.iam import Iam, Meanings, Scope
from gateway.credentials.lock_outs import LockOuts
from gateway.credentials.token import Cause, Token
from gateway.secret import Secret

_PATH = "/v3.0/OS-AUTH/id-token/tokens"
_MEANINGS = Meanings(
    on_401="IAM refused the ID token: has it expired, and does the identity provider's configuration in IAM fit it?",
    on_403="IAM does not let this identity obtain a token; check the identity provider's conversion rules",
    on_404="IAM knows no such identity provider (oidc.provider)",
    cause_of_401=Cause.LOCK_OUT,
)


class ByIdToken:
    """Whom the identity ``provider`` (its name in IAM) vouches for; Kubernetes writes such ID tokens into pods."""

    def __init__(
        self, iam: Iam, provider: str, id_token: Secret, lock_outs: LockOuts, now: Callable[[], float]
    ) -> None:
        """``now`` is monotonic."""
        self._iam = iam
        self._provider = provider
        self._id_token = id_token
        self._lock_outs = lock_outs
        self._now = now

    async def fetch(self, scope: Scope) -> Token:
        """A token for a project.

        Raises:
            FetchFailed: also when this very ID token was refused a while ago.
        """
        id_token = self._id_token.reveal()
        auth = {"id_token": {"id": id_token}, "scope": scope.as_json()}
        async with self._lock_outs.trying(self._iam.authority, self._provider, id_token, now=self._now):
            return await self._iam.issue(auth, _MEANINGS, path=_PATH, fields={"X-Idp-Id": self._provider})
