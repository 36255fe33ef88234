"""The made-up credentials of a measurement, and whether a request arrived with the right one."""

import hashlib
import hmac
import re
from urllib.parse import quote

from gateway.simulator import signature as sdk

KEY = "BENCHACCESSKEY"
SECRET = "bench-secret-key-0123456789abcdef"
# As long as a small real one; IAM's are 1 to 9 KB, which would measure memcpy in every peer alike.
TOKEN = "bench-token-" + "0123456789abcdef" * 4
REGION, SERVICE = "us-east-1", "execute-api"

_SIGV4 = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})",
)


def fault(kind: str, head: bytes, body: bytes, host: str) -> str | None:
    """What is wrong with a request as it arrived at the stub; None when everything is as it must be.

    ``kind`` is ``token``, ``sdk`` (SDK-HMAC-SHA256) or ``sigv4`` (AWS Signature Version 4); ``head`` ends with an empty
    line; ``body`` is what the caller sent; ``host`` is the stub's address.
    """
    request_line, *lines = head.rstrip().split(b"\r\n")
    method, target, _ = request_line.split(b" ")
    fields = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    if sdk.values(fields, "host") != [host.encode()]:
        return f"Host is {sdk.values(fields, 'host')}, not {host}"
    if kind == "token":
        return None if sdk.values(fields, "x-auth-token") == [TOKEN.encode()] else "no X-Auth-Token, or a wrong one"
    given = b", ".join(sdk.values(fields, "authorization")).decode()
    if kind == "sdk":
        return _sdk_fault(method.decode(), target, fields, body, given)
    return _sigv4_fault(method.decode(), target.decode(), fields, body, given)


def _sdk_fault(method: str, target: bytes, fields: sdk.Fields, body: bytes, given: str) -> str | None:
    try:
        presented = sdk.parse(given)
    except sdk.Unreadable as error:
        return str(error)
    hashed = sdk.payload_hash(fields, presented.signed, hashlib.sha256(body).hexdigest())
    if hashed == sdk.UNSIGNED:
        return "the body was left out of the signature"
    dates = sdk.values(fields, sdk.DATE)
    if len(dates) != 1 or not {"host", sdk.DATE} <= set(presented.signed):
        return "Host and X-Sdk-Date must be there and signed"
    canonical = sdk.canonical_request(method, target, fields, presented.signed, hashed)
    if presented.access != KEY or presented.signature != sdk.compute(SECRET, dates[0].decode(), canonical):
        return "the signature does not match"
    return None


def _sigv4_fault(method: str, target: str, fields: sdk.Fields, body: bytes, given: str) -> str | None:
    """Source: AWS General Reference, "Create a signed AWS API request"."""
    match = _SIGV4.fullmatch(given)
    if match is None:
        return "Authorization is not of the form AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…"
    key, scope, names, signature = match.groups()
    path, _, query = target.partition("?")
    hashed = hashlib.sha256(body).hexdigest()
    if sdk.values(fields, "x-amz-content-sha256") not in ([], [hashed.encode()]):
        return "X-Amz-Content-Sha256 is not the body's hash"
    signed = "".join(
        f"{name}:{','.join(value.decode() for value in sdk.values(fields, name))}\n" for name in names.split(";")
    )
    canonical = "\n".join((method, quote(path), query, signed, names, hashed))
    date = sdk.values(fields, "x-amz-date")[0].decode()
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    derived = ("AWS4" + SECRET).encode()
    for part in scope.split("/"):
        derived = hmac.digest(derived, part.encode(), "sha256")
    wanted = hmac.new(derived, text.encode(), hashlib.sha256).hexdigest()
    return None if key == KEY and signature == wanted else "the signature does not match"
