"""Authorisation for somebody else's data plane: Envoy or nginx asks about each request, and adds what it is told.

No body comes here. A check names method, path and fields of a caller's request; the answer is 200 with the header fields
to add and the path and host to send them to, or the gateway's own refusal. Nothing is 200 by default. Decisions are counted
and logged as `serve` counts and logs requests: a permission is a 200, a refusal has its status and error_code.
"""

import asyncio
import logging
import socket
import time
from http import HTTPStatus
from typing import Any

from aiohttp import web

from gateway import __version__, cors
from gateway.admin import AdminListener, Readiness, Verdict, status_document
from gateway.body import Body, Budget
from gateway.callers import Callers
from gateway.checks import (
    NGINX_PATH,
    NGINX_REFUSAL_PATH,
    Check,
    Permit,
    check_of,
    permission,
    refusal,
    request_id,
    to_remove,
    to_set,
)
from gateway.config import Address, Config
from gateway.credentials.base import Services
from gateway.deadline import Deadline
from gateway.errors import CredentialUnavailable, GatewayError
from gateway.exchange import Exchange
from gateway.inbound import Peer
from gateway.keyring import Keyring
from gateway.logs import AccessLog
from gateway.metrics import Gauges, Metrics, Snapshot, render
from gateway.outbound import Outbound, Outline
from gateway.reload import ConfigFile
from gateway.routes import RouteTable, check_method
from gateway.serving import pause_before_reading_again, watched
from gateway.story import Moment
from gateway.wire.request_head import parse_request

log = logging.getLogger(__name__)

# As long as `serve` waits for a token; Envoy's and nginx's own timeouts in deploy/ are longer.
_WAIT_SECONDS = 5.0
# As `process.head_bytes` is by default; a request head that the data plane took must not fail here.
_HEAD_BYTES = 64 * 1024
_VIA = b"1.1 modelarts-gateway"


class _Elsewhere(Body):
    """A body that passes through the data plane and is never seen here, so that no signature can cover it."""

    __slots__ = ()

    async def fits(self, count: int) -> bool:
        return False

    async def sha256(self) -> str:
        raise CredentialUnavailable(
            "This credential signs the body's hash (payload: hash), and the body does not come here: "
            "write payload: auto or unsigned, or send through modelarts-gateway serve.",
            setting="payload",
        )


class _Source:
    """What is known of such a body: whether there is one, and how long it says it is."""

    def __init__(self, length: int | None, *, chunked: bool, moment: Moment) -> None:
        self.content_length = length
        self.chunked = chunked
        self.moment = moment
        self.ended = not length and not chunked

    def take(self) -> bytes:
        return b""

    def invite(self) -> None:
        """Nobody waits here."""


