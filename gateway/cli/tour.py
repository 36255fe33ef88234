"""The demo's requests: what is sent, what should come of it, and what did."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from gateway.cli.terminal import Terminal

if TYPE_CHECKING:
    from gateway.simulator import Simulator

_IRIS = {"data": {"req_data": [{"sepal_length": 3, "sepal_width": 1, "petal_length": 2.2, "petal_width": 4}]}}
_PICTURE = bytes(range(256)) * 1024
_TOO_LARGE_BYTES = 13 * 1024 * 1024
_REQUEST_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, as far as the tour looks at it. ``by_gateway``: the gateway said it, not the upstream."""

    status: int
    by_gateway: bool
    text: str
    chunks: int = 1

    @property
    def error_code(self) -> str:
        """``error_code`` of a Huawei-style error, else empty."""
        try:
            value = json.loads(self.text)
        except ValueError:
            return ""
        return str(value.get("error_code", "")) if isinstance(value, dict) else ""


@dataclass(frozen=True, slots=True)
class Step:
    """One request and what should come of it."""

    what: str
    request: str  # METHOD and path, for people
    send: Callable[["Tour"], Awaitable[Outcome]]
    status: int
    # The credential that the simulator must have accepted; None where the request must not have got that far.
    credential: str | None = None
    error_code: str = ""
    by_gateway: bool = False
    says: str = ""  # in the answer's text


@dataclass(slots=True)
class Tour:
    """Where requests go, and what they are sent with."""

    base: str
    session: aiohttp.ClientSession
    terminal: Terminal
    headers: dict[str, str] = field(default_factory=dict)

    async def request(self, method: str, path: str, **keywords: object) -> Outcome:
        """Send and read the whole answer."""
        async with self.session.request(method, self.base + path, **keywords) as response:  # type: ignore[arg-type] # passed through
            text = await response.text()
            return Outcome(response.status, "Proxy-Status" in response.headers, text)

    async def chat(self, path: str) -> Outcome:
        """Ask for a streamed answer and show its words as they arrive."""
        ask = {"stream": True, "messages": [{"role": "user", "content": "words arrive here one at a time"}]}
        words: list[str] = []
        async with self.session.post(self.base + path, json=ask) as response:
            if response.status != 200:
                return Outcome(response.status, "Proxy-Status" in response.headers, await response.text())
            self.terminal.print("     streaming: ", end="")
            async for line in response.content:
                data = line.decode().removeprefix("data: ").strip()
                if not data.startswith("{"):
                    continue
                word = json.loads(data)["choices"][0]["delta"].get("content", "")
                if word:
                    words.append(word)
                    self.terminal.print(self.terminal.paint("cyan", word), end="")
            self.terminal.print()
            return Outcome(response.status, "Proxy-Status" in response.headers, "".join(words), len(words))

    async def upload_after_asking(self, path: str, length: int) -> Outcome:
        """Announce a body and wait to be told to send it, as curl does with large ones; it is never sent."""
        host, _, port = self.base.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n"
                "Expect: 100-continue\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
            await writer.wait_closed()
        return Outcome(int(head[9:12]), b"proxy-status:" in head.lower(), body.decode())


def _predict(path: str) -> Callable[[Tour], Awaitable[Outcome]]:
    return lambda tour: tour.request("POST", path, json=_IRIS)


def _picture(tour: Tour) -> Awaitable[Outcome]:
    form = aiohttp.FormData()
    form.add_field("images", _PICTURE, filename="flower.png", content_type="image/png")
    return tour.request("POST", "/app", data=form)


