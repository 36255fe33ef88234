"""The story of a request, step by step, over real sockets."""

import asyncio
import logging

import pytest
from fake_modelarts import Call, FakeModelArts, raw, refuses, says
from raw_caller import Caller, ask, request_bytes
from running import InProcess, StartGateway, document, route

from gateway import limits
from gateway.credentials.app_code import AppCode
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.proxy import Proxy

ENVIRON = {"CODE": "code-of-the-test", "CALLER": "token-of-the-caller"}
CODE = {"code": {"kind": "app_code", "app_code": {"env": "CODE"}}}
CONSOLE = "https://console.example.com"


@pytest.fixture
async def gateway(start_gateway: StartGateway, fake: FakeModelArts) -> InProcess:
    return await start_gateway(
        document(
            route("r", f"{fake.url}/v1/infers/S", "code"),
            route("again", fake.url, retry={"idempotent": True, "attempts": 3}),
            route("pages", fake.url, cors={"origins": [CONSOLE]}, methods=["GET", "POST"]),
            credentials=CODE,
        ),
        ENVIRON,
    )


async def test_what_leaves(gateway: InProcess, fake: FakeModelArts) -> None:
    """The request as the upstream sees it: its own Host, the caller's fields, ours, the credential once."""
    await gateway.ask("POST", "/r/predictions?b=2&a=1", {"Content-Type": "a/b", "Cookie": "c=1"}, body=b"body")

    request = fake.last
    assert (request.method, request.target) == ("POST", "/v1/infers/S/predictions?b=2&a=1")
    assert request.all("Host") == [f"127.0.0.1:{fake.port}"]
    assert request.all("X-Apig-AppCode") == ["code-of-the-test"]
    assert request.names == {
        "host", "content-type", "cookie", "content-length", "x-request-id", "via", "x-apig-appcode",
    }  # fmt: skip
    assert request.body == b"body"


async def test_what_comes_back(gateway: InProcess, fake: FakeModelArts) -> None:
    """Status, reason and fields of the upstream in their order, repetitions kept; ours behind them."""
    fake.behaviour = raw(
        b"HTTP/1.1 299 Rather Fine\r\nSet-Cookie: a=1\r\nX-Odd:  spaced \r\nSet-Cookie: b=2\r\nDate: x\r\n"
        b'Keep-Alive: timeout=5\r\nAlt-Svc: h3=":443"\r\nContent-Length: 2\r\n\r\nhi'
    )

    reply = await gateway.ask("GET", "/r")

    assert (reply.status, reply.reason, reply.body) == (299, "Rather Fine", b"hi")
    assert reply.all("Set-Cookie") == ["a=1", "b=2"]
    assert [name for name, _ in reply.fields][:4] == ["Set-Cookie", "X-Odd", "Set-Cookie", "Date"]
    assert (reply.get("Keep-Alive"), reply.get("Alt-Svc")) == (None, None)
    assert reply.get("X-Request-Id") == reply.get("X-Gateway-Request-Id")


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_answers_without_a_body(gateway: InProcess, fake: FakeModelArts, status: str) -> None:
    """They stay without one, and the connection stays in step."""
    fake.plan = [raw(f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode(), then="keep")]

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("GET", "/r") + request_bytes("GET", "/r"))
        first, second = await caller.reply(), await caller.reply()

    assert (f"{first.status} {first.reason}", first.body, second.status) == (status, b"", 200)
    assert first.get("Transfer-Encoding") is None