class Authz:
    """Answers checks by the same routes, callers and credentials as `serve`. Use it inside the running loop."""

    def __init__(self, config: Config, content: bytes, *, envoy_prefix: str = "/envoy", access_log_fd: int = 1) -> None:
        """``envoy_prefix`` stands before the path of Envoy's checks (its ``path_prefix``)."""
        self._envoy_prefix = envoy_prefix
        self._started = time.time()
        self._access_log = AccessLog(access_log_fd)
        self._metrics = Metrics(__version__, gauges=self._gauges)
        self._keyring = Keyring(Services(time.time, time.monotonic, asyncio.sleep, self._metrics.refreshed))
        self._readiness = Readiness()
        self._admin = AdminListener(self)
        self._budget = Budget(0)
        self._tasks: list[asyncio.Task[None]] = []
        self.failed = asyncio.Event()  # it cannot go on, and has to be ended (``serving.watched``)
        # A door without routes: this takes any method and path as they are.
        self._runner = web.ServerRunner(
            web.Server(self._answer, access_log=None, max_line_size=_HEAD_BYTES, max_field_size=_HEAD_BYTES),
            shutdown_timeout=_WAIT_SECONDS,
        )
        self.file = ConfigFile(config, content, self._apply)
        self._use(config)

    async def start(self, sock: socket.socket, admin: Address | None = None) -> int:
        """Answer on a bound socket, obtain credentials in the background, keep files fresh.

        ``admin`` is for those who may look but not be told credentials; the answer is its port, 0 without one.

        Raises:
            PortInUse: somebody else listens on ``admin``.
        """
        port = await self._admin.start(admin, "--admin") if admin is not None else 0
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()
        self._keyring.start()
        self._tasks = [
            watched(self._read_again_forever(), "read-again", self.failed),
            watched(self._flush_forever(), "access-log", self.failed),
        ]
        return port

    async def close(self) -> None:
        """Finish what is being answered, within 5 seconds, and close everything."""
        await self._runner.cleanup()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._admin.close()
        await self._keyring.close()
        self._access_log.close()

    async def permit(self, check: Check, exchange: Exchange) -> Permit:
        """What to add to a request, in the order in which `serve` decides; ``exchange`` notes what becomes known.

        Raises:
            GatewayError: the request may not go; the error is the caller's answer.
        """
        head = parse_request(check.head())  # 400, 405, 501
        noted = head.fields.noted
        table, callers = self._table, self._callers
        caller = callers.identify(noted.items(), Peer(check.address)) if callers else None  # 401
        if caller is not None:
            exchange.caller = caller.name
        match = table.match(head.raw_path)  # 400, 404
        route = match.route
        exchange.route = route.name
        if b"origin" in noted:
            cors.check_origin(route, noted[b"origin"])  # 403
        elif b"sec-fetch-site" in noted:
            cors.check_fetch_site(route, noted[b"sec-fetch-site"])  # 403
        check_method(route, head.method)  # 405
        if caller is not None:
            callers.check(caller, route.name)  # 403
        outline = Outline(head, match, _VIA)  # 400
        body = _Elsewhere(
            _Source(head.content_length, chunked=head.chunked, moment=exchange.moment),
            exchange,
            self._budget,
            route=route.name,
            limit_bytes=route.limits.body_bytes,
            replay_bytes=0,
        )  # 413
        outbound = Outbound(outline, body, "-")
        await self._keyring.of(route.credential).authorize(
            outbound, Deadline.after(_WAIT_SECONDS, exchange.arrived)
        )  # 503
        fields = to_set(outbound)
        return Permit(route.name, outline.target, outline.authority, fields, to_remove(check.fields, fields))

    # The door

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path
        if path == "/healthz":
            return web.Response(text="ok\n")
        if path == "/readyz":
            verdict = await self.ready()
            status = HTTPStatus.OK if verdict.ready else HTTPStatus.SERVICE_UNAVAILABLE
            return web.json_response({"ready": verdict.ready, "reasons": verdict.reasons}, status=status)
        exchange = Exchange(
            Moment(asyncio.get_running_loop()), time.monotonic(), request_id(request), request.method, "-"
        )
        try:
            check = check_of(request, self._envoy_prefix)
            exchange.method, exchange.path = check.method, check.target.partition("?")[0]
            permit = await self.permit(check, exchange)
            if path == NGINX_REFUSAL_PATH:  # what was refused a moment ago would pass now; it is not said how
                raise CredentialUnavailable("The request was refused a moment ago; try again.", retry_after_seconds=1)
        except GatewayError as error:
            exchange.status, exchange.error = error.status, error.code
            response = refusal(error, exchange.request_id, nginx=path == NGINX_PATH)
        else:
            exchange.status = HTTPStatus.OK
            response = permission(permit)
        if path != NGINX_REFUSAL_PATH:  # that one was counted when it was refused
            self._note(exchange)
        return response

    def _note(self, exchange: Exchange) -> None:
        exchange.outcome = "complete"
        ended = time.monotonic()
        self._metrics.observe(exchange, ended)
        self._access_log.write(exchange, ended, time.time())

    # admin.GatewayView

    def healthy(self) -> bool:
        return True

    async def ready(self) -> Verdict:
        return self._readiness.judge(self._keyring.states(), draining=False)

    async def status(self) -> dict[str, Any]:
        config, kinds = self.file.config, self._keyring.kinds()
        return status_document(
            version=__version__,
            config_path=str(config.path),
            started=self._started,
            now=time.time(),
            verdict=await self.ready(),
            draining=False,
            routes=config.routes,
            credentials={name: (kinds[name], state) for name, state in self._keyring.states().items()},
            snapshot=self._snapshot(),
            reload_problems=self.file.problems,
        )

    async def metrics_text(self) -> tuple[bytes, str]:
        return render(self._snapshot())

    def _snapshot(self) -> Snapshot:
        snapshot = self._metrics.snapshot()
        snapshot["gauges"] |= self.file.gauges()
        return snapshot

    def _gauges(self) -> Gauges:
        return Gauges(credentials=self._keyring.states(), access_log_lines_dropped=self._access_log.dropped_lines)

    # Configuration

    async def _apply(self, config: Config, content: bytes) -> tuple[str, ...]:
        self._use(config)
        return ()

    def _use(self, config: Config) -> None:
        self._keyring.update(config)
        self._metrics.reconfigure([route.name for route in config.routes], list(config.credentials))
        self._table, self._callers = RouteTable(config.routes), Callers(config.callers)
        for caller in config.callers:
            if caller.certificate and not caller.token and not caller.networks:
                log.warning(
                    "caller '%s' is known by its certificate, which no check tells of: it is refused", caller.name
                )

    async def _read_again_forever(self) -> None:
        while True:
            await pause_before_reading_again()
            for warning in await asyncio.to_thread(self.file.config.secrets.refresh):
                log.warning("%s", warning)
            try:
                await self.file.look()
            except OSError as error:
                log.warning("the configuration file could not be looked at: %s", type(error).__name__)

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._access_log.flush()
