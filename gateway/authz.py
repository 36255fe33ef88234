"""Authorisation for somebody else's data plane: Envoy or nginx asks about each request, and adds what it is told.

No body comes here. A check names method, path and fields of a caller's request; the answer is 200 with the header fields
to add and the path and host to send them to, or the gateway's own refusal. Nothing is 200 by default.
"""

import asyncio
import logging
import os
import re
import socket
import time
from http import HTTPStatus
from typing import NamedTuple

from aiohttp import web
from multidict import CIMultiDict

from gateway import cors
from gateway.admin import Readiness
from gateway.body import Body, Budget
from gateway.callers import Callers
from gateway.config import Config
from gateway.credentials.base import Services
from gateway.deadline import Deadline
from gateway.errors import (
    REASONS,
    BadRequest,
    CredentialUnavailable,
    GatewayError,
    error_body,
    error_fields,
)
from gateway.exchange import Exchange
from gateway.headers import CALLER_CREDENTIAL_PREFIXES, CALLER_CREDENTIALS
from gateway.inbound import Fields, Peer
from gateway.keyring import Keyring
from gateway.outbound import Outbound, prepare
from gateway.reload import ConfigFile
from gateway.routes import RouteTable, check_method
from gateway.serving import pause_before_reading_again, watched
from gateway.story import Moment
from gateway.wire.heads import parse_request

log = logging.getLogger(__name__)

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
# As long as `serve` waits for a token; Envoy's and nginx's own timeouts in deploy/ are longer.
_WAIT_SECONDS = 5.0
# As `process.head_bytes` is by default; a request head that the data plane took must not fail here.
_HEAD_BYTES = 64 * 1024
_VIA = b"1.1 modelarts-gateway"
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

    def __init__(self, config: Config, content: bytes, *, envoy_prefix: str = "/envoy") -> None:
        """``envoy_prefix`` stands before the path of Envoy's checks (its ``path_prefix``)."""
        self._envoy_prefix = envoy_prefix
        self._keyring = Keyring(Services(time.time, time.monotonic, asyncio.sleep, lambda _name, _outcome: None))
        self._readiness = Readiness()
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

    async def start(self, sock: socket.socket) -> None:
        """Answer on a bound socket, obtain credentials in the background, keep files fresh."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()
        self._keyring.start()
        self._tasks = [watched(self._read_again_forever(), "read-again", self.failed)]

    async def close(self) -> None:
        """Finish what is being answered, within 5 seconds, and close everything."""
        await self._runner.cleanup()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._keyring.close()

    async def permit(self, check: Check) -> Permit:
        """What to add to a request, in the order in which `serve` decides.

        Raises:
            GatewayError: the request may not go; the error is the caller's answer.
        """
        head = parse_request(check.head())  # 400, 405, 501
        noted = head.fields.noted
        table, callers = self._table, self._callers
        caller = callers.identify(noted.items(), Peer(check.address))  # 401
        match = table.match(head.raw_path)  # 400, 404
        route = match.route
        if b"origin" in noted:
            cors.check_origin(route, noted[b"origin"])  # 403
        elif b"sec-fetch-site" in noted:
            cors.check_fetch_site(route, noted[b"sec-fetch-site"])  # 403
        check_method(route, head.method)  # 405
        callers.check(caller, route.name)  # 403
        moment = Moment(asyncio.get_running_loop())
        now = time.monotonic()
        body = _Elsewhere(
            _Source(head.content_length, chunked=head.chunked, moment=moment),
            Exchange(moment, now, "-", head.method, head.raw_path),
            self._budget,
            route=route.name,
            limit_bytes=route.limits.body_bytes,
            replay_bytes=0,
        )  # 413
        outbound = prepare(head, match, body, "-", _VIA)  # 400
        await self._keyring.of(route.credential).authorize(outbound, Deadline.after(_WAIT_SECONDS, now))  # 503
        fields = _to_set(outbound)
        return Permit(route.name, outbound.target, outbound.authority, fields, _to_remove(check.fields, fields))

    # The door

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path
        if path == "/healthz":
            return web.Response(text="ok\n")
        if path == "/readyz":
            verdict = self._readiness.judge(self._keyring.states(), draining=False)
            status = HTTPStatus.OK if verdict.ready else HTTPStatus.SERVICE_UNAVAILABLE
            return web.json_response({"ready": verdict.ready, "reasons": verdict.reasons}, status=status)
        request_id = _request_id(request)
        try:
            permit = await self.permit(self._check_of(request))
            if path == NGINX_REFUSAL_PATH:  # what was refused a moment ago would pass now; it is not said how
                raise CredentialUnavailable("The request was refused a moment ago; try again.", retry_after_seconds=1)
        except GatewayError as error:
            return _refusal(error, request_id, nginx=path == NGINX_PATH)
        return _permission(permit)

    def _check_of(self, request: web.BaseRequest) -> Check:
        """Raises BadRequest: this is no check, or it leaves out or repeats what the data plane has to say."""
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
        target = request.raw_path.removeprefix(self._envoy_prefix)
        if target == request.raw_path or not target.startswith("/"):
            raise BadRequest(
                f"This is neither a check of Envoy's (path_prefix: {self._envoy_prefix}) nor of nginx's ({NGINX_PATH})."
            )
        return Check(request.method, target, fields, address, length, coding)

    # Configuration

    async def _apply(self, config: Config, content: bytes) -> tuple[str, ...]:
        self._use(config)
        return ()

    def _use(self, config: Config) -> None:
        self._keyring.update(config)
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


def _to_set(outbound: Outbound) -> Fields:
    """The credential, and X-Stage where it was signed; the data plane writes its own Via and X-Request-Id."""
    return [(name, value) for name, value in outbound.fields if name not in (b"Via", b"X-Request-Id")]


def _to_remove(came: Fields, written: Fields) -> tuple[str, ...]:
    """Every credential name a caller could use, and those that this one did, but for what is written anew.

    Envoy removes after it has written, so a name must not be in both.
    """
    names = {lower for name, _ in came if _is_credential(lower := name.lower())}
    names |= CALLER_CREDENTIALS | {b"x-stage"}
    return tuple(sorted(name.decode() for name in names - {name.lower() for name, _ in written}))


def _permission(permit: Permit) -> web.Response:
    headers = CIMultiDict((name.decode(), value.decode()) for name, value in permit.fields)
    headers["X-Gateway-Route"] = permit.route
    headers["X-Gateway-Path"] = permit.target
    headers["X-Gateway-Host"] = permit.authority
    headers["X-Envoy-Auth-Headers-To-Remove"] = ",".join(permit.removed)
    headers["Cache-Control"] = "no-store"
    return web.Response(status=HTTPStatus.OK, headers=headers)


def _refusal(error: GatewayError, request_id: str, *, nginx: bool) -> web.Response:
    """The gateway's own answer; nginx knows 401 and 403 alone, and asks the other path for the rest."""
    headers = CIMultiDict((name.decode(), value.decode()) for name, value in error_fields(error, request_id))
    status = error.status if not nginx or error.status == HTTPStatus.UNAUTHORIZED else HTTPStatus.FORBIDDEN
    return web.Response(
        status=status, reason=REASONS.get(int(status)), headers=headers, body=error_body(error, request_id)
    )


def _request_id(request: web.BaseRequest) -> str:
    theirs = next((value for name, value in request.raw_headers if name.lower() == b"x-request-id"), b"")
    return theirs.decode() if _REQUEST_ID.fullmatch(theirs) else os.urandom(16).hex()