STEPS = (
    Step("IAM token", "POST /token", _predict("/token"), 200, "token", says="Iris-setosa"),
    Step("AK/SK signature", "POST /aksk", _predict("/aksk"), 200, "aksk", says="Iris-setosa"),
    Step("AppKey/AppSecret signature", "POST /app", _predict("/app"), 200, "app_signature", says="Iris-setosa"),
    Step("AppCode", "POST /code", _predict("/code"), 200, "app_code", says="Iris-setosa"),
    Step("AppKey", "POST /key", _predict("/key"), 200, "app_key", says="Iris-setosa"),
    Step(
        "API key (MaaS)",
        "GET /maas/v1/models",
        lambda tour: tour.request("GET", "/maas/v1/models"),
        200,
        "api_key",
        says="simulated-model",
    ),
    Step("no credential", "POST /open", _predict("/open"), 200, "none", says="Iris-setosa"),
    Step("multipart upload, signed", "POST /app", _picture, 200, "app_signature", says="predicted_label"),
    Step(
        "chat, streamed",
        "POST /maas/v1/chat/completions",
        lambda tour: tour.chat("/maas/v1/chat/completions"),
        200,
        "api_key",
        says="one at a time",
    ),
    Step(
        "a body over 12 MiB",
        "POST /app",
        lambda tour: tour.upload_after_asking("/app", _TOO_LARGE_BYTES),
        413,
        error_code="Gateway.BodyTooLarge",
        by_gateway=True,
    ),
    Step(
        "a model slower than the deadline",
        "GET /hurried",
        lambda tour: tour.request("GET", "/hurried", headers={"X-Simulate": "slow=5s"}),
        504,
        "none",
        error_code="Gateway.DeadlineExceeded",
        by_gateway=True,
    ),
    Step(
        "a path without a route",
        "GET /nowhere",
        lambda tour: tour.request("GET", "/nowhere"),
        404,
        error_code="Gateway.RouteNotFound",
        by_gateway=True,
    ),
    Step(
        "a web page nobody named",
        "GET /open",
        lambda tour: tour.request("GET", "/open", headers={"Origin": "https://evil.example"}),
        403,
        error_code="Gateway.OriginNotAllowed",
        by_gateway=True,
    ),
    Step(
        "an AppCode at the IAM address", "POST /wrong-address", _predict("/wrong-address"), 401, error_code="APIG.0301"
    ),
)

_FIRST_REFUSAL = next(number for number, step in enumerate(STEPS) if step.status >= 400)

_LAYOUT = "  {mark} {what:<34} {request:<31} {status:<6} {answer}"


async def take(base: str, simulator: "Simulator", terminal: Terminal) -> list[str]:
    """Send every request in turn and print what came of it; returns what did not go as it should."""
    terminal.heading("plain requests in, verified requests out")
    terminal.print(
        terminal.paint(
            "dim", _LAYOUT.format(mark=" ", what="what", request="sent to the gateway", status="answer", answer="")
        )
    )
    unexpected = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS)) as session:
        tour = Tour(base, session, terminal)
        for step in STEPS:
            if step is STEPS[_FIRST_REFUSAL]:
                terminal.heading("refused, and by whom")
            fault = await _take(step, tour, simulator)
            if fault is not None:
                unexpected.append(f"{step.what}, {step.request}: {fault}")
    return unexpected


async def _take(step: Step, tour: Tour, simulator: "Simulator") -> str | None:
    """Send one and print its line; returns what is wrong with the outcome, if anything."""
    requests_before = simulator.counters.requests.total() if step.credential is None else 0
    try:
        outcome = await step.send(tour)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError) as error:
        _line(tour.terminal, step, "-", type(error).__name__, well=False)
        return f"no answer that could be read ({type(error).__name__})"
    seen = simulator.state["last_request"]["credential"] if step.credential is not None else None
    fault = _fault(step, outcome, seen)
    if (
        fault is None
        and step.by_gateway
        and step.credential is None
        and simulator.counters.requests.total() != requests_before
    ):
        fault = "the request reached the upstream"
    _line(tour.terminal, step, str(outcome.status), _meaning(step, outcome), well=fault is None)
    return fault


def _fault(step: Step, outcome: Outcome, seen: str | None) -> str | None:
    if outcome.status != step.status:
        return f"answered {outcome.status} {outcome.error_code}, {step.status} was expected"
    if outcome.by_gateway != step.by_gateway:
        return "the answer came from the " + ("gateway" if outcome.by_gateway else "upstream")
    if outcome.error_code != step.error_code:
        return f"error_code is {outcome.error_code!r}, {step.error_code!r} was expected"
    if step.says not in outcome.text:
        return f"the answer does not say {step.says!r}"
    if seen != step.credential:
        return f"the upstream saw the credential {seen!r}, not {step.credential!r}"
    return None


def _meaning(step: Step, outcome: Outcome) -> str:
    if outcome.status < 400:
        verified = "took no credential" if step.credential == "none" else f"verified: {step.credential}"
        parts = f", in {outcome.chunks} pieces" if outcome.chunks > 1 else ""
        return f"the upstream {verified}{parts}"
    said_by = "the gateway" if outcome.by_gateway else "the upstream"
    return f"{said_by}: {outcome.error_code}"


def _line(terminal: Terminal, step: Step, status: str, answer: str, *, well: bool) -> None:
    mark = terminal.paint("green", "ok") if well else terminal.paint("red", "!!")
    terminal.print(_LAYOUT.format(mark=mark, what=step.what, request=step.request, status=status, answer=answer))
