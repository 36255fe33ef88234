"""AppKey and AppSecret (ModelArts user guide, "Accessing a Real-Time Service Through App Authentication")."""

from typing import Literal

from gateway.config.types import CredentialSettings, SecretValue
from gateway.credentials.base import Services
from gateway.credentials.signature import Payload, Signature


class AppSignature(Signature):
    """SDK-HMAC-SHA256 with an app's key and secret, for a service's APP address."""

    kind = "app_signature"
    owned_headers = frozenset({"Authorization", "X-Sdk-Date", "X-Sdk-Content-Sha256"})

    class Settings(CredentialSettings):
        kind: Literal["app_signature"]
        app_key: SecretValue
        app_secret: SecretValue
        payload: Payload = "auto"

    def __init__(self, name: str, settings: Settings, services: Services) -> None:
        super().__init__(
            name,
            settings,
            services,
            payload=settings.payload,
            access_key=settings.app_key,
            secret_key=settings.app_secret,
        )
