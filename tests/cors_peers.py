"""Our gateway and an application with aiohttp-cors under the same policies, and what a browser makes of each."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import aiohttp_cors
from aiohttp import web
from fake_modelarts import FakeModelArts, says
from fetch_standard import Asked, may_read, may_send, readable, remembered_seconds
from raw_caller import Caller, Reply, ask
from running import Document, document, route

EXPOSED = ("X-Request-Id", "X-Gateway-Request-Id", "Retry-After", "Proxy-Status")
PROBED = (*EXPOSED, "Content-Type", "X-Upstream", "Set-Cookie")
UPSTREAM = says("200 OK", b"ok", "X-Upstream: 1", "Retry-After: 1", "Set-Cookie: a=b", "Content-Type: text/plain")


@dataclass(frozen=True)
class Policy:
    """One route's settings, for both. Without ``methods`` it takes all of them."""

    name: str
    origins: tuple[str, ...] = ()
    headers: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ()
    credentials: bool = False
    max_age: int = 600

    def route(self, upstream: str) -> Document:
        more: Document = {"methods": [*self.methods]} if self.methods else {}
        if self.origins:
            more["cors"] = {
                "origins": [*self.origins],
                "headers": [*self.headers],
                "credentials": self.credentials,
                "max_age": f"{self.max_age}s",
            }
        return route(self.name, upstream, **more)

    def options(self) -> dict[str, aiohttp_cors.ResourceOptions]:
        options = aiohttp_cors.ResourceOptions(
            allow_credentials=self.credentials,
            expose_headers=EXPOSED,
            allow_headers="*" if "*" in self.headers else self.headers,
            max_age=self.max_age,
            allow_methods=self.methods or "*",
        )
        return dict.fromkeys(self.origins, options)


@dataclass(frozen=True)
class Case:
    policy: Policy
    asked: Asked
    origins: tuple[str, ...]
    lines: tuple[str, ...] = ()

    @property
    def one_origin(self) -> bool:
        return len(self.origins) == 1

    @property
    def open(self) -> bool:
        return "*" in self.policy.origins

    @property
    def named(self) -> bool:
        """The route names the origin that came first."""
        return self.open or self.asked.origin in self.policy.origins

    @property
    def takes_method(self) -> bool:
        return not self.policy.methods or self.asked.method in self.policy.methods

    @property
    def fits(self) -> bool:
        """Origin, headers and credentials are what the route says."""
        allowed = {name.lower() for name in self.policy.headers}
        headers = "*" in allowed or self.asked.unsafe_names <= allowed
        return self.named and headers and (self.policy.credentials or not self.asked.credentials)


class Outcome(NamedTuple):
    """What comes of a page's request: ``not sent``; or refused or served, and the answer read by the page or not."""

    word: str
    status: int | None = None
    readable: frozenset[str] = frozenset()
    remembered_seconds: int | None = None


@dataclass
class Side:
    """One of the two, asked over a connection that is kept; what was asked before is not asked again."""

    port: int
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _caller: Caller | None = None
    _known: dict[bytes, Reply] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _ask(self, method: str, target: str, fields: list[tuple[str, str]]) -> Reply:
        lines = [
            f"{method} {target} HTTP/1.1",
            "Host: gateway.example",
            *(f"{name}: {value}" for name, value in fields),
        ]
        data = "\r\n".join([*lines, "", ""]).encode()
        if data not in self._known:
            if self._caller is None:
                self._caller = await self._stack.enter_async_context(Caller(self.port))
            await self._caller.send(data)
            reply = await self._caller.reply(to_head=method == "HEAD")
            if reply.status == 400 or (reply.get("Connection") or "").lower() == "close":
                self._caller = None
            self._known[data] = reply
        return self._known[data]

    async def outcome(self, case: Case) -> Outcome:
        """What a browser makes of the answers."""
        asked, target = case.asked, f"/{case.policy.name}/x"
        origin = [("Origin", line) for line in case.origins]
        remembered = None
        if asked.needs_preflight:
            fields = [*origin, ("Access-Control-Request-Method", asked.method)]
            fields += [("Access-Control-Request-Headers", line) for line in case.lines]
            preflight = await self._ask("OPTIONS", target, fields)
            if not may_send(asked, preflight):
                return Outcome("not sent")
            remembered = remembered_seconds(preflight)
        fields = [*origin, *((name, "1") for name in sorted(asked.unsafe_names)), ("Content-Length", "0")]
        reply = await self._ask(asked.method, target, fields)
        word = "served" if reply.status == 200 else "refused"
        if not may_read(asked, reply):
            return Outcome(f"{word}, not read", remembered_seconds=remembered)
        return Outcome(f"{word}, read", reply.status, readable(asked, reply, PROBED), remembered)


class Library(NamedTuple):
    port: int
    served: list[str]  # the paths that were asked of the application

    async def ask(self, method: str, target: str, fields: dict[str, str] | None = None) -> Reply:
        return await ask(self.port, method, target, fields)


@contextlib.asynccontextmanager
async def library(policies: tuple[Policy, ...], **answer: str) -> AsyncIterator[Library]:
    """An application with aiohttp-cors and these policies; ``answer`` are fields it answers with."""
    served: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        if "Access-Control-Request-Method" not in request.headers:  # where there is no CORS, preflights get here too
            served.append(request.path)
        fields = {name.replace("_", "-"): value for name, value in answer.items()}
        return web.Response(text="ok", headers={"X-Upstream": "1", "Retry-After": "1", "Set-Cookie": "a=b", **fields})

    application = web.Application()
    cors = aiohttp_cors.setup(application)
    for policy in policies:
        resource = application.router.add_resource(f"/{policy.name}/{{rest:.*}}")
        if policy.origins:
            cors.add(resource, policy.options())
        for method in policy.methods or ("*",):
            resource.add_route(method, handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Library(runner.addresses[0][1], served)
    finally:
        await runner.cleanup()


def routes(fake: FakeModelArts, policies: tuple[Policy, ...]) -> Document:
    return document(*(policy.route(fake.url) for policy in policies))
