"""The admin listener: health, readiness, metrics and status, read-only and apart from the callers' port."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aiohttp import web

from gateway import sockets
from gateway.advice import ADVICE
from gateway.metrics import summary

if TYPE_CHECKING:
    from gateway.config import Address
    from gateway.credentials.base import CredentialState
    from gateway.metrics import Snapshot
    from gateway.routes import Route

# A scrape or a page load under way ends within this when the gateway stops.
_SHUTDOWN_SECONDS = 1.0
_PATHS = "/, /healthz, /readyz, /metrics, /status"
_ELSEWHERE = "Routes are at the address under listen."


class Verdict(NamedTuple):
    """Whether the gateway wants traffic; ``reasons`` say why not, ``degraded`` what does not work meanwhile."""

    ready: bool
    reasons: list[str]
    degraded: list[str]


class GatewayView(Protocol):
    """What the admin listener is told of the gateway. Asynchronous, as several workers have to be asked first."""

    def healthy(self) -> bool:
        """Somebody is there to serve."""
        ...

    async def ready(self) -> Verdict: ...

    async def status(self) -> dict[str, Any]:
        """JSON without secrets, as ``status_document`` makes it."""
        ...

    async def metrics_text(self) -> tuple[bytes, str]:
        """A scrape's answer and its content type."""
        ...


class Readiness:
    """Remembers whether the gateway has ever been ready, because that changes what readiness asks for.

    A new process waits for *every* credential, so that a rollout with a broken one stops. One that has been ready stays
    so while *any* is usable: one locked key must not take every route away.
    """

    def __init__(self) -> None:
        self._was_ready = False

    def judge(self, credentials: Mapping[str, "CredentialState"], draining: bool) -> Verdict:
        """The verdict for these states; ask whenever one changes, so that the moment of becoming ready is not missed."""
        unusable = [_describe(name, state) for name, state in credentials.items() if not state.usable]
        enough = not unusable or (self._was_ready and len(unusable) < len(credentials))
        if draining:
            return Verdict(False, ["the gateway is draining: it was told to stop"], unusable)
        if not enough:
            return Verdict(False, unusable, [])
        self._was_ready = True
        return Verdict(True, [], unusable)


