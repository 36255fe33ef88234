"""Tokens that were handed out, and what became of them."""

import base64
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

# The head of a CMS message of some 6,800 octets: real tokens begin so.
_PREFIX = "MIIatAYJKoZIhvcNAQcCoIIapTCCGqECAQExDTALBglghkgBZQMEAgEw"


@dataclass(slots=True)
class Token:
    """What is known about one token. Instants are Unix time in seconds."""

    issued: float
    expiry: float
    has_project: bool
    revoked: bool = False


class Tokens:
    """Every token issued so far, under its hash. A new one leaves the old ones valid."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._tokens: dict[bytes, Token] = {}

    def issue(self, life_seconds: float, *, has_project: bool, length: int | None = None) -> tuple[str, Token]:
        """A new token of 6,000 to 9,000 characters, or of ``length``."""
        length = length or 6000 + 4 * secrets.randbelow(751)
        filling = base64.b64encode(secrets.token_bytes(length), altchars=b"+-").decode()
        text = _PREFIX + filling[: length - len(_PREFIX) - 2] + "=="
        now = self._now()
        token = Token(now, now + life_seconds, has_project)
        self._tokens[_key(text)] = token
        return text, token

    def find(self, text: str) -> Token | None:
        return self._tokens.get(_key(text))

    def revoke_all(self) -> int:
        """Let every token die early, as a changed password does; how many that were."""
        alive = [token for token in self._tokens.values() if not token.revoked]
        for token in alive:
            token.revoked = True
        return len(alive)


def huawei_time(unix_seconds: float) -> str:
    """``2020-01-04T09:05:22.701000Z``, always with six digits of a second."""
    whole, fraction = divmod(round(unix_seconds * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{fraction:06d}Z"


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
