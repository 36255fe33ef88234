"""What of a request may be shown to others: everything but what opens something."""

import re

from gateway.headers import CALLER_CREDENTIAL_PREFIXES, CALLER_CREDENTIALS

MASK = "***"

# Fields of a signature that open nothing, and without which nobody can find out why it was refused.
_SHOWN = {"x-sdk-date", "x-sdk-content-sha256", "x-project-id", "x-domain-id", "x-apig-mode"}
_TELLING = re.compile(r"token|secret|passw|key|auth|credential|session|cookie|signature", re.IGNORECASE)
_HARMLESS = {"sec-websocket-key"}
_SIGNATURE = re.compile(r"(SDK-HMAC-SHA256 Access=)([^,]*)(, SignedHeaders=[^,]*, Signature=)(.*)\Z")
# Enough of a key id to tell which one it is; half of an AK has twenty characters more than anybody guesses.
_KEY_ID_SHOWN = 4
_KEY_ID_LENGTH = 16


def masked(name: str, value: str) -> str:
    """A header field's value as it may go into a ticket: secrets, tokens and signatures masked."""
    lower = name.lower()
    if lower in _SHOWN or lower in _HARMLESS:
        return value
    signature = _SIGNATURE.match(value) if lower == "authorization" else None
    if signature is not None:
        return f"{signature[1]}{_key_id(signature[2])}{signature[3]}{MASK}"
    encoded = lower.encode("latin-1")
    if encoded in CALLER_CREDENTIALS or encoded.startswith(CALLER_CREDENTIAL_PREFIXES) or _TELLING.search(lower):
        return MASK
    return value


def _key_id(value: str) -> str:
    """The beginning of a key id. An AppKey alone may open routes of its own, so never all of it."""
    return value[:_KEY_ID_SHOWN] + "…" if len(value) >= _KEY_ID_LENGTH else MASK


def masked_canonical(canonical: str) -> str:
    """A canonical request with the values of secret fields masked; its hash is that of the unmasked one."""
    lines = canonical.split("\n")
    for number, line in enumerate(lines[3:-3], 3):
        name, colon, value = line.partition(":")
        if colon:
            lines[number] = f"{name}:{masked(name, value)}"
    return "\n".join(lines)
