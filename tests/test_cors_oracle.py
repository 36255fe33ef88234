"""Our CORS beside aiohttp-cors: the same requests to both, judged as a browser judges."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import aiohttp_cors
import pytest
from aiohttp import web
from cors_peers import EXPOSED, PROBED, UPSTREAM, Case, Policy, Side, library, routes
from fake_modelarts import FakeModelArts, says
from fetch_standard import SAFELISTED_METHODS, Asked, may_read, may_send, readable
from raw_caller import CutOff
from running import StartGateway, document, free_port

from gateway.config import ConfigProblems

PAGE = "https://console.example.com"
PORT = "https://console.example.com:8443"
EVIL = "https://evil.example"
POLICIES = (
    Policy("closed"),
    Policy("listed", (PAGE, PORT), ("Content-Type", "X-Trace"), ("GET", "PUT", "PATCH"), max_age=60),
    Policy("trusted", (PAGE,), credentials=True),
    Policy("trusted-listed", (PAGE,), ("Authorization", "x-trace"), ("POST", "DELETE"), credentials=True),
    Policy("open", ("*",), max_age=0),
    Policy("open-listed", ("*",), ("X-Trace",), ("GET", "HEAD", "PUT")),
)
# The lines of Origin. A browser sends exactly one; where there are two, the first is taken for its own.
ORIGINS = (
    (PAGE,),
    (PORT,),
    (EVIL,),
    ("null",),
    ("",),
    (PAGE.upper(),),
    (f"{PAGE}/",),
    (f"{PAGE}:443",),
    (f"{PAGE}.evil.example",),
    (PAGE, EVIL),
    (PAGE, PAGE),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "patch", "OPTIONS")
# The lines of Access-Control-Request-Headers.
HEADERS: tuple[tuple[str, ...], ...] = (
    (),
    ("x-trace",),
    ("Content-TYPE,X-TRACE",),
    ("x-trace,x-other",),
    ("authorization",),
    (",".join(f"x-{number}" for number in range(40)),),
    ("",),
    (" , \t, x-trace \t,",),
    ("x-trace", "content-type"),
)


def cases() -> Iterator[Case]:
    for policy, origins, method, lines in itertools.product(POLICIES, ORIGINS, METHODS, HEADERS):
        names = {part.strip(" \t").lower() for line in lines for part in line.split(",")} - {""}
        for credentials in (False, True):
            yield Case(policy, Asked(origins[0], method, frozenset(names), credentials), origins, lines)


class Deviation(NamedTuple):
    """A difference that is meant: exactly where, what it is (ours, theirs), and why."""

    reason: str
    applies: Callable[[Case], bool]
    outcomes: set[tuple[str, str]]


DEVIATIONS = {
    "a page that is not named is not served": Deviation(
        "The library lets its simple request through and hides the answer; but here the request spends a credential.",
        lambda case: (
            not case.asked.needs_preflight
            and case.takes_method
            and not case.open
            and not (case.named and case.one_origin)
            and not (case.fits and not case.one_origin)
        ),
        {("refused, not read", "served, not read")},
    ),
    "two Origin fields name no page": Deviation(
        "The library believes the first. No browser sends two, so somebody in between has added one.",
        lambda case: not case.one_origin and case.fits and case.takes_method and len(case.lines) < 2,
        {
            ("not sent", "served, read"),
            ("not sent", "refused, not read"),  # OPTIONS, and "patch" which no server of aiohttp takes
            ("refused, not read", "served, read"),
            ("served, not read", "served, read"),  # open to everybody
        },
    ),
    "a list of headers may come on two lines": Deviation(
        "They mean what one line means (RFC 9110 section 5.3); the library reads the first.",
        lambda case: len(case.lines) > 1 and case.one_origin and case.fits and case.takes_method,
        {("served, read", "not sent"), ("refused, not read", "not sent")},  # the second is "patch", our 501
    ),
    "a method that the route does not take is refused in words": Deviation(
        "Browsers send GET, HEAD and POST whatever a preflight says of methods. Our 405 names the setting and can be "
        "read; the library refuses the preflight, and its 405 cannot be read.",
        lambda case: (
            case.one_origin and case.fits and not case.takes_method and case.asked.method in SAFELISTED_METHODS
        ),
        {("refused, read", "not sent"), ("refused, read", "refused, not read")},
    ),
    "methods differ by case": Deviation(
        "'patch' is not PATCH (RFC 9110 section 9.1), and nobody here serves it; the library lets it be sent.",
        lambda case: (
            case.asked.method == "patch" and "PATCH" in case.policy.methods and case.fits and len(case.lines) < 2
        ),
        {("not sent", "refused, not read")},
    ),
    "a page may ask OPTIONS itself": Deviation(
        "What is no preflight is the upstream's to answer; the library takes every OPTIONS for one and refuses it.",
        lambda case: (
            case.asked.method == "OPTIONS"
            and case.one_origin
            and case.fits
            and case.takes_method
            and len(case.lines) < 2
        ),
        {("served, read", "refused, not read")},
    ),
}


async def test_nothing_is_lost(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A page may send, read and remember with us what it may with aiohttp-cors, but for the deviations that are named."""
    fake.behaviour = UPSTREAM
    gateway = await start_gateway(routes(fake, POLICIES))
    found: dict[str, set[tuple[str, str]]] = {name: set() for name in DEVIATIONS}
    both_read = 0

    async with library(POLICIES) as peer, Side(gateway.port) as ours, Side(peer.port) as theirs:
        for case in cases():
            mine, other = await ours.outcome(case), await theirs.outcome(case)
            names = [name for name, deviation in DEVIATIONS.items() if deviation.applies(case)]
            if mine == other:
                assert names == [], case
                both_read += mine.word == "served, read"
            else:
                assert len(names) == 1, (names, case, mine, other)
                found[names[0]].add((mine.word, other.word))

    assert found == {name: deviation.outcomes for name, deviation in DEVIATIONS.items()}
    assert both_read > 500


