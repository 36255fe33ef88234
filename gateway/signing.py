"""SDK-HMAC-SHA256, the signature of Huawei Cloud's API gateway, and its younger relative V11-HMAC-SHA256.

Two ways to the same bytes: ``canonical_request`` and its companions follow the published rules step by step for any
request, and explain a signature; ``Signer`` has prepared all that stays the same and signs what the gateway sends.
Source: API Request Signing Guide, "AK/SK Signing and Authentication Algorithm".
"""

import hashlib
import hmac
import time
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote

ALGORITHM = "SDK-HMAC-SHA256"
# Signs with a key that is derived for one day, region and service.
DERIVED_ALGORITHM = "V11-HMAC-SHA256"
DERIVED_SERVICE = "apic"  # what API Gateway is called there
EMPTY_HASH = hashlib.sha256(b"").hexdigest()
# The literal that stands for the hash of a body that is not hashed; the header must be sent and signed with it.
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"

_BLOCK_BYTES = 64  # of SHA-256, for the two halves of HMAC (RFC 2104)
_INNER_PAD = bytes(octet ^ 0x36 for octet in range(256))
_OUTER_PAD = bytes(octet ^ 0x5C for octet in range(256))
# Distinct requests prepared within one second; callers choose paths.
_REMEMBERED = 256


def canonical_uri(path: str) -> str:
    """The path as it is signed: decoded once, each segment encoded, and ending in ``/``, which is not sent."""
    encoded = quote(unquote(path), safe="/~")
    return encoded if encoded.endswith("/") else encoded + "/"


def canonical_query_string(query: str) -> str:
    """The query as it is signed. ``+`` is text here, pairs with an empty key are left out, as the vendor's signers do;
    what the gateway sends has neither (``paths.canonical_query``)."""
    pairs = [pair.partition("=") for pair in query.split("&")]
    decoded = sorted((unquote(key), unquote(value)) for key, _, value in pairs if key)
    return "&".join(f"{quote(key, safe='~')}={quote(value, safe='~')}" for key, value in decoded)


def canonical_request(
    method: str, path: str, query: str, signed_fields: Iterable[tuple[str, str]], payload_hash: str
) -> tuple[str, str]:
    """The canonical request, and its list of signed header names.

    ``signed_fields`` are all headers to be signed, Host and X-Sdk-Date among them; names must not repeat.
    ``payload_hash`` is lower-case hex, or the value of X-Sdk-Content-Sha256 where that is sent.
    """
    fields = sorted((name.lower(), value.strip()) for name, value in signed_fields)
    signed_headers = ";".join(name for name, _ in fields)
    canonical_headers = "".join(f"{name}:{value}\n" for name, value in fields)
    text = "\n".join(
        (
            method.upper(),
            canonical_uri(path),
            canonical_query_string(query),
            canonical_headers,
            signed_headers,
            payload_hash,
        )
    )
    return text, signed_headers


def string_to_sign(x_sdk_date: str, canonical: str) -> str:
    return f"{ALGORITHM}\n{x_sdk_date}\n{hashlib.sha256(canonical.encode()).hexdigest()}"


def signature(secret_key: str, text: str) -> str:
    """Lower-case hex HMAC-SHA256 of a string to sign; the key is used as it is, nothing is derived from it."""
    return hmac.new(secret_key.encode(), text.encode(), hashlib.sha256).hexdigest()


def derived_info(x_sdk_date: str, region: str) -> str:
    """What a derived key is good for: ``20191115/cn-north-4/apic``."""
    return f"{x_sdk_date[:8]}/{region}/{DERIVED_SERVICE}"


def derived_key(access_key: str, secret_key: str, info: str) -> str:
    """The key of V11-HMAC-SHA256: HKDF (RFC 5869) with SHA-256 and 32 octets, one block; in lower-case hex, used as text."""
    extracted = hmac.new(access_key.encode(), secret_key.encode(), hashlib.sha256).digest()
    return hmac.new(extracted, info.encode() + b"\x01", hashlib.sha256).hexdigest()


def derived_string_to_sign(x_sdk_date: str, info: str, canonical: str) -> str:
    return f"{DERIVED_ALGORITHM}\n{x_sdk_date}\n{info}\n{hashlib.sha256(canonical.encode()).hexdigest()}"


def derived_authorization(access_key: str, info: str, signed_headers: str, signature_hex: str) -> str:
    return (
        f"{DERIVED_ALGORITHM} Credential={access_key}/{info}, SignedHeaders={signed_headers}, Signature={signature_hex}"
    )


def authorization(access_key: str, signed_headers: str, signature_hex: str) -> str:
    return f"{ALGORITHM} Access={access_key}, SignedHeaders={signed_headers}, Signature={signature_hex}"


