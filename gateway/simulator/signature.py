"""Signatures seen from the server: rebuilt from the bytes that arrived, never from what they were parsed into.

Source: API Request Signing Guide, "Constructing a Standard Request" and "Calculating the Signature".
"""

import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

ALGORITHM = "SDK-HMAC-SHA256"
DERIVED = "V11-HMAC-SHA256"
ALGORITHMS = (ALGORITHM, DERIVED)
UNSIGNED = "UNSIGNED-PAYLOAD"
CONTENT_HASH = "x-sdk-content-sha256"
DATE = "x-sdk-date"

Fields = Sequence[tuple[bytes, bytes]]

_AUTHORIZATION = re.compile(rf"{ALGORITHM} Access=([^,\s]+), *SignedHeaders=([^,\s]+), *Signature=([0-9a-f]{{64}})")
_DERIVED = re.compile(
    rf"{DERIVED} Credential=([^,\s/]+)/([0-9]{{8}}/[^,\s/]+/apic), *SignedHeaders=([^,\s]+), *Signature=([0-9a-f]{{64}})"
)
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


class Unreadable(ValueError):
    """An Authorization or X-Sdk-Date value that is not of the documented form."""


@dataclass(frozen=True, slots=True)
class Presented:
    """The parts of a signature's Authorization value; ``info`` is the day, region and service of a derived key."""

    access: str
    signed: tuple[str, ...]
    signature: str
    info: str | None = None

    def compute(self, secret: str, date: str, canonical: bytes) -> str:
        """What the signature should be. A derived key of another day than the date's fits nothing."""
        if self.info is None:
            return compute(secret, date, canonical)
        if self.info[:8] != date[:8]:
            return ""
        # HKDF (RFC 5869) with SHA-256 and 32 octets: extract, then one block; in hex, and that as text.
        extracted = hmac.digest(self.access.encode(), secret.encode(), "sha256")
        key = hmac.digest(extracted, self.info.encode() + b"\x01", "sha256").hex()
        to_sign = f"{DERIVED}\n{date}\n{self.info}\n{hashlib.sha256(canonical).hexdigest()}"
        return hmac.digest(key.encode(), to_sign.encode(), "sha256").hex()


def parse(authorization: str) -> Presented:
    """Take an Authorization value apart.

    Raises:
        Unreadable: it is not a signature of this algorithm.
    """
    derived = _DERIVED.fullmatch(authorization)
    if derived is not None:
        return Presented(derived[1], tuple(derived[3].lower().split(";")), derived[4], derived[2])
    match = _AUTHORIZATION.fullmatch(authorization)
    if match is None:
        raise Unreadable("Authorization is not of the form SDK-HMAC-SHA256 Access=…, SignedHeaders=…, Signature=…")
    return Presented(match[1], tuple(match[2].lower().split(";")), match[3])


def instant(sdk_date: str) -> float:
    """An X-Sdk-Date (``YYYYMMDDTHHMMSSZ``) as Unix time.

    Raises:
        Unreadable: it is of another form.
    """
    try:
        return float(calendar.timegm(time.strptime(sdk_date, "%Y%m%dT%H%M%SZ")))
    except ValueError as error:
        raise Unreadable("X-Sdk-Date is not of the form YYYYMMDDTHHMMSSZ") from error


def sdk_date(unix_seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_seconds))


def values(fields: Fields, name: str) -> list[bytes]:
    """Every value of a field, outer white space removed."""
    wanted = name.lower().encode()
    return [value.strip(b" \t") for key, value in fields if key.lower() == wanted]


def payload_hash(fields: Fields, signed: Sequence[str], body_sha256: str) -> str:
    """The last line of the canonical request.

    X-Sdk-Content-Sha256 counts only when it is signed; UNSIGNED-PAYLOAD then stands for any body. A hash given
    there must be the body's: otherwise the body's own is used, which the signature then does not match.
    """
    given = values(fields, CONTENT_HASH)
    if CONTENT_HASH in signed and given == [UNSIGNED.encode()]:
        return UNSIGNED
    if CONTENT_HASH in signed and [value.lower() for value in given] == [body_sha256.encode()]:
        return given[0].decode()  # letter for letter
    return body_sha256


def canonical_request(method: str, target: bytes, fields: Fields, signed: Sequence[str], hashed: str) -> bytes:
    """The six parts, each on its line; canonical headers bring an empty line of their own."""
    path, _, query = target.partition(b"?")
    names = sorted(set(signed))
    headers = b"".join(name.encode() + b":" + b",".join(values(fields, name)) + b"\n" for name in names)
    parts = [
        method.upper().encode(),
        canonical_path(path),
        canonical_query(query),
        headers,
        ";".join(names).encode(),
        hashed.encode(),
    ]
    return b"\n".join(parts)


def canonical_path(path: bytes) -> bytes:
    """Decoded once, each segment encoded again, and a slash at the end."""
    encoded = b"/".join(_encode(segment) for segment in _decode(path).split(b"/"))
    return encoded if encoded.endswith(b"/") else encoded + b"/"


def canonical_query(query: bytes) -> bytes:
    """Pairs sorted by decoded name and value; a ``+`` is a plus, as the vendor's Python signer reads it."""
    pairs = []
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name:
            pairs.append((_decode(name), _decode(value)))
    return b"&".join(_encode(name) + b"=" + _encode(value) for name, value in sorted(pairs))


def compute(secret: str, date: str, canonical: bytes) -> str:
    """The signature of a canonical request, lower-case hex; the secret is used as it is, nothing is derived."""
    to_sign = f"{ALGORITHM}\n{date}\n{hashlib.sha256(canonical).hexdigest()}"
    return hmac.new(secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()


def echo(canonical: bytes) -> str:
    """A canonical request as the server's error message quotes it: on one line."""
    return canonical.decode("utf-8", "replace").replace("\n", "|")


def _decode(raw: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), raw)


def _encode(plain: bytes) -> bytes:
    return b"".join(bytes([octet]) if octet in _UNRESERVED else b"%%%02X" % octet for octet in plain)
