"""API key of MaaS, or of a v2 real-time service (MaaS user guide, "Managing API Keys")."""

from typing import Literal

from gateway.config.types import CredentialSettings, SecretValue
from gateway.credentials.base import Services
from gateway.credentials.fixed import FixedHeader


class ApiKey(FixedHeader):
    """``Authorization: Bearer``, the OpenAI-compatible form."""

    kind = "api_key"
    header = "Authorization"
    prefix = "Bearer "
    owned_headers = frozenset({header})

    class Settings(CredentialSettings):
        kind: Literal["api_key"]
        api_key: SecretValue

    def __init__(self, name: str, settings: Settings, services: Services) -> None:
        super().__init__(name, settings, services, settings.api_key)
