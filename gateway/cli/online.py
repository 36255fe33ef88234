"""What ``check --online`` finds out: can each credential be had, can each upstream be reached, and do the two fit."""

import asyncio
import re
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from gateway.cli.waiting import services, until_usable
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.credentials.asking import Answer
    from gateway.credentials.base import Credential, CredentialState
    from gateway.routes import Route

# One attempt to obtain a token takes at most 10 s unless its `timeout` says otherwise; then there is an error to show.
_CREDENTIAL_SECONDS = 30.0
# For routes that switched `limits.connect` off.
_CONNECT_SECONDS = 10.0
# A refusal comes at once; a service that takes requests without a credential may think about one.
_LOOK_SECONDS = 5.0
_SKEW_SECONDS = 60.0
# A region as it stands in hosts and project names: cn-north-4, ap-southeast-1, eu-west-101.
_REGION = re.compile(r"(?<![a-z0-9])([a-z]{2}-[a-z]+-[0-9]{1,3})(?![0-9])")

# What to look at where no connection came about, by RFC 9209's names.
_LOOK_AT = {
    "dns_error": "Is the host spelled right, and does this machine resolve public names? (connection.address dials an address)",
    "connection_refused": "Do host and port stand there as they should, and does something listen?",
    "connection_timeout": "Does a firewall or network policy let this machine out, or only through a proxy (connection.proxy)?",
    "destination_ip_unroutable": "Does a firewall or network policy let this machine out, or only through a proxy (connection.proxy)?",
    "tls_certificate_error": "A private authority belongs into connection.ca; the certificate has to name the URL's host",
    "tls_protocol_error": "Is it an http port behind an https URL?",
}

# Where a ModelArts service is known to be, by the form of its path. Other upstreams are prefixes, such as MaaS's host alone, and an
# API gateway says of the prefix itself that there is no such API.
_SERVICE = re.compile(r"/infers?/[^/]+")
# Asked for where an upstream is a host alone: MaaS has it, and says there which credential it takes.
_MODELS = "/v1/models"
_NOTHING_THERE = frozenset({"APIG.0101", "ModelArts.4201", "ModelArts.4202", "ModelArts.4204"})

# What the refusal of a request without any credential says about the address (codes: API Gateway and ModelArts, "Error
# Codes"), and which kinds of credential it takes.
_ADDRESSES = {
    "APIG.0301": ("a service's IAM address", ("iam_token", "aksk_signature")),
    "APIG.0303": ("a service's APP address", ("app_signature", "app_code", "app_key")),
    "ModelArts.0201": ("a service that takes tokens", ("iam_token",)),
    "ModelArts.0205": ("a service that takes API keys", ("api_key", "app_signature", "app_code", "app_key")),
    "ModelArts.81002": ("MaaS, which takes API keys", ("api_key",)),
}


class Finding(NamedTuple):
    """One thing that was tried, and what came of it in words; holds no secret."""

    what: str
    ok: bool
    message: str


async def findings(config: "Config") -> list[Finding]:
    """Try everything at once: credentials first in the list, then upstreams, then routes, each in the order of the file."""
    from gateway import credentials

    used = services()  # one for all, so that credentials which share a user do not try a wrong password twice
    created = [credentials.create(name, settings, used) for name, settings in config.credentials.items()]
    tried = await asyncio.gather(
        *(_credential(credential) for credential in created),
        *(_upstream(routes) for routes in _by_upstream(config.routes)),
        *(_route(route, config) for route in config.routes if route.credential is not None),
    )
    return [finding for finding in tried if finding is not None]


async def _credential(credential: "Credential") -> Finding:
    what = f"credential {credential.name} ({credential.kind})"
    credential.start()
    try:
        await until_usable(credential, _CREDENTIAL_SECONDS)
        state = credential.state()
    finally:
        await credential.close()
    if not state.usable:
        return Finding(what, ok=False, message=state.last_error or state.summary)
    if state.expiry is None:
        return Finding(what, ok=True, message="present; only the upstream can say whether it is right")
    return _obtained(what, state)


def _obtained(what: str, state: "CredentialState") -> Finding:
    hours = ((state.expiry or 0.0) - time.time()) / 3600
    message = f"obtained, good for {hours:.1f} hours"
    if state.clock_ahead_seconds:
        return Finding(what, ok=False, message=f"{message}, but {_clock(state.clock_ahead_seconds, 'IAM')}")
    return Finding(what, ok=True, message=message)


def _by_upstream(routes: Iterable["Route"]) -> list[list["Route"]]:
    """Routes that share an upstream and the way to it, together."""
    groups: dict[object, list[Route]] = {}
    for route in routes:
        url = route.upstream
        groups.setdefault((url.scheme, url.host, url.port, route.connection), []).append(route)
    return list(groups.values())


