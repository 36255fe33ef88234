"""AppKey alone: one fixed header (ModelArts user guide, "Accessing a Real-Time Service Through App Authentication")."""

from typing import Literal

from gateway.config.types import CredentialSettings, SecretValue
from gateway.credentials.base import Services
from gateway.credentials.fixed import FixedHeader


class AppKey(FixedHeader):
    """``apikey`` on a service's APP address: the AppKey is then a bearer secret."""

    kind = "app_key"
    header = "apikey"
    owned_headers = frozenset({header})

    class Settings(CredentialSettings):
        kind: Literal["app_key"]
        app_key: SecretValue

    def __init__(self, name: str, settings: Settings, services: Services) -> None:
        super().__init__(name, settings, services, settings.app_key)
