"""Temporary access keys as the platform hands them out: access key, secret key and security token, with one expiry."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.credentials.asking import instant
from gateway.credentials.token import FetchFailed, Token

# What leaves in a header; anything else is no key.
_KEY = re.compile(r"[!-~]{1,32768}")
# Each part by the names that it has in the answers of IAM, metadata service and STS.
_ACCESS = ("access", "accessKeyId", "access_key_id")
_SECRET = ("secret", "secretAccessKey", "secret_access_key")
_TOKEN = ("securitytoken", "securityToken", "security_token")
_EXPIRY = ("expires_at", "expiration")


class Keys(NamedTuple):
    """Shows itself, so it never leaves the function that unpacked it."""

    access_key: str
    secret_key: str
    security_token: str


def read_keys(body: bytes, who: str, now: float) -> Token:
    """The keys in an answer of ``who``, packed into the value of a ``Token``.

    Raises:
        FetchFailed: they are not all there, or expired.
    """
    try:
        answer: Any = json.loads(body)  # whatever was sent
    except (ValueError, RecursionError):
        raise FetchFailed(f"the answer of {who} is empty or not JSON") from None
    found = answer.get("credential", answer.get("credentials", answer)) if isinstance(answer, dict) else None
    if not isinstance(found, dict):
        raise FetchFailed(f"the answer of {who} holds no keys")
    parts = [_first(found, names) for names in (_ACCESS, _SECRET, _TOKEN)]
    if not all(isinstance(part, str) and _KEY.fullmatch(part) for part in parts):
        raise FetchFailed(f"the answer of {who} lacks an access key, a secret key or a security token")
    expiry = instant(_first(found, _EXPIRY))
    if expiry is None:
        raise FetchFailed(f"the answer of {who} does not say when the keys expire (expires_at)")
    if expiry <= now:
        raise FetchFailed(f"the keys that {who} gave have already expired; is this machine's clock right?")
    return Token(json.dumps(parts).encode(), expiry)


def unpacked(token: Token) -> Keys:
    """The keys in a token that ``read_keys`` made."""
    return Keys(*json.loads(token.value))


def _first(found: Mapping[str, Any], names: tuple[str, ...]) -> Any:  # Any: JSON
    return next((found[name] for name in names if found.get(name)), None)