@pytest.mark.parametrize("framing", [b"Content-Length: 500", b"Transfer-Encoding: chunked"])
async def test_head(gateway: InProcess, fake: FakeModelArts, framing: bytes) -> None:
    """HEAD gets the head alone; a length that was announced is announced."""
    fake.plan = [raw(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n", then="keep")]

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("HEAD", "/r") + request_bytes("GET", "/r"))
        first, second = await caller.reply(to_head=True), await caller.reply()

    assert (first.status, second.status) == (200, 200)
    assert first.get("Content-Length") == ("500" if b"500" in framing else None)


@pytest.mark.parametrize(
    ("method", "body", "chunk_bytes", "length"),
    [
        pytest.param("POST", None, 0, "0", id="POST without a body"),
        pytest.param("POST", b"", 0, "0", id="POST with an empty body"),
        pytest.param("GET", None, 0, None, id="GET"),
        pytest.param("GET", b"", 0, "0", id="GET that says 0"),
        pytest.param("GET", b"query", 0, "5", id="GET with a body"),
        pytest.param("DELETE", b"x", 0, "1", id="DELETE with a body"),
    ],
)
async def test_framing_that_leaves(
    gateway: InProcess, fake: FakeModelArts, method: str, body: bytes | None, chunk_bytes: int, length: str | None
) -> None:
    """A known length goes out as such, and no body is made up for methods that expect none."""
    await gateway.ask(method, "/r", body=body, chunk_bytes=chunk_bytes)

    assert fake.last.all("Content-Length") == ([length] if length is not None else [])
    assert fake.last.body == (body or b"")
    assert not fake.last.chunked


async def test_streamed_without_a_length(gateway: InProcess, fake: FakeModelArts) -> None:
    """A chunked upload that is still coming leaves chunked, piece by piece."""
    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("POST", "/r", {"Transfer-Encoding": "chunked"}))
        await caller.send(b"5\r\nfirst\r\n")
        await fake.until(lambda: bool(fake.received) and fake.last.body == b"first")
        await caller.send(b"6\r\nsecond\r\n0\r\nTrailer: dropped\r\n\r\n")
        reply = await caller.reply()

    assert reply.status == 200
    assert fake.last.chunked
    assert fake.last.body == b"firstsecond"
    assert b"Trailer" not in fake.last.framed


@pytest.mark.parametrize(
    ("status", "code", "attempts"),
    [
        pytest.param("502 Bad Gateway", "APIG.0201", 2, id="502"),
        pytest.param("503 Unavailable", "ModelArts.4302", 2, id="503"),
        pytest.param("500 Error", "APIG.0201", 2, id="500"),
        pytest.param("504 Timeout", "APIG.0201", 1, id="504 never"),
        pytest.param("413 Too Large", "APIG.0201", 1, id="413 never"),
        pytest.param("429 Throttled", "APIG.0308", 1, id="429 never"),
        pytest.param("500 Error", "MR.0105", 1, id="the model's own error never"),
    ],
)
async def test_what_is_tried_again_where_it_may(
    gateway: InProcess, fake: FakeModelArts, status: str, code: str, attempts: int
) -> None:
    """On a route that says ``idempotent`` the refusals that the table names are tried once more, no others."""
    fake.plan = [refuses(status, code, "text")]

    reply = await gateway.ask("POST", "/again", body=b"x" * 1000)

    assert len(fake.received) == attempts
    assert reply.status == (200 if attempts == 2 else int(status[:3]))
    assert {request.body for request in fake.received} == {b"x" * 1000}


@pytest.mark.parametrize("status", ["401 Unauthorized", "500 Error", "502 Bad Gateway", "503 Unavailable"])
async def test_elsewhere_an_answer_is_an_answer(gateway: InProcess, fake: FakeModelArts, status: str) -> None:
    """Without ``idempotent``, and for a 401 that no credential can cure, the upstream hears of a request once."""
    fake.behaviour = refuses(status, "APIG.0301", "decrypt token fail")

    reply = await gateway.ask("POST", "/r", body=b"{}")

    assert (f"{reply.status} {reply.reason}", reply.code, len(fake.received)) == (status, "APIG.0301", 1)


async def test_attempts_have_an_end(gateway: InProcess, fake: FakeModelArts) -> None:
    """An answer that may be tried again is tried again once, and the last answer is the caller's."""
    fake.behaviour = refuses("502 Bad Gateway", "APIG.0201", "Backend unavailable.")

    reply = await gateway.ask("POST", "/again", body=b"{}")

    assert (reply.status, reply.code, len(fake.received)) == (502, "APIG.0201", 2)


async def test_a_large_error_passes_whole(gateway: InProcess, fake: FakeModelArts) -> None:
    """An error body that was looked at loses nothing."""
    body = b'{"error_code":"MR.0105","x":"' + b"y" * 500_000 + b'"}'
    fake.behaviour = says("503 Unavailable", body)

    for path in ("/r", "/again"):
        assert (await gateway.ask("GET", path)).body == body


