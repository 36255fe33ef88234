"""No credential: for an upstream that takes none, such as a v2 service with authentication switched off."""

from typing import Literal

from gateway.config.types import CredentialSettings
from gateway.credentials.base import Credential, CredentialState
from gateway.deadline import Deadline
from gateway.outbound import Outbound


class NoCredential(Credential):
    """Adds nothing; callers' own credentials are dropped all the same."""

    kind = "none"
    owned_headers = frozenset[str]()

    class Settings(CredentialSettings):
        kind: Literal["none"]

    async def authorize(self, outbound: Outbound, deadline: Deadline) -> None:
        return

    def state(self) -> CredentialState:
        return CredentialState(usable=True, summary="fresh")
