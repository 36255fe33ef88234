"""Access key and secret key of an account, permanent or temporary (API Request Signing Guide)."""

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, StringConstraints, ValidationInfo, model_validator

from gateway.config import places
from gateway.config.secrets import SecretStore
from gateway.config.types import CredentialSettings, Duration, FileField, SecretValue, UpstreamUrlField
from gateway.credentials import from_metadata, from_pod
from gateway.credentials.base import CredentialState, Services
from gateway.credentials.keys import unpacked
from gateway.credentials.refresh import Refresher
from gateway.credentials.signature import Algorithm, Payload, Signature
from gateway.credentials.token import Token
from gateway.deadline import Deadline
from gateway.outbound import Outbound
from gateway.refusals import Refusal
from gateway.routes import UpstreamUrl
from gateway.secret import Secret

_ENVIRONMENT = "HUAWEICLOUD_SDK_"
_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Refusals may bring about one fetch of new keys in so many seconds.
_FORCED_SPACING_SECONDS = 60.0


class AkSkSignature(Signature):
    """Signs with an AK/SK, for a service's IAM address; temporary keys bring a security token, and are renewed in time."""

    kind = "aksk_signature"
    owned_headers = frozenset(
        {"Authorization", "X-Sdk-Date", "X-Sdk-Content-Sha256", "X-Security-Token", "X-Project-Id"}
    )

    class Settings(CredentialSettings):
        kind: Literal["aksk_signature"]
        source: Annotated[
            Literal["environment", "file", "metadata", "pod"] | None,
            Field(
                alias="from",
                description="Where the keys come from, when not by access_key and secret_key: the variables or the "
                "file of the official SDKs, the server's agency, or the pod's identity on CCE.",
            ),
        ] = None
        access_key: SecretValue | None = None
        secret_key: SecretValue | None = None
        security_token: SecretValue | None = None
        credentials_file: Annotated[
            FileField | None, Field(description="With from: file; default ~/.huaweicloud/credentials.")
        ] = None
        metadata_url: Annotated[
            UpstreamUrlField | None, Field(description="With from: metadata; the service itself or one on loopback.")
        ] = None
        project_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
        payload: Payload = "auto"
        algorithm: Algorithm = "SDK-HMAC-SHA256"
        region: Annotated[
            str | None,
            StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$"),
            Field(description="With algorithm: V11-HMAC-SHA256, which signs for one region."),
        ] = None
        timeout: Duration = 10.0  # seconds one attempt to obtain keys may take
        renew_at: Annotated[float, Field(ge=0.1, le=0.95)] = 0.8  # share of the keys' life after which they are renewed

        _keys: tuple[Secret, Secret, Secret | None] | None = PrivateAttr(None)
        _pod: tuple[UpstreamUrl, Secret] | None = PrivateAttr(None)
        _found_project_id: str | None = PrivateAttr(None)

        @model_validator(mode="after")
        def _complete(self, info: ValidationInfo) -> Self:
            written = [key for key in ("access_key", "secret_key", "security_token") if getattr(self, key) is not None]
            if self.source is not None and written:
                raise ValueError(f"from: {self.source} finds the keys by itself; leave out {', '.join(written)}")
            if self.source is None and (self.access_key is None or self.secret_key is None):
                raise ValueError(
                    "write access_key and secret_key, or where the keys come from: environment, file, metadata or pod"
                )
            if self.credentials_file is not None and self.source != "file":
                raise ValueError("credentials_file goes with from: file")
            if self.metadata_url is not None and self.source != "metadata":
                raise ValueError("metadata_url goes with from: metadata")
            if self.metadata_url is not None and not _trusted(self.metadata_url):
                raise ValueError("metadata_url is 169.254.169.254 or on loopback: keys are not fetched from elsewhere")
            if (self.region is None) != (self.algorithm == "SDK-HMAC-SHA256"):
                raise ValueError("region goes with algorithm: V11-HMAC-SHA256, and is needed there")
            self._find(info.context or {})
            return self

        def _find(self, context: Mapping[str, Any]) -> None:  # Any: pydantic's validation context
            environ: Mapping[str, str] = context.get("environ", os.environ)
            store = context.get("secrets")
            if not isinstance(store, SecretStore):
                store = SecretStore()
            if self.source == "environment":
                token = (
                    store.from_env(f"{_ENVIRONMENT}SECURITY_TOKEN", environ)
                    if environ.get(f"{_ENVIRONMENT}SECURITY_TOKEN")
                    else None
                )
                self._keys = (
                    store.from_env(f"{_ENVIRONMENT}AK", environ),
                    store.from_env(f"{_ENVIRONMENT}SK", environ),
                    token,
                )
                self._found_project_id = _project_id(environ.get(f"{_ENVIRONMENT}PROJECT_ID"))
            elif self.source == "file":
                path = Path(
                    self.credentials_file or environ.get(f"{_ENVIRONMENT}CREDENTIALS_FILE") or _default_file(environ)
                )
                self._keys = (
                    store.from_profile(path, "basic", "ak"),
                    store.from_profile(path, "basic", "sk"),
                    store.from_profile_if_there(path, "basic", "security_token"),
                )
                project = store.from_profile_if_there(path, "basic", "project_id")
                self._found_project_id = None if project is None else _project_id(project.reveal())
            elif self.source == "pod":
                for name in (from_pod.ADDRESS_VARIABLE, from_pod.TOKEN_FILE_VARIABLE):
                    if not environ.get(name):
                        raise ValueError(f"{name} is not set; CCE sets it in pods with a pod identity")
                address = places.upstream_url(environ[from_pod.ADDRESS_VARIABLE])
                self._pod = (address, store.from_file(Path(environ[from_pod.TOKEN_FILE_VARIABLE])))
            elif self.access_key is not None and self.secret_key is not None:
                self._keys = (self.access_key, self.secret_key, self.security_token)

    def __init__(self, name: str, settings: Settings, services: Services) -> None:
        self._refresher: Refresher | None = None
        self._token: Token | None = None
        self._forced_at = float("-inf")
        keys = settings._keys
        if keys is None:
            keys = (Secret(""), Secret(""), Secret(""))  # filled by what is fetched
            obtain, secrets = _way(settings, services)
            self._obtain_own = obtain
            self._refresher = Refresher(
                name,
                self._fetch,
                services,
                attempt_seconds=settings.timeout,
                renew_at=settings.renew_at,
                secrets=secrets,
                what="key",
            )
            self.renews = True
        super().__init__(
            name,
            settings,
            services,
            payload=settings.payload,
            access_key=keys[0],
            secret_key=keys[1],
            security_token=keys[2],
            project_id=settings.project_id or settings._found_project_id,
            algorithm=settings.algorithm,
            region=settings.region,
        )

    def start(self) -> None:
        if self._refresher is not None:
            self._refresher.start()

    async def close(self) -> None:
        if self._refresher is not None:
            await self._refresher.close()

    async def authorize(self, outbound: Outbound, deadline: Deadline) -> None:
        if self._refresher is not None:
            self._take(self._refresher.token() or await self._refresher.usable(deadline))
        await super().authorize(outbound, deadline)

    async def refused(self, outbound: Outbound, refusal: Refusal, deadline: Deadline) -> bool:
        """True when temporary keys were refused and there are others now, which one refusal a minute may bring about."""
        await super().refused(outbound, refusal, deadline)
        refresher, used = self._refresher, self._token
        if not refusal.certain or refresher is None or used is None:
            return False
        if refusal.refusal_class not in ("auth_expired", "auth_invalid"):
            return False
        current = refresher.token()
        if current is None or current.value == used.value:
            now = self.services.monotonic()
            if not refresher.attempting and now - self._forced_at < _FORCED_SPACING_SECONDS:
                return False
            self._forced_at = now
        return await refresher.replace(used.value, deadline, drop=refusal.refusal_class == "auth_expired")

    def state(self) -> CredentialState:
        if self._refresher is None:
            return super().state()
        keys = self._refresher.state()
        if not keys.usable:
            return keys
        signing = super().state()
        return CredentialState(
            usable=signing.usable,
            summary=keys.summary if signing.usable else signing.summary,
            expiry=keys.expiry,
            last_success=keys.last_success,
            last_error=signing.last_error or keys.last_error,
        )

    async def obtain(self, refused: bytes | None) -> Token:
        """The keys for another worker process, fetched once however many ask (``Services.shared_token``).

        Raises:
            FetchFailed: there are none, with the time after which to ask again; or they are not fetched at all.
        """
        if self._refresher is None:
            raise TypeError("these keys are not obtained from anywhere")
        return await self._refresher.obtain(refused)

    async def _fetch(self, refused: bytes | None) -> Token:
        if self.services.shared_token is not None:
            return await self.services.shared_token(self.name, refused)
        return await self._obtain_own()

    def _take(self, token: Token) -> None:
        if token is self._token:
            return
        self._token = token
        for secret, value in zip(
            (self._access_key, self._secret_key, self._security_token), unpacked(token), strict=True
        ):
            if secret is not None:
                secret.replace(value)


def _way(
    settings: AkSkSignature.Settings, services: Services
) -> tuple[Callable[[], Awaitable[Token]], tuple[Secret, ...]]:
    """How keys are obtained, and the secrets behind that."""
    if settings._pod is not None:
        address, token = settings._pod
        return from_pod.FromPod(address, token, services.wall).fetch, (token,)
    address = settings.metadata_url or from_metadata.ADDRESS
    return from_metadata.FromMetadata(address, services.wall, services.monotonic).fetch, ()


def _trusted(url: UpstreamUrl) -> bool:
    return url.host == from_metadata.ADDRESS.host or places.is_loopback(url.host)


def _project_id(text: str | None) -> str | None:
    if not text:
        return None
    if _PROJECT_ID.fullmatch(text) is None:
        raise ValueError("the project_id that was found there is not an id")
    return text


def _default_file(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME")
    return (Path(home) if home else Path.home()) / ".huaweicloud" / "credentials"
