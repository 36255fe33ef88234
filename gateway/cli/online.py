"""What ``check --online`` finds out: can each credential be had, and can each upstream be reached."""

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from gateway.cli.waiting import services, until_usable
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.credentials.base import Credential
    from gateway.routes import Route

# One attempt to obtain a token takes at most 10 s unless its `timeout` says otherwise; then there is an error to show.
_CREDENTIAL_SECONDS = 30.0
# For routes that switched `limits.connect` off.
_CONNECT_SECONDS = 10.0


class Finding(NamedTuple):
    """One thing that was tried, and what came of it in words; holds no secret."""

    what: str
    ok: bool
    message: str


async def findings(config: "Config") -> list[Finding]:
    """Try everything at once; credentials first in the list, then upstreams, each in the order of the file."""
    from gateway import credentials

    created = [credentials.create(name, settings, services()) for name, settings in config.credentials.items()]
    tried = await asyncio.gather(
        *(_credential(credential) for credential in created),
        *(_upstream(routes) for routes in _by_upstream(config.routes)),
    )
    return list(tried)


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
    if state.expiry is not None:
        hours = (state.expiry - time.time()) / 3600
        return Finding(what, ok=True, message=f"obtained, good for {hours:.1f} hours")
    return Finding(what, ok=True, message="present; only the upstream can say whether it is right")


def _by_upstream(routes: Iterable["Route"]) -> list[list["Route"]]:
    """Routes that share an upstream and the way to it, together."""
    groups: dict[object, list[Route]] = {}
    for route in routes:
        url = route.upstream
        groups.setdefault((url.scheme, url.host, url.port, route.connection), []).append(route)
    return list(groups.values())


async def _upstream(routes: list["Route"]) -> Finding:
    from gateway.upstream.dial import dial, tls_context

    route = routes[0]
    names = ", ".join(route.name for route in routes)
    what = f"upstream {route.upstream.scheme}://{route.upstream.authority} (route {names})"
    limit = route.limits.connect_seconds or _CONNECT_SECONDS
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        context = tls_context(route.connection) if route.upstream.scheme == "https" else None
        connection = await dial(route.upstream, route.connection, context, limit, route.name)
    except GatewayError as error:
        return Finding(what, ok=False, message=error.message)
    if connection.transport is not None:
        connection.transport.abort()
    kind = "TLS connection" if context is not None else "connection"
    return Finding(what, ok=True, message=f"{kind} in {1000 * (loop.time() - started):.0f} ms")
