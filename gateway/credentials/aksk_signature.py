"""Access key and secret key of an account, permanent or temporary (API Request Signing Guide)."""

from typing import Annotated, Literal

from pydantic import StringConstraints

from gateway.config.types import CredentialSettings, SecretValue
from gateway.credentials.base import Services
from gateway.credentials.signature import Payload, Signature


class AkSkSignature(Signature):
    """SDK-HMAC-SHA256 with an AK/SK, for a service's IAM address; a temporary key brings its security token."""

    kind = "aksk_signature"
    owned_headers = frozenset(
        {"Authorization", "X-Sdk-Date", "X-Sdk-Content-Sha256", "X-Security-Token", "X-Project-Id"}
    )

    class Settings(CredentialSettings):
        kind: Literal["aksk_signature"]
        access_key: SecretValue
        secret_key: SecretValue
        security_token: SecretValue | None = None
        project_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
        payload: Payload = "auto"

    def __init__(self, name: str, settings: Settings, services: Services) -> None:
        super().__init__(
            name,
            settings,
            services,
            payload=settings.payload,
            access_key=settings.access_key,
            secret_key=settings.secret_key,
            security_token=settings.security_token,
            project_id=settings.project_id,
        )
