"""What the kinds that write one fixed header have in common."""

from typing import ClassVar

from gateway.config.types import CredentialSettings
from gateway.credentials.base import Credential, CredentialState, Services
from gateway.deadline import Deadline
from gateway.outbound import Outbound
from gateway.secret import Secret


class FixedHeader(Credential):
    """One header with a secret in it, written anew only when the secret was rotated."""

    header: ClassVar[str]
    prefix: ClassVar[str] = ""

    def __init__(self, name: str, settings: CredentialSettings, services: Services, secret: Secret) -> None:
        super().__init__(name, settings, services)
        self._secret = secret
        self._generation = -1
        self._field = (b"", b"")

    async def authorize(self, outbound: Outbound, deadline: Deadline) -> None:
        if self._generation != self._secret.generation:
            self._generation = self._secret.generation
            self._field = (self.header.encode(), (self.prefix + self._secret.reveal()).encode())
        outbound.fields.append(self._field)

    def state(self) -> CredentialState:
        return CredentialState(usable=True, summary="fresh")
