"""One configuration at work: what it decides about a request from its head alone."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import cors, limits, retry
from gateway.admission import Gate
from gateway.callers import Callers
from gateway.credentials.base import Credential
from gateway.errors import Loop
from gateway.exchange import Exchange
from gateway.inbound import Lines
from gateway.outbound import Outline
from gateway.routes import Route, RouteTable, check_method
from gateway.upstream import Upstream
from gateway.wire.request_head import RequestHead

if TYPE_CHECKING:
    from gateway.config import Caller

# As many as heads are remembered (wire.request_head): callers choose them.
_REMEMBERED_PLANS = 512


@dataclass(frozen=True, slots=True)
class Place:
    """Everything a route leads to."""

    credential: Credential
    upstream: Upstream
    clock: retry.ClockWatch
    gate: Gate


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request head leads to, whoever sends it, and when."""

    route: Route
    place: Place
    outline: Outline
    deadline_seconds: float
    deadline_setting: str  # what set it
    idle_seconds: float
    first_byte_seconds: float
    cors_lines: Lines | None  # what answers carry in place of the upstream's own; None: no CORS here


class Site:
    """A request keeps the one it began with; a reload puts another in its place."""

    __slots__ = ("_name", "_places", "_via", "_without", "callers", "plans", "table")

    def __init__(
        self,
        table: RouteTable,
        places: Mapping[str, Place],
        callers: Callers,
        name: str,
        *,
        without: Collection[bytes] = (),
    ) -> None:
        """``name`` is this gateway's own, the same in all its workers: it marks requests, so that a loop is seen.
        ``without`` are lower-case names of fields that somebody here writes anew."""
        self.table = table
        self.callers = callers
        self.plans: dict[int, Plan] = {}  # by the number of a head that is remembered
        self._places = places
        self._name = f"modelarts-gateway-{name}".encode()
        self._via = b"1.1 " + self._name
        self._without = without

    def plan(self, head: RequestHead, caller: "Caller | None", exchange: Exchange) -> Plan:
        """Where a head leads: decided once, for programs send the same head again and again. ``exchange`` notes the route.

        Whether the caller may go there is asked each time; None is for a gateway that knows no callers.

        Raises:
            BadPath, RouteNotFound, OriginNotAllowed, MethodNotAllowed, Loop, BadRequest: nowhere.
            CallerNotAllowed: not for this caller.
        """
        plan = self.plans.get(head.number)
        if plan is not None:
            exchange.route = plan.route.name
            if caller is not None:
                self.callers.check(caller, plan.route.name)
            return plan
        plan = self._decide(head, caller, exchange)
        if head.number:
            if len(self.plans) >= _REMEMBERED_PLANS:
                self.plans.clear()
            self.plans[head.number] = plan
        return plan

    def _decide(self, head: RequestHead, caller: "Caller | None", exchange: Exchange) -> Plan:
        noted = head.fields.noted
        match = self.table.match(head.raw_path)
        route = match.route
        exchange.route = route.name
        origin = noted.get(b"origin")
        if origin is not None:
            cors.check_origin(route, origin)
        elif b"sec-fetch-site" in noted:
            cors.check_fetch_site(route, noted[b"sec-fetch-site"])
        check_method(route, head.method)
        if caller is not None:  # who may not use a route hears that, whatever else is wrong
            self.callers.check(caller, route.name)
        if self._name in noted.get(b"via", b""):
            raise Loop("The request has been through this gateway already: an upstream leads back here.")
        bounds = route.limits
        seconds, setting = bounds.deadline_seconds, "limits.deadline"
        wished = limits.wished_seconds(noted)
        if wished is not None and (seconds is None or wished < seconds):
            seconds, setting = wished, "X-Request-Timeout"
        return Plan(
            route,
            self._places[route.name],
            Outline(head, match, self._via, without=self._without),
            _or_endless(seconds),
            setting,
            _or_endless(bounds.idle_seconds),
            _or_endless(bounds.first_byte_seconds),
            None if route.cors is None else cors.answer_lines(route, origin),
        )


def _or_endless(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds
