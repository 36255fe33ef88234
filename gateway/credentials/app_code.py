"""AppCode: one fixed header (ModelArts user guide, "Accessing a Real-Time Service Through App Authentication")."""

from typing import Literal

from gateway.config.types import CredentialSettings, SecretValue
from gateway.credentials.base import Services
from gateway.credentials.fixed import FixedHeader


class AppCode(FixedHeader):
    """``X-Apig-AppCode`` on a service's APP address; HTTPS only there."""

    kind = "app_code"
    header = "X-Apig-AppCode"
    owned_headers = frozenset({header})

    class Settings(CredentialSettings):
        kind: Literal["app_code"]
        app_code: SecretValue

    def __init__(self, name: str, settings: Settings, services: Services) -> None:
        super().__init__(name, settings, services, settings.app_code)