class Signer:
    """Signs requests whose path and query are already canonical (``paths``), with everything constant prepared.

    Covers Host and X-Sdk-Date always; ``security_token`` and ``project_id`` where the key has them, and must then be
    sent as X-Security-Token and X-Project-Id with every request.
    """

    __slots__ = (
        "_access_key",
        "_begun",
        "_date",
        "_inner",
        "_known",
        "_outer",
        "_project_line",
        "_second",
        "_secret_key",
        "_signed_headers",
        "_token_line",
    )

    def __init__(
        self, access_key: str, secret_key: str, *, security_token: str | None = None, project_id: str | None = None
    ) -> None:
        self._access_key = access_key
        self._secret_key = secret_key
        self._project_line = "" if project_id is None else f"x-project-id:{project_id}\n"
        self._token_line = "" if security_token is None else f"x-security-token:{security_token}\n"
        # Indexed by whether X-Sdk-Content-Sha256 and X-Stage are signed. Names stand in code-point order.
        self._signed_headers = {
            (content, stage): ";".join(
                name
                for name, wanted in (
                    ("host", True),
                    ("x-project-id", project_id is not None),
                    ("x-sdk-content-sha256", content),
                    ("x-sdk-date", True),
                    ("x-security-token", security_token is not None),
                    ("x-stage", stage),
                )
                if wanted
            )
            for content in (False, True)
            for stage in (False, True)
        }
        self._inner, self._outer = _key_blocks(secret_key)
        # Within a second everything but the body is the same for requests that are alike.
        self._second: int | None = None
        self._date = ""
        self._begun = self._inner  # HMAC over the string to sign, up to the hash of the canonical request
        self._known: dict[tuple[str | None, ...], _Prepared] = {}

    def sign(
        self,
        method: str,
        path: str,
        query: str,
        host: str,
        *,
        payload_hash: str,
        instant_seconds: float,
        content_sha256: str | None = None,
        stage: str | None = None,
    ) -> tuple[str, str]:
        """The values of X-Sdk-Date and Authorization.

        ``path`` and ``query`` are canonical and exactly what is sent (``""``: no query); ``host`` is the Host field as
        sent; ``instant_seconds`` is Unix time on the upstream's clock, which may differ by 15 minutes at most.
        ``content_sha256`` is the value of X-Sdk-Content-Sha256 where it is sent, then equal to ``payload_hash``;
        ``stage`` that of X-Stage.
        """
        second = int(instant_seconds)
        if second != self._second:
            self._begin_second(second)
        known = self._known.get((method, path, query, host, content_sha256, stage))
        if known is None:
            known = self._prepare(method, path, query, host, content_sha256, stage)
        canonical = known.canonical.copy()
        canonical.update(payload_hash.encode())
        inner = self._begun.copy()
        inner.update(canonical.hexdigest().encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return self._date, known.authorization + outer.hexdigest()

    def _begin_second(self, second: int) -> None:
        self._date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        self._known.clear()
        self._begun = self._inner.copy()
        self._begun.update(f"{ALGORITHM}\n{self._date}\n".encode())
        self._second = second

    def _prepare(
        self, method: str, path: str, query: str, host: str, content_sha256: str | None, stage: str | None
    ) -> "_Prepared":
        signed_headers = self._signed_headers[content_sha256 is not None, stage is not None]
        content_line = "" if content_sha256 is None else f"x-sdk-content-sha256:{content_sha256}\n"
        stage_line = "" if stage is None else f"x-stage:{stage}\n"
        slash = "" if path.endswith("/") else "/"
        text = (
            f"{method}\n{path}{slash}\n{query}\nhost:{host}\n{self._project_line}{content_line}"
            f"x-sdk-date:{self._date}\n{self._token_line}{stage_line}\n{signed_headers}\n"
        )
        prepared = _Prepared(hashlib.sha256(text.encode()), self._authorization(signed_headers))
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[method, path, query, host, content_sha256, stage] = prepared
        return prepared

    def _authorization(self, signed_headers: str) -> str:
        """Authorization, up to the signature itself."""
        return authorization(self._access_key, signed_headers, "")


class DerivedSigner(Signer):
    """The same with V11-HMAC-SHA256 for one region; the derived key is made anew each day."""

    __slots__ = ("_info", "_region")

    def __init__(
        self,
        access_key: str,
        secret_key: str,
        *,
        security_token: str | None = None,
        project_id: str | None = None,
        region: str,
    ) -> None:
        super().__init__(access_key, secret_key, security_token=security_token, project_id=project_id)
        self._region = region
        self._info = ""

    def _begin_second(self, second: int) -> None:
        super()._begin_second(second)
        info = derived_info(self._date, self._region)
        if info != self._info:
            self._info = info
            self._inner, self._outer = _key_blocks(derived_key(self._access_key, self._secret_key, info))
        self._begun = self._inner.copy()
        self._begun.update(f"{DERIVED_ALGORITHM}\n{self._date}\n{info}\n".encode())

    def _authorization(self, signed_headers: str) -> str:
        return derived_authorization(self._access_key, self._info, signed_headers, "")


class _Prepared(NamedTuple):
    """A request that is signed again and again within a second."""

    canonical: "hashlib._Hash"  # over the canonical request, up to the payload's hash
    authorization: str  # up to the signature itself


def _key_blocks(secret_key: str) -> "tuple[hashlib._Hash, hashlib._Hash]":
    """HMAC (RFC 2104) with both key blocks hashed beforehand: a signature then costs two copies, no key schedule."""
    key = secret_key.encode()
    if len(key) > _BLOCK_BYTES:
        key = hashlib.sha256(key).digest()
    key = key.ljust(_BLOCK_BYTES, b"\0")
    return hashlib.sha256(key.translate(_INNER_PAD)), hashlib.sha256(key.translate(_OUTER_PAD))
