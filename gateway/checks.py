"""A data plane's question about a request, and the answer to it, as HTTP messages: Envoy's ext_authz, nginx's auth_request."""

import os
import re
from http import HTTPStatus
from typing import NamedTuple

from aiohttp import web
from multidict import CIMultiDict

from gateway.errors import REASONS, BadRequest, GatewayError, error_body, error_fields
from gateway.headers import CALLER_CREDENTIAL_PREFIXES, CALLER_CREDENTIALS
from gateway.inbound import Fields
from gateway.outbound import Outbound

NGINX_PATH = "/nginx"
NGINX_REFUSAL_PATH = "/nginx-refusal"

# What the data plane alone says about the request; whatever a caller sent under these names it has replaced.
_SAID = {
    b"x-original-method": "method",
    b"x-original-uri": "target",
    b"x-original-address": "address",
    b"x-original-content-length": "length",
    b"x-original-transfer-encoding": "coding",
}
# Of a check, these belong to the check and not to the request that it is about.
_OF_THE_CHECK = {
    b"host",
    b"connection",
    b"keep-alive",
    b"upgrade",
    b"te",
    b"trailer",
    b"expect",
    b"content-length",
    b"transfer-encoding",
}
# nginx cannot remove fields by prefix: its configuration blanks these two of them, and the others are refused.
_NGINX_BLANKS = {b"x-sdk-date", b"x-sdk-content-sha256"}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class Check(NamedTuple):
    """The request that a data plane asks about. ``fields`` are the caller's, as they came."""

    method: str
    target: str
    fields: Fields
    address: str = ""
    length: str | None = None
    coding: str | None = None

    def head(self) -> bytes:
        """The head that the caller would have sent here."""
        lines = [f"{self.method} {self.target} HTTP/1.1".encode("utf-8", "surrogateescape"), b"Host: check"]
        lines += [name + b": " + value for name, value in self.fields]
        if self.length is not None:
            lines.append(b"Content-Length: " + self.length.encode("utf-8", "surrogateescape"))
        if self.coding is not None:
            lines.append(b"Transfer-Encoding: " + self.coding.encode("utf-8", "surrogateescape"))
        return b"\r\n".join(lines)


class Permit(NamedTuple):
    """What the data plane is to do with a request: ``fields`` replace, ``removed`` go, path and host are what was signed."""

    route: str
    target: str
    authority: str
    fields: Fields
    removed: tuple[str, ...]


def check_of(request: web.BaseRequest, envoy_prefix: str) -> Check:
    """The request that a data plane asks about. ``envoy_prefix`` stands before the path of Envoy's checks.

    Raises:
        BadRequest: this is no check, or it leaves out or repeats what the data plane has to say.
    """
    fields: Fields = []
    said: dict[str, str] = {}
    for name, value in request.raw_headers:
        lower = name.lower()
        key = _SAID.get(lower)
        if key is not None:
            if key in said:
                raise BadRequest(f"The check says {lower.decode()} more than once; the proxy must replace it.")
            said[key] = value.decode("utf-8", "surrogateescape")
        elif lower not in _OF_THE_CHECK:
            fields.append((name, value))
    # An empty value is how proxies write that there was none.
    address, length, coding = said.get("address", ""), said.get("length") or None, said.get("coding") or None
    if request.raw_path in (NGINX_PATH, NGINX_REFUSAL_PATH):
        if "method" not in said or "target" not in said:
            raise BadRequest("An nginx check needs X-Original-Method and X-Original-URI; see deploy/nginx.")
        _refuse_what_nginx_cannot_remove(fields)
        return Check(said["method"], said["target"], fields, address, length, coding)
    target = request.raw_path.removeprefix(envoy_prefix)
    if target == request.raw_path or not target.startswith("/"):
        raise BadRequest(
            f"This is neither a check of Envoy's (path_prefix: {envoy_prefix}) nor of nginx's ({NGINX_PATH})."
        )
    return Check(request.method, target, fields, address, length, coding)


def _is_credential(name: bytes) -> bool:
    """A lower-case name under which callers may not send anything on; ``_`` is read as ``-``."""
    name = name.replace(b"_", b"-")
    return name in CALLER_CREDENTIALS or name == b"x-stage" or name.startswith(CALLER_CREDENTIAL_PREFIXES)


def _refuse_what_nginx_cannot_remove(fields: Fields) -> None:
    for name, _ in fields:
        lower = name.lower()
        prefixed = lower.replace(b"_", b"-").startswith(CALLER_CREDENTIAL_PREFIXES)
        if (prefixed and lower not in _NGINX_BLANKS) or (b"_" in lower and _is_credential(lower)):
            raise BadRequest("The request has an X-Sdk- or X-HW- field, which callers may not send; leave it out.")


def to_set(outbound: Outbound) -> Fields:
    """The credential, and X-Stage where it was signed; the data plane writes its own Via and X-Request-Id."""
    fields = [*outbound.outline.fields, *outbound.fields]
    return [(name, value) for name, value in fields if name not in (b"Via", b"X-Request-Id")]


def to_remove(came: Fields, written: Fields) -> tuple[str, ...]:
    """Every credential name a caller could use, and those that this one did, but for what is written anew.

    Envoy removes after it has written, so a name must not be in both.
    """
    names = {lower for name, _ in came if _is_credential(lower := name.lower())}
    names |= CALLER_CREDENTIALS | {b"x-stage"}
    return tuple(sorted(name.decode() for name in names - {name.lower() for name, _ in written}))


def permission(permit: Permit) -> web.Response:
    headers = CIMultiDict((name.decode(), value.decode()) for name, value in permit.fields)
    headers["X-Gateway-Route"] = permit.route
    headers["X-Gateway-Path"] = permit.target
    headers["X-Gateway-Host"] = permit.authority
    headers["X-Envoy-Auth-Headers-To-Remove"] = ",".join(permit.removed)
    headers["Cache-Control"] = "no-store"
    return web.Response(status=HTTPStatus.OK, headers=headers)


def refusal(error: GatewayError, request_id: str, *, nginx: bool) -> web.Response:
    """The gateway's own answer; nginx knows 401 and 403 alone, and asks the other path for the rest."""
    headers = CIMultiDict((name.decode(), value.decode()) for name, value in error_fields(error, request_id))
    status = error.status if not nginx or error.status == HTTPStatus.UNAUTHORIZED else HTTPStatus.FORBIDDEN
    return web.Response(
        status=status, reason=REASONS.get(int(status)), headers=headers, body=error_body(error, request_id)
    )


def request_id(request: web.BaseRequest) -> str:
    theirs = next((value for name, value in request.raw_headers if name.lower() == b"x-request-id"), b"")
    return theirs.decode() if _REQUEST_ID.fullmatch(theirs) else os.urandom(16).hex()
