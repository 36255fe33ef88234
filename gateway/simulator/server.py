"""The simulator itself: one port for every service family, one more for the admin paths."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from aiohttp import web

from gateway.simulator import models
from gateway.simulator.admin import admin_application
from gateway.simulator.answers import Answer, Refused
from gateway.simulator.chat import Chat
from gateway.simulator.counters import Counters
from gateway.simulator.exchange import Disrupted, Exchange
from gateway.simulator.faults import HEADER, Plan
from gateway.simulator.gate import Gate
from gateway.simulator.iam import Iam
from gateway.simulator.keys import POD_PATH, KeyIssuer
from gateway.simulator.options import Options, credentials_of
from gateway.simulator.places import SERVICES, Family, Place, find
from gateway.simulator.received import HEAD_BYTES, Body, read_body
from gateway.simulator.tokens import Tokens

# IAM's own limit is not published; a token request is a few hundred bytes.
_IAM_BODY_BYTES = 1024 * 1024
# What is left of an answered request's body is read for this long before the connection ends.
_LINGER_SECONDS = 10.0


class Simulator:
    """IAM, API Gateway and ModelArts services on loopback, checking what they are sent.

    ``wall`` gives Unix time in seconds; ``clock_offset_seconds`` is added to it, so that clocks can disagree.
    An asynchronous context manager: it listens inside ``async with``.
    """

    def __init__(self, options: Options | None = None, *, wall: Callable[[], float] = time.time) -> None:
        self.options = options or Options()
        self.clock_offset_seconds = 0.0
        self.counters = Counters()
        self.faults = Plan()
        self.tokens = Tokens(self.now)
        self.keys = KeyIssuer(self.options, self.counters, self.now)
        self.gate = Gate(self.options, self.tokens, self.keys, self.now)
        self.iam = Iam(self.options, self.tokens, self.counters, self.now)
        self.urls: dict[str, str] = {}
        self._chat = Chat(self.options)
        self._wall = wall
        self._runners: list[web.BaseRunner] = []

    def now(self) -> float:
        return self._wall() + self.clock_offset_seconds

    @property
    def credentials(self) -> dict[str, str]:
        """What is accepted, by name."""
        return credentials_of(self.options)

    @property
    def state(self) -> dict[str, Any]:  # Any: JSON
        """Counters, the last request, locks and the clock, as the admin path shows them."""
        return {
            **self.counters.snapshot(),
            "locked": {"access_keys": self.gate.locks.names(), "users": self.iam.locks.names()},
            "clock_offset_seconds": self.clock_offset_seconds,
        }

    def accept(self, **changes: Any) -> None:
        """Take other credentials from now on, by their names in ``Options``; tokens obtained with a password that changed
        die, as IAM's do.

        Raises:
            TypeError: there is no such option.
        """
        if "password" in changes and changes["password"] != self.options.password:
            self.tokens.revoke_all()
        self.options = replace(self.options, **changes)
        self.gate.options = self.iam.options = self.keys.options = self.options

    def clear_locks(self) -> None:
        self.gate.locks.clear()
        self.iam.locks.clear()

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, admin_port: int | None = None, admin_host: str | None = None
    ) -> None:
        """Listen; port 0 is any free one, and the admin paths are on the next port of the same host unless given.

        Raises:
            OSError: a port is taken, or the address is not ours.
        """
        server = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,  # sizes, hashes and signatures are about the bytes received
            max_line_size=2 * HEAD_BYTES,  # 414 and 494 are ours to say
            max_field_size=2 * HEAD_BYTES,
            lingering_time=_LINGER_SECONDS,
        )
        if admin_port is None:
            admin_port = port + 1 if 0 < port < 65535 else 0
        try:
            bound = await self._listen(web.ServerRunner(server, shutdown_timeout=0.1), host, port)
            admin = web.AppRunner(admin_application(self), access_log=None, shutdown_timeout=0.1)
            bound_admin = await self._listen(admin, admin_host or host, admin_port)
        except OSError:
            await self.stop()
            raise
        base = f"http://{bound}"
        self.urls = {
            "iam": base,
            **{family.value: base + path for family, path in SERVICES.items()},
            "maas": base,
            "openai": f"{base}/v1",
            "metadata": base,
            "pod": base + POD_PATH,
            "admin": f"http://{bound_admin}",
        }

    async def stop(self) -> None:
        """Stop listening and cut what is left."""
        while self._runners:
            await self._runners.pop().cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _listen(self, runner: web.BaseRunner, host: str, port: int) -> str:
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound_host, bound_port = runner.addresses[0][:2]
        return f"[{bound_host}]:{bound_port}" if ":" in bound_host else f"{bound_host}:{bound_port}"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        exchange = Exchange(request, self.now)
        self.counters.in_flight += 1
        try:
            try:
                return await self._answer(exchange)
            except Disrupted as disrupted:
                await exchange.disrupt(disrupted.how)
        except asyncio.CancelledError:
            self.counters.left += not exchange.ended_by_us
            raise
        finally:
            self.counters.in_flight -= 1

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        """Answer within the family's time; a refusal is an answer, too."""
        try:
            async with asyncio.timeout(None) as limit:
                try:
                    return await self._story(exchange, limit)
                finally:
                    exchange.chunk_sent = lambda: None  # a refusal is sent when the limit has ended
        except Refused as refused:
            self.counters.refused[refused.code] += 1
            return await exchange.send(refused.answer(exchange.request_id))
        except TimeoutError:
            if exchange.head_sent:
                raise Disrupted("close") from None
            late = _late(exchange.family)
            self.counters.refused[late.code] += 1
            return await exchange.send(late.answer(exchange.request_id))

    async def _story(self, exchange: Exchange, limit: asyncio.Timeout) -> web.StreamResponse:
        head = exchange.head
        self._last(exchange, "none", None)
        place = self._place(exchange)  # 404
        self._start_clock(exchange, place.family, limit)  # 504
        head.check_sizes()  # 414, 494
        exchange.faults = self.faults.take(place.family, head.target.decode("latin-1"), head.get(HEADER))
        self.counters.faults.update(exchange.faults.words)
        admission = self.gate.admit(place.family, head)  # 401 and relatives
        if exchange.faults.early:
            await _happen(exchange)
        body = await self._read(exchange, place)  # 413
        self.gate.settle(place.family, admission, head, body)  # 401
        if not place.family.issues:
            self.counters.accepted[admission.kind] += 1
        self._last(exchange, admission.kind, body)
        if not exchange.faults.early:
            await _happen(exchange)
        if place.path == "/ws":
            if place.family.is_v1:
                limit.reschedule(None)  # the time limit ends with the handshake
            return await exchange.websocket()
        return await exchange.send(self._serve(exchange, place, admission.kind, body))

    def _place(self, exchange: Exchange) -> Place:
        try:
            place = find(exchange.head.path)
        except Refused:
            self.counters.requests["-"] += 1
            raise
        exchange.family = place.family
        self.counters.requests[place.family] += 1
        if place.family is Family.IAM:
            self.counters.iam_requests_at.append(self.now())
        if place.family.is_v1 and exchange.head.method == "OPTIONS":
            # A preflight finds nothing where cross-origin access is off (API Gateway user guide, "Error Codes").
            raise Refused(404, "APIG.0101", "The API does not exist or has not been published in the environment.")
        return place

    def _start_clock(self, exchange: Exchange, family: Family, limit: asyncio.Timeout) -> None:
        """v1: one time for upload, model and answer. v2: to the first chunk, and again from each. IAM, MaaS: none."""
        loop = asyncio.get_running_loop()
        if family.is_v1:
            limit.reschedule(loop.time() + self.options.deadline_seconds)
        elif family.is_v2:
            limit.reschedule(loop.time() + self.options.v2_chunk_seconds)
            exchange.chunk_sent = lambda: limit.reschedule(loop.time() + self.options.v2_chunk_seconds)

    async def _read(self, exchange: Exchange, place: Place) -> Body:
        limit_bytes, too_large = self.options.v2_body_bytes, _too_large("ModelArts.4104")
        if place.family.is_v1:
            limit_bytes, too_large = self.options.body_bytes, _too_large("APIG.0201")
        elif place.family.issues:
            limit_bytes = _IAM_BODY_BYTES
        return await read_body(exchange.request, limit_bytes, too_large, keep=place.path not in {"/echo", "/ws"})

    def _serve(self, exchange: Exchange, place: Place, kind: str, body: Body) -> Answer:
        head = exchange.head
        if place.family is Family.IAM:
            return self.iam.answer(head, place.path, body.content, exchange.faults.deviation)
        if place.family is Family.METADATA:
            return self.keys.metadata(head, place.path, exchange.faults.deviation)
        if place.family is Family.POD:
            return self.keys.pod(head, exchange.faults.deviation)
        match place.path:
            case "/echo":
                return models.echo(head, place.family, kind, body)
            case "/v1/models":
                return self._chat.models()
            case "/v1/chat/completions":
                return self._chat.complete(head.method, body.content, exchange.request_id)
            case "/anthropic/v1/messages":
                return self._chat.message(head.method, body.content, exchange.request_id)
            case _:
                return models.answer(head, place.path, body)

    def _last(self, exchange: Exchange, kind: str, body: Body | None) -> None:
        family = exchange.family or "-"
        self.counters.last_request = models.received(exchange.head, family, kind, body or Body(0, "", b""))


async def _happen(exchange: Exchange) -> None:
    """Let the faults happen that come before an answer or take its place."""
    await asyncio.sleep(exchange.faults.slow_seconds)
    if exchange.faults.instead is not None:
        raise Disrupted(exchange.faults.instead)
    refusal = exchange.faults.refusal(exchange.family or "-")
    if refusal is not None:
        raise refusal


def _too_large(code: str) -> Refused:
    # nginx says it and ends the connection: the rest of the body is not wanted.
    return Refused(413, code, "Request entity too large.", close=True)


def _late(family: Family | None) -> Refused:
    if family is not None and family.is_v2:
        return Refused(504, "CF2.E00003", "The response of the service timed out.")
    return Refused(504, "APIG.0201", "Backend timeout.", close=True)
