"""Chromium beside our reading of the Fetch Standard, and on pages in front of the gateway and of aiohttp-cors."""

import itertools

from chromium import needs_chromium, open_browser
from cors_peers import PROBED, UPSTREAM, Case, Policy, Side, library, routes
from fake_modelarts import Call, FakeModelArts, says
from fetch_standard import Asked, may_read, may_send, readable
from playwright.async_api import Page
from raw_caller import ask
from running import StartGateway

pytestmark = needs_chromium

FETCH_ALL = """asks => Promise.all(asks.map(async ({url, method, headers, credentials}) => {
    try {
        const answer = await fetch(url, {method, headers, credentials});
        return [answer.status, [...answer.headers.keys()]];
    } catch {
        return null;
    }
}))"""


async def fetched(page: Page, port: int, cases: list[Case]) -> list[tuple[int, list[str]] | None]:
    """What the page gets to see: status and names of fields, None where it sees nothing.

    Each case has a path of its own, because a browser remembers preflights by it.
    """
    asks = [
        {
            "url": f"http://127.0.0.1:{port}/{case.policy.name}/{number}",
            "method": case.asked.method,
            "headers": dict.fromkeys(case.asked.unsafe_names, "1"),
            "credentials": "include" if case.asked.credentials else "omit",
        }
        for number, case in enumerate(cases)
    ]
    seen: list[tuple[int, list[str]] | None] = await page.evaluate(FETCH_ALL, asks)
    return seen


# What a server may say of itself: the preflight's status, and fields of it and of the answer; ``ORIGIN`` is the page's.
SAID = (
    ("200 OK", "Origin: *"),
    ("200 OK", "Origin: *", "Methods: *", "Headers: *"),
    ("200 OK", "Origin: *", "Methods: *", "Headers: *, authorization", "Expose-Headers: *"),
    ("200 OK", "Origin: ORIGIN", "Methods: *", "Headers: *, Authorization", "Credentials: true", "Expose-Headers: *"),
    ("204 No Content", "Origin: ORIGIN", "Methods: PUT", "Headers: X-TRACE", "Headers: Authorization"),
    ("204 No Content", "Origin: ORIGIN", "Methods: PUT", "Headers: x-trace,, authorization ,", "Credentials: true"),
    ("204 No Content", "Origin: ORIGIN", "Methods: PUT", "Headers: x-trace, authorization", "Credentials: TRUE"),
    ("204 No Content", "Origin: ORIGIN", "Methods: PUT", "Headers: x trace, x-trace, authorization"),
    ("204 No Content", "Origin: ORIGIN", "Methods: put", "Headers: x-trace, authorization"),
    ("204 No Content", "Origin: ORIGIN", "Headers: x-trace, authorization", "Expose-Headers: x-upstream, set-cookie"),
    ("204 No Content", "Origin: ORIGIN", "Origin: ORIGIN", "Methods: PUT"),
    ("204 No Content", "Origin: ORIGIN/", "Methods: PUT", "Headers: x-trace"),
    ("204 No Content", "Origin: null"),
    ("302 Found", "Origin: ORIGIN", "Methods: PUT", "Headers: x-trace, authorization"),
    ("403 Forbidden", "Origin: ORIGIN", "Methods: PUT", "Headers: x-trace, authorization"),
)