async def test_a_fault_of_ours(
    gateway: InProcess, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw is a 500 whose text stays inside; the log names the place and the request."""

    async def breaks(*_: object) -> None:
        raise RuntimeError("pl4nted text with a secret")

    monkeypatch.setattr(AppCode, "authorize", breaks)

    with caplog.at_level(logging.DEBUG):
        reply = await gateway.ask("GET", "/r", {"X-Request-Id": "request-1"})

    assert (reply.status, reply.code, reply.proxy_error) == (500, "Gateway.Internal", "proxy_internal_error")
    logged = caplog.text
    assert "request-1" in logged
    assert "RuntimeError" in logged
    assert "pl4nted" not in logged + reply.body.decode()
    monkeypatch.undo()
    assert (await gateway.ask("GET", "/r")).status == 200


# Web pages


async def test_preflights(gateway: InProcess, fake: FakeModelArts) -> None:
    """Answered here, never forwarded; a page that is not named gets 403."""
    asked = {"Origin": CONSOLE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}

    named = await gateway.ask("OPTIONS", "/pages/x", asked)
    other = await gateway.ask("OPTIONS", "/pages/x", asked | {"Origin": "https://evil.example"})
    closed = await gateway.ask("OPTIONS", "/r/x", asked)
    nowhere = await gateway.ask("OPTIONS", "/nowhere", asked)

    assert (named.status, named.body, named.get("Access-Control-Allow-Origin")) == (204, b"", CONSOLE)
    assert named.get("Access-Control-Allow-Methods") == "GET, POST"
    assert named.get("Access-Control-Allow-Headers") == "x-a"
    assert named.get("Access-Control-Max-Age") == "600"
    assert [reply.status for reply in (other, closed, nowhere)] == [403, 403, 404]
    assert [reply.get("Access-Control-Allow-Origin") for reply in (other, closed, nowhere)] == [None] * 3
    assert fake.connections == 0


async def test_preflights_do_not_ask_who_is_there(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A browser sends no credential with a preflight; the request behind it needs one, and its refusal can be read."""
    callers = [{"name": "page", "token": {"env": "CALLER"}, "routes": ["*"]}]
    gateway = await start_gateway(document(route("p", fake.url, cors={"origins": [CONSOLE]}), callers=callers), ENVIRON)

    preflight = await gateway.ask("OPTIONS", "/p", {"Origin": CONSOLE, "Access-Control-Request-Method": "POST"})
    refused = await gateway.ask("POST", "/p", {"Origin": CONSOLE})
    served = await gateway.ask("POST", "/p", {"Origin": CONSOLE, "Authorization": "Bearer token-of-the-caller"})

    assert [reply.status for reply in (preflight, refused, served)] == [204, 401, 200]
    assert [reply.get("Access-Control-Allow-Origin") for reply in (preflight, refused, served)] == [CONSOLE] * 3


async def test_answers_for_pages(gateway: InProcess, fake: FakeModelArts) -> None:
    """The upstream's own CORS fields are replaced, ``Vary`` names Origin always, and errors can be read."""
    fake.behaviour = says(
        "200 OK", b"x", "Access-Control-Allow-Origin: *", "Access-Control-Allow-Credentials: true", "Vary: Accept"
    )

    page = await gateway.ask("GET", "/pages", {"Origin": CONSOLE})
    program = await gateway.ask("GET", "/pages")
    error = await gateway.ask("PUT", "/pages", {"Origin": CONSOLE})
    elsewhere = await gateway.ask("GET", "/r")

    assert page.all("Access-Control-Allow-Origin") == [CONSOLE]
    assert page.get("Access-Control-Allow-Credentials") is None
    assert "Proxy-Status" in (page.get("Access-Control-Expose-Headers") or "")
    assert page.all("Vary") == program.all("Vary") == ["Accept", "Origin"]
    assert program.get("Access-Control-Allow-Origin") is None
    assert (error.status, error.get("Access-Control-Allow-Origin"), error.get("Vary")) == (405, CONSOLE, "Origin")
    assert elsewhere.get("Access-Control-Allow-Origin") == "*"


async def test_a_page_that_is_not_named_reaches_nothing(gateway: InProcess, fake: FakeModelArts) -> None:
    """Its request is not sent, simple requests included."""
    for origin in ("https://evil.example", "null", ""):
        for path in ("/pages", "/r"):
            reply = await gateway.ask("POST", path, {"Origin": origin, "Content-Type": "text/plain"}, body=b"{}")
            assert (reply.status, reply.code, reply.get("Access-Control-Allow-Origin")) == (
                403,
                "Gateway.OriginNotAllowed",
                None,
            )
    assert fake.connections == 0


async def test_a_refusal_comes_behind_the_answer_before_it(gateway: InProcess, fake: FakeModelArts) -> None:
    """Of two requests in one packet, the second malformed: the answer to the first comes first, and whole."""
    fake.behaviour = says("200 OK", b"answer")
    async with Caller(gateway.port) as caller:
        for _ in range(3):
            await caller.send(request_bytes("POST", "/r", body=b"kept") + request_bytes("POST", "/r", body=b"kept"))
            assert [(await caller.reply()).status for _ in range(2)] == [200, 200]
        await caller.send(request_bytes("POST", "/r", body=b"last") + b"GET /r HTTP/1.1\r\nHost : a\r\n\r\n")
        replies = [await caller.reply(), await caller.reply()]
        assert [(reply.status, reply.body == b"answer") for reply in replies] == [(200, True), (400, False)]
        assert await caller.closed()


async def test_a_fault_in_refusing_closes_the_connection(
    gateway: InProcess, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever breaks behind the story's own net, its caller does not wait for ever, and nothing stays in flight."""

    def breaks(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Proxy, "_refuse", breaks)
    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("GET", "/nowhere"))
        assert await caller.closed()

    assert gateway.gateway.serving.proxy.in_flight == 0
    assert "ZeroDivisionError" in caplog.text


# Counting


async def test_in_flight_is_counted_down_however_a_request_ends(gateway: InProcess, fake: FakeModelArts) -> None:
    """After answers, refusals, breaks and callers that left, nothing is in flight."""

    async def slow(call: Call) -> None:
        await call.body()
        await call.gone()

    fake.plan = [raw(b"", then="reset"), says("200 OK"), slow]
    await gateway.ask("GET", "/r")
    await gateway.ask("GET", "/r")
    await gateway.ask("PUT", "/pages")
    leaving = asyncio.create_task(gateway.ask("GET", "/r"))
    await fake.until(lambda: len(fake.received) == 3)
    leaving.cancel()
    await fake.until(lambda: fake.open == 0)
    await asyncio.sleep(0.05)

    for name in ("r", "pages"):
        assert await gateway.metric(f'gateway_requests_in_flight{{route="{name}"}}') == 0


async def test_upstream_errors_are_counted_by_class(gateway: InProcess, fake: FakeModelArts) -> None:
    """What an upstream refuses is counted under the class of its code, whether or not it was tried again."""
    fake.plan = [refuses("429 Throttled", "APIG.0308", "text"), refuses("500 Error", "MR.0105", "text")]

    await gateway.ask("GET", "/r")
    await gateway.ask("GET", "/r")

    assert await gateway.metric('gateway_upstream_errors_total{class="throttled",route="r"}') == 1
    assert await gateway.metric('gateway_upstream_errors_total{class="model_error",route="r"}') == 1


async def test_an_upstream_error_that_comes_in_pieces(gateway: InProcess, fake: FakeModelArts) -> None:
    """Its code is heard wherever in the body it stands."""

    pieces = (b'{"error_msg": "text", ', b'"error_code": "APIG', b'.0308"}')
    length = sum(map(len, pieces))

    async def in_pieces(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 429 Throttled\r\nContent-Length: %d\r\n\r\n" % length)
        for piece in pieces:
            await asyncio.sleep(0.05)
            await call.send(piece)

    fake.behaviour = in_pieces

    reply = await gateway.ask("GET", "/r")

    assert (reply.status, len(reply.body)) == (429, length)
    assert await gateway.metric('gateway_upstream_errors_total{class="throttled",route="r"}') == 1


async def test_unknown_methods_and_routes_have_their_own_names(gateway: InProcess, fake: FakeModelArts) -> None:
    """What callers choose never becomes a label."""
    await gateway.ask("BREW", "/r")
    await gateway.ask("GET", "/nowhere/" + "x" * 100)

    text = (await ask(gateway.admin_port, "GET", "/metrics")).body.decode()
    assert 'gateway_requests_total{code="200",method="other",route="r"} 1' in text
    assert 'gateway_requests_total{code="404",method="GET",route="-"} 1' in text
    assert "BREW" not in text
    assert "nowhere" not in text


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        pytest.param("/theirs", {}, 200, id="nothing else"),
        pytest.param("/theirs", {"X-Request-Timeout": "soon"}, 400, id="no number"),
        pytest.param("/theirs", {"Via": "1.1 modelarts-gateway-me"}, 508, id="a loop"),
        pytest.param("/theirs?a=%", {}, 400, id="a query with two readings"),
    ],
)
async def test_who_may_not_use_a_route_hears_that_first(
    start_gateway: StartGateway, fake: FakeModelArts, target: str, fields: dict[str, str], status: int
) -> None:
    """Whatever else is wrong with the request, and however often it comes: 403 to one caller, its own to the other."""
    gateway = await start_gateway(
        document(
            route("mine", fake.url),
            route("theirs", fake.url),
            callers=[
                {"name": "someone", "token": {"env": "CALLER"}, "routes": ["mine"]},
                {"name": "near", "addresses": ["127.0.0.0/8"], "routes": ["theirs"]},
            ],
        ),
        ENVIRON,
    )
    gateway.gateway.serving.proxy.site._name = b"modelarts-gateway-me"

    for _ in range(3):
        allowed = await gateway.ask("GET", target, fields)
        refused = await gateway.ask("GET", target, {**fields, "X-API-Key": ENVIRON["CALLER"]})
        assert refused.code == "Gateway.CallerNotAllowed"
        assert allowed.status == status