def status_document(
    *,
    version: str,
    config_path: str,
    started: float,
    now: float,
    verdict: Verdict,
    draining: bool,
    routes: Iterable["Route"],
    credentials: Mapping[str, tuple[str, "CredentialState"]],
    snapshot: "Snapshot",
    reload_problems: Iterable[str] = (),
    workers: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What ``/status`` answers and the page shows. ``started`` and ``now`` are Unix time; ``credentials`` are kind and state by name.

    ``snapshot`` may be that of one process or the merged one of several; ``workers`` then says who they are.
    """
    gauges = snapshot["gauges"]
    connections, skews = gauges["upstream_connections"], gauges["clock_skew_seconds"]
    return {
        "version": version,
        "time": _instant(now),
        "started": _instant(started),
        "uptime_seconds": round(now - started, 1),
        "config": config_path,
        "ready": verdict.ready,
        "draining": draining,
        "reasons": verdict.reasons,
        "degraded": verdict.degraded,
        "in_flight": sum(gauges["in_flight"].values()),
        "body_memory_bytes": gauges["body_memory_bytes"],
        "access_log_lines_dropped": snapshot["access_log_lines_dropped"],
        "worker_restarts": snapshot["worker_restarts"],
        "workers": list(workers),
        "reload": {
            "successful": gauges["reload_successful"],
            "time": _instant(gauges["reload_success_timestamp"] or None),
            "problems": list(reload_problems),
        },
        "credentials": [_credential(name, kind, state) for name, (kind, state) in credentials.items()],
        "routes": [*(_route(route, snapshot) for route in routes), *_unmatched(snapshot)],
        "upstreams": [
            {"name": name, "connections": connections.get(name, {}), "clock_skew_seconds": skews.get(name)}
            for name in sorted({*connections, *skews})
        ],
        "recent_errors": [
            {**error, "time": _instant(error["time"]), "advice": ADVICE.get(error["error"])}
            for error in reversed(snapshot["recent_errors"])
        ],
    }


class AdminListener:
    """Serves the admin paths until ``close``."""

    def __init__(self, view: GatewayView) -> None:
        self._runner = web.AppRunner(
            make_admin_app(view), access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS
        )

    async def start(self, address: "Address", key: str = "admin") -> int:
        """Listen; the answer is the port, for those who asked for 0 (and 0 on a Unix socket).

        ``key`` is where the address stands: in the configuration or on the command line.

        Raises:
            PortInUse: the address is taken or not ours.
        """
        if address.unix_path is not None:
            # Not aiohttp's UnixSite: asyncio takes the path from whoever still listens there.
            (sock,) = sockets.bind(address, key)
            await self._runner.setup()
            await web.SockSite(self._runner, sock).start()
            return 0
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, address.host, address.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise sockets.refused(address, key, error) from None
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        await self._runner.cleanup()


def make_admin_app(view: GatewayView) -> web.Application:
    """The admin paths as an application; GET and HEAD alone, everything else is 405."""
    page, policy = _page()

    async def healthz(_: web.Request) -> web.Response:
        healthy = view.healthy()
        return _json({"healthy": healthy}, status=200 if healthy else 503)

    async def readyz(_: web.Request) -> web.Response:
        ready, reasons, degraded = await view.ready()
        if ready:
            return _json({"ready": True, "degraded": degraded})
        return _json({"ready": False, "reasons": reasons}, status=503)

    async def metrics(_: web.Request) -> web.Response:
        body, content_type = await view.metrics_text()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def status(_: web.Request) -> web.Response:
        return _json(await view.status())

    async def status_page(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html", headers={"Content-Security-Policy": policy})

    async def nothing(_: web.Request) -> web.Response:
        return _json({"error": f"There is nothing here. The admin listener knows {_PATHS}. {_ELSEWHERE}"}, status=404)

    async def not_allowed(_: web.Request) -> web.Response:
        response = _json({"error": f"The admin listener answers GET and HEAD alone. {_ELSEWHERE}"}, status=405)
        response.headers["Allow"] = "GET,HEAD"
        return response

    app = web.Application()
    app.on_response_prepare.append(_protect)
    for path, handler in (
        ("/healthz", healthz),
        ("/readyz", readyz),
        ("/metrics", metrics),
        ("/status", status),
        ("/", status_page),
        ("/{anything:.*}", nothing),
    ):
        app.router.add_get(path, handler)
    app.router.add_route("*", "/{anything:.*}", not_allowed)
    return app


async def _protect(_: web.Request, response: web.StreamResponse) -> None:
    """No sniffing, framing, storing, or reading by other sites' pages (there is no CORS here); no word of what serves this."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = "modelarts-gateway"


def _page() -> tuple[str, str]:
    """The page, and the policy that lets it run its own script and style and nothing else (CSP Level 3 section 2.3.1)."""
    page = resources.files("gateway").joinpath("status_page.html").read_text("utf-8")
    hashes = {tag: _source_hash(page, tag) for tag in ("script", "style")}
    return page, (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _source_hash(page: str, tag: str) -> str:
    (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    # Indented: it is read by people with curl as much as by programs.
    return web.Response(
        text=json.dumps(document, indent=2, ensure_ascii=False) + "\n", content_type="application/json", status=status
    )


def _describe(name: str, state: "CredentialState") -> str:
    words = f"credential {name}: {state.summary}"
    return f"{words} ({state.last_error})" if state.last_error and state.last_error not in state.summary else words


def _credential(name: str, kind: str, state: "CredentialState") -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "usable": state.usable,
        "summary": state.summary,
        "expiry": _instant(state.expiry),
        "last_success": _instant(state.last_success),
        "last_error": state.last_error,
    }


def _route(route: "Route", snapshot: "Snapshot") -> dict[str, Any]:
    counts = snapshot["routes"][route.name]
    return {
        "name": route.name,
        "path": route.prefix or "/",
        "upstream": f"{route.upstream.scheme}://{route.upstream.authority}{route.upstream.base_path}",
        "credential": route.credential,
        "in_flight": snapshot["gauges"]["in_flight"][route.name],
        "breaker": snapshot["gauges"]["breakers"].get(route.name),
        **_counted(counts),
    }


def _unmatched(snapshot: "Snapshot") -> list[dict[str, Any]]:
    """A row for what matched no route, once there is something to tell."""
    counts = snapshot["routes"]["-"]
    if not counts["requests"]:
        return []
    in_flight = snapshot["gauges"]["in_flight"]["-"]
    nowhere = {"name": "-", "path": None, "upstream": None, "credential": None, "in_flight": in_flight, "breaker": None}
    return [nowhere | _counted(counts)]


def _counted(counts: "Snapshot") -> dict[str, Any]:
    details = {name: counts[name] for name in ("errors", "upstream_errors", "retries")}
    return {**summary(counts), **details}


def _instant(seconds: float | None) -> str | None:
    """RFC 3339 in UTC, to the second."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