async def test_our_reading_of_the_standard_is_a_browsers() -> None:
    """Whatever a server says, well or badly, Chromium and ``fetch_standard`` conclude the same from it, but for one thing.

    Chromium (156) still takes "*" for Authorization too, which by the standard has to be named; nobody here says "*".
    """
    asks = [
        (method, frozenset(names), credentials)
        for method, names in (("GET", ()), ("PUT", ()), ("POST", ("x-trace",)), ("PUT", ("authorization", "x-trace")))
        for credentials in (False, True)
    ]
    grid = list(itertools.product(SAID, asks))

    async def says_so(call: Call) -> None:
        """What ``SAID`` has, at the place in the grid that the path ends in; a page elsewhere."""
        await call.body()
        if not call.request.path.startswith("/said/"):
            await call.reply("200 OK", b"<!doctype html><title>page</title>", "Content-Type: text/html")
            return
        (status, *fields), _ = grid[int(call.request.path.rpartition("/")[2])]
        lines = [f"Access-Control-Allow-{field}".replace("Allow-Expose", "Expose") for field in fields]
        lines = [line.replace("ORIGIN", origin) for line in lines]
        if call.request.method == "OPTIONS":
            await call.reply(status, b"", *lines)
        else:
            await call.reply("200 OK", b"ok", "X-Upstream: 1", "Set-Cookie: a=b", "Content-Type: text/plain", *lines)

    async with FakeModelArts(says_so) as server, FakeModelArts(says_so) as pages, open_browser() as browser:
        origin = pages.url
        page = await browser.new_page()
        await page.goto(origin)
        cases = [Case(Policy("said"), Asked(origin, *asked), (origin,)) for _, asked in grid]

        seen = await fetched(page, server.port, cases)

        sent = {int(each.path.rpartition("/")[2]) for each in server.received if each.method != "OPTIONS"}
        for number, (case, answer) in enumerate(zip(cases, seen, strict=True)):
            asked, target = case.asked, f"/said/{number}"
            goes = not asked.needs_preflight or may_send(asked, await ask(server.port, "OPTIONS", target))
            reply = await ask(server.port, asked.method, target)
            if grid[number][0] == SAID[1] and "authorization" in asked.unsafe_names and not asked.credentials:
                assert (number in sent, goes) == (True, False)
                continue
            assert (number in sent) == goes, (grid[number], asked)
            assert (answer is not None) == (goes and may_read(asked, reply)), (grid[number], asked)
            if answer is not None:
                present = {name.lower() for name in PROBED} & {name.lower() for name, _ in reply.fields}
                told = {name.lower() for name in readable(asked, reply, PROBED)}
                assert present & {*answer[1]} == present & told, (grid[number], asked)


async def test_a_browser_agrees(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Chromium on a named and on a foreign page sends and reads, of both, what our reading of the standard says."""
    fake.behaviour = UPSTREAM
    blank = says("200 OK", b"<!doctype html><title>page</title>", "Content-Type: text/html")
    async with FakeModelArts(blank) as named, FakeModelArts(blank) as foreign, open_browser() as browser:
        policies = (
            Policy("closed"),
            Policy("listed", (named.url,), ("X-Trace",), ("GET", "PUT", "PATCH")),
            Policy("trusted", (named.url,), credentials=True),
            Policy("open", ("*",)),
        )
        gateway = await start_gateway(routes(fake, policies))
        words = set()
        async with library(policies) as peer:
            for origin, (port, served) in itertools.product(
                (named.url, foreign.url),  # another port is another origin
                ((gateway.port, lambda: [each.path for each in fake.received]), (peer.port, lambda: peer.served)),
            ):
                page = await browser.new_page()
                await page.goto(origin)
                methods = ("GET", "POST", "PUT", "OPTIONS")
                lines = ((), ("x-trace",), ("authorization,x-other",))
                cases = [
                    Case(
                        policy,
                        Asked(origin, method, frozenset(",".join(line).split(",")) - {""}, mode),
                        (origin,),
                        line,
                    )
                    for policy, method, line, mode in itertools.product(policies, methods, lines, (False, True))
                ]

                seen = await fetched(page, port, cases)

                reached = {path.rpartition("/")[2] for path in served()}
                fake.received.clear()
                peer.served.clear()
                async with Side(port) as side:
                    outcomes = [await side.outcome(case) for case in cases]
                fake.received.clear()
                peer.served.clear()
                for number, (case, answer, outcome) in enumerate(zip(cases, seen, outcomes, strict=True)):
                    words.add((port == gateway.port, outcome.word))
                    assert (answer is not None) == outcome.word.endswith(", read"), case
                    assert (str(number) in reached) == outcome.word.startswith("served"), case
                    if answer is not None:
                        status, names = answer
                        told = {name.lower() for name in outcome.readable}
                        assert status == outcome.status, case
                        assert {"content-type"} < {*names} & {name.lower() for name in PROBED} <= told, case
                await page.close()
    ours, theirs = ({word for mine, word in words if mine == wanted} for wanted in (True, False))
    assert theirs == {"not sent", "refused, not read", "served, not read", "served, read"}
    assert ours == theirs | {"refused, read"}