async def _upstream(routes: list["Route"]) -> Finding:
    from gateway.limits import unconnected
    from gateway.upstream.dial import dial, tls_context

    route = routes[0]
    names = ", ".join(route.name for route in routes)
    what = f"upstream {route.upstream.scheme}://{route.upstream.authority} (route {names})"
    limit = route.limits.connect_seconds or _CONNECT_SECONDS
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        context = tls_context(route.connection) if route.upstream.scheme == "https" else None
        async with asyncio.timeout(limit):
            connection = await dial(route.upstream, route.connection, context)
    except (GatewayError, TimeoutError) as reason:
        error = reason if isinstance(reason, GatewayError) else unconnected(route.name)
        look_at = _LOOK_AT.get(error.proxy_status, "")
        return Finding(what, ok=False, message=f"{error.message} {look_at}".rstrip())
    if connection.transport is not None:
        connection.transport.abort()
    kind = "TLS connection" if context is not None else "connection"
    return Finding(what, ok=True, message=f"{kind} in {1000 * (loop.time() - started):.0f} ms")


async def _route(route: "Route", config: "Config") -> Finding | None:
    """Whether credential and address belong together; None when nobody answered, which the upstream's finding tells."""
    kind = config.credentials[route.credential or ""].kind
    what = f"route {route.name} with {route.credential} ({kind})"
    region = _other_region(route, config)
    if region is not None:
        return Finding(what, ok=False, message=region)
    answer = await _knock(route)
    if answer is None:
        return None
    wrong = _wrong_address(answer, kind, route.upstream.base_path) or _wrong_clock(answer)
    if wrong is None and _says_nothing(answer):
        return Finding(what, ok=True, message="only a request to a path below it can say whether they fit")
    return Finding(
        what, ok=wrong is None, message=wrong or f"the address takes this kind of credential ({answer.status})"
    )


def _other_region(route: "Route", config: "Config") -> str | None:
    """The upstream's region where the credential's is another, in words. Both stand in names."""
    there = _REGION.search(route.upstream.host)
    settings = config.credentials[route.credential or ""]
    named = " ".join(str(getattr(settings, key, None) or "") for key in ("project", "region"))
    here = _REGION.search(named)
    if there is None or here is None or there[1] == here[1]:
        return None
    return (
        f"wrong region: the service is in {there[1]}, the credential is for {here[1]}, and is good in no other; "
        f"write project: {there[1]} and region: {there[1]} (and use a credential of its own for each region)"
    )


async def _knock(route: "Route") -> "Answer | None":
    """A GET without any credential: what takes one refuses it at its front, and says by how what it takes."""
    from gateway.credentials.asking import ask
    from gateway.credentials.token import FetchFailed

    path = route.upstream.base_path or _MODELS
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            return await ask("GET", route.upstream, path, who="the upstream", connection=route.connection)
    except (FetchFailed, TimeoutError):
        return None


def _says_nothing(answer: "Answer") -> bool:
    from gateway.refusals import classify

    refusal = classify(answer.status, answer.body)
    return refusal is not None and refusal.code in _NOTHING_THERE


def _wrong_address(answer: "Answer", kind: str, base_path: str) -> str | None:
    from gateway.refusals import classify

    refusal = classify(answer.status, answer.body)
    if refusal is None:
        return None
    if refusal.code in _NOTHING_THERE:
        if not _SERVICE.search(base_path):
            return None
        return f"there is no service at this URL ({refusal.code}): check the region in its host and the id in its path"
    address, kinds = _ADDRESSES.get(refusal.code, ("", (kind,)))
    if kind in kinds:
        return None
    hint = f"use a credential of kind {' or '.join(kinds)}"
    if refusal.code in {"APIG.0301", "APIG.0303"}:
        other = "APP" if refusal.code == "APIG.0301" else "IAM"
        hint += f", or the {other} address, which the service's page shows as well (Usage Guides)"
    return f"this is {address}, and {kind} does not open it ({refusal.code}); {hint}"


def _wrong_clock(answer: "Answer") -> str | None:
    date = answer.get("Date")
    try:
        ahead = 0.0 if date is None else parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return _clock(ahead, "the upstream") if abs(ahead) > _SKEW_SECONDS else None


def _clock(ahead_seconds: float, whose: str) -> str:
    side = "behind" if ahead_seconds > 0 else "ahead of"
    return (
        f"this machine's clock is {abs(ahead_seconds):.0f} s {side} that of {whose}: set it (NTP). Signatures more than "
        "15 minutes off are refused; the gateway follows the upstream's clock, but certificates and logs do not"
    )
