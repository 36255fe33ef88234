"""The status page in a real browser: the running program with traffic behind it, looked at with Debian's Chromium."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from chromium import needs_chromium, open_browser
from playwright.async_api import Browser, Page
from running import Process, as_process

from gateway.simulator import Simulator
from gateway.simulator.example import example_config

HOSTILE = "<img src=x onerror=document.title='taken'>"

pytestmark = needs_chromium


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser


@pytest.fixture
async def gateway(modelarts: Simulator, tmp_path: Path) -> AsyncIterator[Process]:
    """In front of the simulator, with every kind of credential, one that is refused, and a route with a breaker."""
    options = modelarts.options
    config = yaml.safe_load(
        example_config(
            modelarts.urls, modelarts.credentials, tmp_path / "secrets", listen="127.0.0.1:0", admin="127.0.0.1:0"
        )
    )
    config["credentials"]["refused"] = {
        "kind": "iam_token",
        "iam_url": modelarts.urls["iam"],
        "domain": options.domain,
        "user": options.user,
        "project": options.project,
        "password": {"env": "WRONG"},
    }
    routes = config["routes"]
    routes.append({"name": "broken", "path": "/broken", "upstream": modelarts.urls["v2"], "credential": "refused"})
    next(route for route in routes if route["name"] == "key")["breaker"] = {"failures": 2, "open": "60s"}
    folder = tmp_path / "gateway"
    folder.mkdir()
    async with as_process(config, folder, {"WRONG": "not-the-password"}) as gateway:
        yield gateway


class View:
    """A page that notes what it complains about and whom it asks."""

    def __init__(self, page: Page, gateway: Process) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        self._gateway = gateway
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.add(request.url.removeprefix(self.url)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._gateway.admin_port}/"

    async def open(self) -> None:
        await self.page.clock.install()
        await self.page.goto(self.url)
        await self.until("document.getElementById('routes').tBodies[0].rows.length > 0")

    async def until(self, condition: str) -> None:
        """Let the page refresh, by its own clock, until this is so.

        Asked from outside: the page's policy forbids what Playwright would poll with inside it.
        """
        async with asyncio.timeout(6):
            while not await self.page.evaluate(condition):
                await self.page.clock.fast_forward(2000)
                await asyncio.sleep(0.05)

    async def row(self, table: str, name: str) -> dict[str, str]:
        """The visible cells of the row that begins with ``name``, by label."""
        cells: dict[str, str] = await self.page.evaluate(
            """([table, name]) => {
                const rows = [...document.getElementById(table).tBodies[0].rows];
                const row = rows.find(row => [...row.cells].some(cell => cell.firstChild.textContent === name));
                return Object.fromEntries([...row.cells].map(cell => [cell.dataset.label, cell.innerText]));
            }""",
            [table, name],
        )
        return cells


async def traffic(gateway: Process) -> None:
    """Answers, refusals of ours and of the upstream's, and a breaker that opens."""
    async with asyncio.timeout(5):
        while not all(each["usable"] or each["last_error"] for each in (await gateway.status())["credentials"]):
            await asyncio.sleep(0.02)
    for name in ("token", "token", "aksk", "app", "code", "key", "v2"):
        assert (await gateway.ask("POST", f"/{name}/echo", body=b"{}")).status == 200
    throttled = {"X-Simulate": "throttled", "X-Request-Id": "the-throttled-one"}
    assert (await gateway.ask("POST", "/code/echo", throttled, body=b"{}")).status == 429
    for _ in range(2):
        assert (await gateway.ask("POST", "/key/echo", {"X-Simulate": "status=503"}, body=b"{}")).status == 503
    assert (await gateway.ask("POST", "/key/echo", {"X-Request-Id": "the-open-circuit"}, body=b"{}")).status == 503
    assert (await gateway.ask("GET", "/nowhere", {"X-Request-Id": "the-lost-one"})).status == 404
    assert (await gateway.ask("GET", "/broken")).status == 503


async def refused_reload(gateway: Process) -> None:
    """A configuration with a key that would like to be a tag."""
    with gateway.path.open("a") as file:
        file.write(f'"{HOSTILE}": 1\n')
    gateway.signal(signal.SIGHUP)
    await gateway.says("configuration not loaded")