@pytest.mark.parametrize(
    ("settings", "ends_after", "looks"),
    [
        pytest.param({"idle": "20s", "deadline": "none"}, (20.0, 20.2), range(2, 6), id="silence, far off"),
        pytest.param({"idle": "9s", "deadline": "none"}, (9.0, 9.2), range(28, 32), id="silence, soon"),
        pytest.param({"idle": "60s", "deadline": "8s"}, (8.0, 8.1), range(2, 6), id="the deadline"),
        pytest.param({"idle": "60s", "deadline": "4s"}, (4.0, 4.1), range(3, 16), id="the deadline, soon"),
    ],
)
async def test_a_stream_far_from_its_limits_is_left_alone(
    start_gateway: StartGateway,
    fake: FakeModelArts,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    ends_after: tuple[float, float],
    looks: range,
) -> None:
    """Thousands of them would keep the sweep busy; those that are near a limit are looked at ten times a second."""
    fake.behaviour = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", then="stall")
    gateway = await start_gateway(document(route("r", fake.url, limits=settings)))
    proxy = gateway.gateway.serving.proxy
    looked: list[float] = []

    def passed(exchange: Exchange, now: float) -> GatewayError | None:
        looked.append(now)
        return limits_passed(exchange, now)

    limits_passed = limits.passed
    monkeypatch.setattr(limits, "passed", passed)

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("GET", "/r"))
        await caller.head()
        await asyncio.sleep(0.25)  # that it moved has been seen
        (exchange,) = proxy._live
        began = exchange.idle_since if settings["deadline"] == "none" else exchange.arrived
        proxy._far.clear()
        looked.clear()
        ended = [step / 10 for step in range(1, 230) if not exchange.expired and proxy.sweep(began + step / 10) is None]

    assert ends_after[0] <= ended[-1] <= ends_after[1]
    assert len([now for now in looked if now <= began + 3]) in looks


async def test_a_busy_process_looks_as_often(
    start_gateway: StartGateway, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where sweeps come late themselves, a limit acts one of them late, not as many as fit into an ordinary second."""
    fake.behaviour = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", then="stall")
    gateway = await start_gateway(document(route("r", fake.url, limits={"idle": "60s", "deadline": "8s"})))
    proxy = gateway.gateway.serving.proxy

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("GET", "/r"))
        await caller.head()
        (exchange,) = proxy._live
        ended: list[GatewayError] = []
        monkeypatch.setattr(exchange, "expire", ended.append)
        for before in range(10):
            began = exchange.arrived + 100.0 * before
            exchange.moved, exchange.deadline = True, began + 8.0
            for now in (*([began] * before), *(began + step * 0.3 for step in range(1, 27))):
                proxy.sweep(now)
            assert ended == []
            proxy.sweep(began + 27 * 0.3)
            assert ended.pop().setting == "limits.deadline"