async def test_star_with_credentials(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """The library would let every page in the world read what its visitor may; here that is no configuration."""
    policies = (Policy("any", ("*",), credentials=True),)

    async with library(policies) as peer:
        reply = await peer.ask("GET", "/any/x", {"Origin": EVIL})
    with pytest.raises(ConfigProblems, match="would let every web page act for its visitor"):
        await start_gateway(routes(fake, policies))

    assert may_read(Asked(EVIL, "GET", credentials=True), reply)


# What aiohttp-cors does not do for a proxy, and we do: each shown on it, and on us.


async def test_a_route_that_takes_every_method(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """The library refuses a '*' handler on a plain route; a route of ours without ``methods`` preflights them all."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response()

    application = web.Application()
    plain = application.router.add_route("*", "/x", handler)
    with pytest.raises(ValueError, match="already has a '\\*' handler"):
        aiohttp_cors.setup(application).add(plain)
    gateway = await start_gateway(routes(fake, POLICIES))

    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
        asked = Asked(PAGE, method, frozenset({"authorization"}), credentials=True)
        fields = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization"}
        preflight = await gateway.ask("OPTIONS", "/trusted/x", {"Origin": PAGE, **fields})
        reply = await gateway.ask(method, "/trusted/x", {"Origin": PAGE, "Authorization": "1"})
        assert may_send(asked, preflight), method
        assert may_read(asked, reply), method
        assert (reply.status, fake.last.method) == (200, method)


async def test_caches_are_told(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """``Vary: Origin`` on every answer of a CORS route, with an Origin and without; the library never says it."""
    gateway = await start_gateway(routes(fake, POLICIES))
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "PUT"}
    asks = [("GET", {"Origin": PAGE}), ("GET", {"Origin": EVIL}), ("GET", {}), ("OPTIONS", preflight), ("POST", {})]

    async with library(POLICIES) as peer:
        for method, fields in asks:
            ours = await gateway.ask(method, "/listed/x", fields)
            theirs = await peer.ask(method, "/listed/x", fields)
            assert "Origin" in ours.all("Vary"), (method, fields)
            assert theirs.all("Vary") == [], (method, fields)


async def test_an_upstream_that_answers_pages_itself(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Its CORS fields break the library's answer off; ours replaces them, so that it cannot widen the route."""
    fake.behaviour = says(
        "200 OK", b"x", "Access-Control-Allow-Origin: *", "ACCESS-CONTROL-EXPOSE-HEADERS: *", "X-Upstream: 1"
    )
    gateway = await start_gateway(routes(fake, POLICIES))

    async with library(POLICIES, Access_Control_Allow_Origin="*") as peer:
        with pytest.raises(CutOff):
            await peer.ask("GET", "/trusted/x", {"Origin": PAGE})
    page = await gateway.ask("GET", "/trusted/x", {"Origin": PAGE})
    foreign = await gateway.ask("GET", "/trusted/x", {"Origin": EVIL})

    asked = Asked(PAGE, "GET", credentials=True)
    assert may_read(asked, page)
    assert readable(Asked(PAGE, "GET"), page, PROBED) == {*EXPOSED, "Content-Type"}
    assert not may_read(Asked(EVIL, "GET"), foreign)


async def test_options_and_head_of_programs(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """OPTIONS without an Origin reaches the upstream, and HEAD wherever ``methods`` has it; the library answers 403."""
    gateway = await start_gateway(routes(fake, POLICIES))

    async with library(POLICIES) as peer:
        refused = await peer.ask("OPTIONS", "/open/x")
    asked = [
        await gateway.ask("OPTIONS", "/open/x"),
        await gateway.ask("OPTIONS", "/open/x", {"Access-Control-Request-Method": "PUT"}),
        await gateway.ask("HEAD", "/open/x"),
        await gateway.ask("HEAD", "/open-listed/x"),
    ]

    assert (refused.status, [reply.status for reply in asked]) == (403, [200] * 4)
    assert [received.method for received in fake.received] == ["OPTIONS", "OPTIONS", "HEAD", "HEAD"]


async def test_refusals_can_be_read(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A named page reads 404, 405 and 502 of its route; of a path without route nobody has said who may read."""
    gone = Policy("gone", (PAGE,)).route(f"http://127.0.0.1:{free_port()}")
    gateway = await start_gateway(document(*(policy.route(fake.url) for policy in POLICIES), gone))
    fake.behaviour = says("404 Not Found", b"no such model")
    asked = Asked(PAGE, "GET")

    async with library(POLICIES) as peer:
        for method, target in (("DELETE", "/listed/x"), ("GET", "/nowhere/x")):
            assert not may_read(asked, await peer.ask(method, target, {"Origin": PAGE}))
    replies = [
        await gateway.ask(method, target, {"Origin": PAGE})
        for method, target in (("GET", "/listed/x"), ("DELETE", "/listed/x"), ("GET", "/gone/x"), ("GET", "/nowhere/x"))
    ]

    assert [reply.status for reply in replies] == [404, 405, 502, 404]
    assert [may_read(asked, reply) for reply in replies] == [True, True, True, False]
    assert {"Proxy-Status", "X-Gateway-Request-Id"} <= readable(asked, replies[1], PROBED)