async def test_a_glance(browser: Browser, gateway: Process, modelarts: Simulator, tmp_path: Path) -> None:
    """Everything that an operator asks first is there, in words, and names what to do; nothing on it is markup of others."""
    modelarts.clock_offset_seconds = 300
    await traffic(gateway)
    await refused_reload(gateway)
    view = View(await browser.new_page(viewport={"width": 1280, "height": 1000}), gateway)
    await view.open()
    slow = asyncio.create_task(gateway.ask("POST", "/code/echo", {"X-Simulate": "slow=5s"}, body=b"{}"))
    await gateway.ask("POST", "/token/echo", body=b"{}")
    await view.until("document.getElementById('in-flight').textContent === '1'")

    token = await view.row("routes", "token")
    assert token["Route"].split("\n") == ["token", f"/token → {modelarts.urls['v1_iam']}"]
    assert (token["Credential"], token["Requests"], token["5xx"]) == ("account-token", "3", "0")
    assert float(token["Per second"]) > 0
    assert token["Median"].endswith(" ms")
    assert token["99 %"].endswith(" ms")
    assert (await view.row("routes", "code"))["In flight"] == "1"
    breaker = await view.row("routes", "key")
    assert (breaker["Breaker"], breaker["5xx"]) == ("open", "3")
    assert (await view.row("routes", "no route matched"))["Requests"] == "1"

    fresh = await view.row("credentials", "account-token")
    assert fresh["State"] == "fresh"
    assert fresh["Expires"].startswith(("in 23 h", "in 24 h"))
    assert fresh["Last success"].endswith(" s ago")
    held = await view.row("credentials", "refused")
    assert held["State"].startswith("held until the secret changes")
    assert "IAM" in held["Last error"]

    skews = [await view.row("upstreams", row["name"]) for row in (await gateway.status())["upstreams"]]
    assert any(row["Clock, upstream minus ours"] in ("+299 s", "+300 s") for row in skews)

    lost = await view.row("errors", "the-lost-one")
    assert lost["Error"].startswith("Gateway.RouteNotFound\nRun explain METHOD PATH: ")
    assert (await view.row("errors", "the-open-circuit"))["Error"].startswith("Gateway.CircuitOpen\n")
    throttled = await view.row("errors", "the-throttled-one")
    assert throttled["Error"].startswith("upstream throttled\nThe platform's flow control")
    assert (throttled["Code"], throttled["Route"]) == ("429", "code")
    assert await view.page.locator("#errors code", has_text="explain METHOD PATH").count() == 1
    assert re.fullmatch(r"5xx, last \d+ s", await view.page.inner_text("#failed-when"))

    notes = await view.page.inner_text("#notes")
    assert "The configuration file on disk was refused; the one before it serves." in notes
    assert HOSTILE in notes
    assert (await view.page.inner_text("#loaded")).startswith("loaded ")
    assert await view.page.locator("img").count() == 0
    assert await view.page.inner_text("#state") == "not ready"  # one of its credentials never worked
    assert view.complaints == []
    assert view.asked <= {"", "status", "data:,"}
    await view.page.screenshot(path=tmp_path / "status-page.png", full_page=True)
    slow.cancel()


async def test_it_lives_without_flicker(browser: Browser, gateway: Process) -> None:
    """It follows by itself; what did not change keeps its nodes, and a selection stays selected."""
    await traffic(gateway)
    view = View(await browser.new_page(), gateway)
    await view.open()
    await view.page.evaluate(
        """() => {
            const row = [...document.getElementById("errors").tBodies[0].rows].find(
                row => row.textContent.includes("the-lost-one"));
            getSelection().selectAllChildren(row.cells[4]);
            window.before = [...document.querySelectorAll("tr, td, section, .tile, .tile b")];
            window.removed = 0;
            window.added = 0;
            new MutationObserver(changes => changes.forEach(change => {
                const elements = nodes => [...nodes].filter(node => node.nodeType === 1).length;
                window.removed += elements(change.removedNodes);
                window.added += change.target.nodeName === "TBODY" ? elements(change.addedNodes) : 0;
            })).observe(document.body, { childList: true, subtree: true });
        }"""
    )

    await gateway.ask("POST", "/token/echo", body=b"{}")
    await gateway.ask("GET", "/nowhere", {"X-Request-Id": "the-second-lost-one"})

    await view.until("document.getElementById('errors').textContent.includes('the-second-lost-one')")
    assert (await view.row("routes", "token"))["Requests"] == "3"
    assert await view.page.evaluate("window.before.every(node => node.isConnected)")
    assert await view.page.evaluate("[window.removed, window.added]") == [0, 1]  # the one new error
    assert await view.page.evaluate("getSelection().toString()") == "the-lost-one"
    await view.page.clock.fast_forward(60_000)
    await view.until("document.getElementById('failed-when').textContent === '5xx, last minute'")
    assert view.complaints == []


async def test_a_gateway_that_is_gone(browser: Browser, gateway: Process) -> None:
    """When nobody answers any more the page says so, and keeps what it knew, dimmed."""
    view = View(await browser.new_page(), gateway)
    await view.open()

    await gateway.close()

    await view.until("document.getElementById('state').textContent === 'no answer'")
    assert "stale" in (await view.page.get_attribute("body", "class") or "")
    assert (await view.row("routes", "token"))["Credential"] == "account-token"


# What sticks out of the window on the right, and text that is less than 4.5 times as bright or dark as what is behind
# it (WCAG 2.2, success criterion 1.4.3).
FAULTS = """() => {
    const luminance = color => {
        const [red, green, blue] = color.match(/[0-9.]+/g).slice(0, 3).map(Number).map(value => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = node => {
        const color = getComputedStyle(node).backgroundColor;
        return color === "rgba(0, 0, 0, 0)" && node.parentElement ? behind(node.parentElement) : color;
    };
    const shown = [...document.querySelectorAll("body *")].filter(node => node.checkVisibility());
    const outside = shown.filter(node => node.getBoundingClientRect().right > innerWidth + 0.5);
    const pale = shown.filter(node => {
        if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())) return false;
        const [one, other] = [getComputedStyle(node).color, behind(node)].map(luminance).sort((a, b) => b - a);
        return (one + 0.05) / (other + 0.05) < 4.5;
    });
    const scrolls = document.scrollingElement.scrollWidth > innerWidth ? ["scrolls sideways"] : [];
    const told = (word, nodes) => nodes.map(node => `${word}: ${node.tagName} ${node.textContent.slice(0, 40)}`);
    return [...scrolls, ...told("outside", outside), ...told("pale", pale)];
}"""


async def test_looks(browser: Browser, gateway: Process, tmp_path: Path) -> None:
    """In a light and a dark room, on a desk and on a phone: nothing sticks out sideways, all text stands out."""
    await traffic(gateway)
    await refused_reload(gateway)
    pages: dict[str, str] = {}
    for scheme in ("light", "dark"):
        page = await browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        view = View(page, gateway)
        await view.open()
        for width in (1280, 800, 390):
            await page.set_viewport_size({"width": width, "height": 844})
            assert await page.evaluate(FAULTS) == [], f"{scheme}-{width}"
            await page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
        pages[scheme] = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert view.complaints == []
    assert pages["light"] != pages["dark"]
