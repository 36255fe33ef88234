"""Every error that the gateway promises can be reached, and looks as promised."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trustme
from fake_modelarts import FakeModelArts, raw, stalls
from raw_caller import Caller, Reply, ask, request_bytes
from running import InProcess, StartGateway, document, free_port, route

ENVIRON = {"PASSWORD": "password", "CALLER": "token-of-the-caller", "KEY": "key-of-the-test"}
TYPES = {401: "authentication_error", 403: "authentication_error", 429: "rate_limit_error"}
CALLER = {"Authorization": "Bearer token-of-the-caller"}


def look(reply: Reply, status: int, code: str, proxy_error: str, details: str | None) -> None:
    """An error of the gateway's own in its full shape."""
    assert (reply.status, reply.code, reply.proxy_error, reply.details) == (status, code, proxy_error, details), reply
    assert reply.get("Content-Type") == "application/json"
    assert (reply.get("Proxy-Status") or "").startswith("modelarts-gateway; error=")
    body = reply.json()
    assert set(body) == {"error_code", "error_msg", "request_id", "error"}
    assert body["request_id"] == reply.get("X-Request-Id") == reply.get("X-Gateway-Request-Id")
    kind = TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    assert body["error"] == {"code": code, "message": body["error_msg"], "type": kind}
    assert body["error_msg"].endswith(".")
    if details is not None and code != "Gateway.OriginNotAllowed":
        named = details if details != "callers.token" else "token"
        assert named in body["error_msg"], "the message names the setting that governs it"
    retry_after = reply.get("Retry-After")
    assert (retry_after is not None) == (status in {429, 503})
    assert retry_after is None or re.fullmatch(r"[1-9][0-9]*", retry_after)


@pytest.fixture
async def plain() -> AsyncIterator[str]:
    """The address of a server that answers whatever comes with plain HTTP."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def gateway(start_gateway: StartGateway, fake: FakeModelArts, plain: str) -> InProcess:
    """Routes that lead into each sort of trouble."""
    dead = f"http://127.0.0.1:{free_port()}"
    credentials = {
        "dead": {
            "kind": "iam_token",
            "iam_url": dead,
            "domain": "d",
            "user": "u",
            "project": "p",
            "password": {"env": "PASSWORD"},
        },
        "app": {"kind": "app_signature", "app_key": {"env": "KEY"}, "app_secret": {"env": "PASSWORD"}},
    }
    return await start_gateway(
        document(
            route("up", fake.url, methods=["GET", "POST"], limits={"deadline": "300ms"}),
            route("signed", f"{fake.url}/v1/infers/S", "app"),
            route("small", fake.url, limits={"body": "10B"}),
            route("refused", dead),
            route("unknown", "http://does-not-exist.invalid"),
            route("tls", f"https://{plain}"),
            route("first", fake.url, limits={"first_byte": "200ms"}),
            route("one", fake.url, limits={"in_flight": 1}),
            route("rate", fake.url, limits={"rate": "1/m"}),
            route("breaker", dead, breaker={"failures": 1, "open": "60s"}),
            route("token", fake.url, "dead"),
            route("cors", fake.url, cors={"origins": ["https://console.example.com"]}),
            credentials=credentials,
            process={"head": "300ms", "head_bytes": "8KiB"},
        ),
        ENVIRON,
    )


Ask = Callable[[InProcess], Awaitable[Reply]]


def asks(method: str, target: str, fields: dict[str, str] | None = None, body: bytes | None = None) -> Ask:
    return lambda gateway: ask(gateway.port, method, target, fields, body)


def sends(data: bytes) -> Ask:
    async def send(gateway: InProcess) -> Reply:
        async with Caller(gateway.port) as caller:
            await caller.send(data)
            return await caller.reply()

    return send


@pytest.mark.parametrize(
    ("send", "status", "code", "proxy_error", "details"),
    [
        pytest.param(
            sends(b"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
            400, "Gateway.BadRequest", "http_request_error", None, id="framing",
        ),
        pytest.param(sends(b"\x16\x03\x01\x02\x00\x01"), 400, "Gateway.BadRequest", "http_request_error", None, id="TLS hello"),
        pytest.param(asks("GET", "/up/../x"), 400, "Gateway.BadPath", "http_request_error", None, id="dot segment"),
        pytest.param(asks("GET", "/up/%2e%2e/x"), 400, "Gateway.BadPath", "http_request_error", None, id="encoded dots"),
        pytest.param(asks("GET", "/up/a\\b"), 400, "Gateway.BadPath", "http_request_error", None, id="backslash"),
        pytest.param(asks("GET", "/up?x=%zz"), 400, "Gateway.BadPath", "http_request_error", None, id="query"),
        pytest.param(asks("GET", "/signed/a//b"), 400, "Gateway.BadPath", "http_request_error", None, id="unsignable"),
        pytest.param(
            asks("GET", "/cors", {"Origin": "https://evil.example"}),
            403, "Gateway.OriginNotAllowed", "http_request_denied", "cors.origins", id="origin",
        ),
        pytest.param(
            asks("GET", "/up", {"Origin": "https://console.example.com"}),
            403, "Gateway.OriginNotAllowed", "http_request_denied", "cors.origins", id="origin without cors",
        ),
        pytest.param(asks("GET", "/nowhere"), 404, "Gateway.RouteNotFound", "destination_not_found", None, id="route"),
        pytest.param(asks("PUT", "/up"), 405, "Gateway.MethodNotAllowed", "http_request_error", "methods", id="method"),
        pytest.param(asks("TRACE", "/up"), 405, "Gateway.MethodNotAllowed", "http_request_error", None, id="TRACE"),
        pytest.param(
            sends(b"CONNECT up:443 HTTP/1.1\r\nHost: up:443\r\n\r\n"),
            405, "Gateway.MethodNotAllowed", "http_request_error", None, id="CONNECT",
        ),
        pytest.param(
            sends(b"GET /up HTTP/1.1\r\nHost"), 408, "Gateway.RequestTimeout", "http_request_error", "process.head", id="head"
        ),
        pytest.param(
            sends(request_bytes("POST", "/up", {"Content-Length": "9"})),
            408, "Gateway.RequestTimeout", "http_request_error", "limits.deadline", id="upload",
        ),
        pytest.param(
            asks("POST", "/small", body=b"x" * 11), 413, "Gateway.BodyTooLarge", "http_request_error", "limits.body", id="body"
        ),
        pytest.param(
            asks("GET", "/" + "x" * 9000), 414, "Gateway.UriTooLong", "http_request_error", "process.head_bytes", id="line"
        ),
        pytest.param(
            asks("GET", "/up", {"X": "x" * 9000}),
            431, "Gateway.HeadersTooLarge", "http_request_error", "process.head_bytes", id="head too large",
        ),
        pytest.param(asks("GET", "/refused"), 502, "Gateway.UpstreamUnreachable", "connection_refused", None, id="refused"),
        pytest.param(asks("GET", "/unknown"), 502, "Gateway.UpstreamUnreachable", "dns_error", None, id="DNS"),
        pytest.param(asks("GET", "/tls"), 502, "Gateway.UpstreamUnreachable", "tls_protocol_error", None, id="no TLS there"),
        pytest.param(
            asks("GET", "/token"), 503, "Gateway.CredentialUnavailable", "proxy_internal_error", None, id="credential"
        ),
    ],
)  # fmt: skip
async def test_errors_of_the_request_and_the_way(
    gateway: InProcess, send: Ask, status: int, code: str, proxy_error: str, details: str | None
) -> None:
    """Status, code, Proxy-Status and the setting in the message are those of the table."""
    reply = await send(gateway)

    look(reply, status, code, proxy_error, details)
    assert "Allow" not in dict(reply.fields) or status == 405
    if details == "methods":
        assert reply.get("Allow") == "GET, POST"


@pytest.mark.parametrize(
    ("answer", "then", "status", "code", "proxy_error"),
    [
        pytest.param(b"", "reset", 502, "Gateway.UpstreamUnreachable", "connection_terminated", id="reset"),
        pytest.param(b"", "close", 502, "Gateway.UpstreamUnreachable", "connection_terminated", id="closed"),
        pytest.param(b"SSH-2.0-x\r\n", "close", 502, "Gateway.UpstreamProtocolError", "http_protocol_error", id="not HTTP"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Le", "close",
            502, "Gateway.UpstreamProtocolError", "http_response_incomplete", id="head broken off",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "close",
            502, "Gateway.UpstreamProtocolError", "http_protocol_error", id="two lengths",
        ),
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "close",
            502, "Gateway.UpstreamProtocolError", "http_protocol_error", id="101 that nobody asked for",
        ),
    ],
)  # fmt: skip
async def test_answers_that_are_none(
    gateway: InProcess, fake: FakeModelArts, answer: bytes, then: str, status: int, code: str, proxy_error: str
) -> None:
    """An upstream that ends the connection or does not speak HTTP is told apart; the request is not sent twice."""
    fake.behaviour = raw(answer, then=then)

    reply = await gateway.ask("POST", "/up", body=b"{}")

    look(reply, status, code, proxy_error, None)
    assert len(fake.received) == 1


async def test_no_answer_in_time(gateway: InProcess, fake: FakeModelArts) -> None:
    """The deadline and ``first_byte`` are told apart."""
    fake.behaviour = stalls

    deadline = await gateway.ask("POST", "/up", body=b"{}")
    first_byte = await gateway.ask("POST", "/first", body=b"{}")

    look(deadline, 504, "Gateway.DeadlineExceeded", "http_response_timeout", "limits.deadline")
    look(first_byte, 504, "Gateway.UpstreamTimeout", "http_response_timeout", "limits.first_byte")


async def test_no_more_at_once(gateway: InProcess, fake: FakeModelArts) -> None:
    """Above ``in_flight`` the answer comes at once, and nothing queues."""
    fake.behaviour = stalls
    first = asyncio.create_task(gateway.ask("GET", "/one", {"X-Request-Timeout": "1"}))
    await fake.until(lambda: bool(fake.received))

    reply = await gateway.ask("GET", "/one")
    first.cancel()

    look(reply, 503, "Gateway.Overloaded", "connection_limit_reached", "limits.in_flight")


async def test_no_more_a_minute(gateway: InProcess) -> None:
    """Above ``rate`` 429 says when to come back."""
    replies = [await gateway.ask("GET", "/rate") for _ in range(2)]

    assert replies[0].status == 200
    look(replies[1], 429, "Gateway.RateLimited", "http_request_denied", "limits.rate")
    assert 50 <= int(replies[1].get("Retry-After") or 0) <= 60


async def test_breaker(gateway: InProcess) -> None:
    """After so many failures in a row the route answers at once, and says when it will try again."""
    replies = [await gateway.ask("GET", "/breaker") for _ in range(2)]

    assert replies[0].status == 502
    look(replies[1], 503, "Gateway.CircuitOpen", "destination_unavailable", "breaker")
    assert 50 <= int(replies[1].get("Retry-After") or 0) <= 60


async def test_loop(gateway: InProcess, fake: FakeModelArts) -> None:
    """A request that carries this gateway's own mark has been here already: 508, and it is not sent again."""
    await gateway.ask("GET", "/up", {"Via": "1.1 before"})
    mark = fake.last.get("Via") or ""

    reply = await gateway.ask("GET", "/up", {"Via": mark})

    assert mark.startswith("1.1 before, 1.1 modelarts-gateway")
    look(reply, 508, "Gateway.Loop", "proxy_loop_detected", None)
    assert len(fake.received) == 1


async def test_a_route_that_leads_back(start_gateway: StartGateway) -> None:
    """A gateway whose upstream is itself ends the request after one turn."""
    port = free_port()
    gateway = await start_gateway(document(route("r", f"http://127.0.0.1:{port}/r")) | {"listen": f"127.0.0.1:{port}"})

    reply = await gateway.ask("GET", "/r")

    assert (reply.status, reply.code) == (508, "Gateway.Loop")
    assert len(await gateway.access_log()) == 2


async def test_draining(gateway: InProcess, fake: FakeModelArts) -> None:
    """What comes on a kept connection after listening has stopped gets 503 and is not sent on."""
    release = asyncio.Event()

    async def waits(call: object) -> None:
        await release.wait()
        await call.reply("200 OK", b"done")  # type: ignore[attr-defined] # a Call

    fake.behaviour = waits
    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("GET", "/cors"))
        await fake.until(lambda: bool(fake.received))
        draining = asyncio.create_task(gateway.gateway.drain())
        await asyncio.sleep(0.05)
        await caller.send(request_bytes("GET", "/cors"))
        release.set()
        first = await caller.reply()
        await draining

    assert (first.status, first.body, first.get("Connection")) == (200, b"done", "close")
    assert len(fake.received) == 1


@pytest.fixture
async def guarded(start_gateway: StartGateway, fake: FakeModelArts) -> InProcess:
    """A gateway that knows its callers."""
    return await start_gateway(
        document(
            route("mine", fake.url),
            route("theirs", fake.url),
            callers=[{"name": "me", "token": {"env": "CALLER"}, "routes": ["mine"], "in_flight": 1, "rate": "2/m"}],
        ),
        ENVIRON,
    )


@pytest.mark.parametrize(
    ("target", "fields", "status", "code", "details"),
    [
        pytest.param("/mine", {}, 401, "Gateway.CallerUnknown", "callers", id="nobody"),
        pytest.param(
            "/mine", {"Authorization": "Bearer wrong"}, 401, "Gateway.CallerUnknown", "callers.token", id="wrong token"
        ),
        pytest.param("/nowhere", {}, 401, "Gateway.CallerUnknown", "callers", id="unknown route, unknown caller"),
        pytest.param(
            "/mine", {"Authorization": "Bearer wrong", "X-API-Key": "token-of-the-caller"},
            401, "Gateway.CallerUnknown", "callers.token", id="Authorization wins",
        ),
        pytest.param("/theirs", CALLER, 403, "Gateway.CallerNotAllowed", "callers.routes", id="another's route"),
    ],
)  # fmt: skip
async def test_callers(
    guarded: InProcess, fake: FakeModelArts, target: str, fields: dict[str, str], status: int, code: str, details: str
) -> None:
    """Unknown callers get 401 before routes are looked up, known ones 403 where they may not go."""
    look(await guarded.ask("GET", target, fields), status, code, "http_request_denied", details)
    assert fake.connections == 0


async def test_a_callers_rate(guarded: InProcess) -> None:
    """A caller has a rate of its own, and its token does not travel."""
    replies = [await guarded.ask("GET", "/mine", {"X-API-Key": "token-of-the-caller"}) for _ in range(3)]

    assert [reply.status for reply in replies] == [200, 200, 429]
    look(replies[2], 429, "Gateway.RateLimited", "http_request_denied", "callers.rate")
    assert "token-of-the-caller" not in json.dumps(replies[0].json())


@pytest.mark.parametrize(
    ("issued_for", "by_the_known_ca", "proxy_error"),
    [
        pytest.param("127.0.0.1", True, None, id="right"),
        pytest.param("127.0.0.1", False, "tls_certificate_error", id="unknown CA"),
        pytest.param("elsewhere.example.com", True, "tls_certificate_error", id="another name"),
    ],
)
async def test_certificates(
    start_gateway: StartGateway, tmp_path: Path, issued_for: str, by_the_known_ca: bool, proxy_error: str | None
) -> None:
    """TLS is verified always: by the CA of the route, for the name of the URL."""
    known, other = trustme.CA(), trustme.CA()
    known.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (known if by_the_known_ca else other).issue_cert(issued_for).configure_cert(context)
    async with FakeModelArts(tls=context) as fake:
        gateway = await start_gateway(document(route("r", fake.url, connection={"ca": str(tmp_path / "ca.pem")})))

        reply = await gateway.ask("POST", "/r", body=b"{}")

        if proxy_error is None:
            assert reply.status == 200
        else:
            look(reply, 502, "Gateway.UpstreamUnreachable", proxy_error, None)
            assert fake.received == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_head_requests_get_no_body(gateway: InProcess, method: str) -> None:
    """An error to HEAD has the head of the same error and no body."""
    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes(method, "/nowhere", {"X-Request-Id": "mine-1"}))
        reply = await caller.reply(to_head=method == "HEAD")
        await caller.send(request_bytes("GET", "/up", {"Connection": "close"}))
        following = await caller.reply()

    assert (reply.status, reply.get("X-Request-Id"), following.status) == (404, "mine-1", 200)
    assert int(reply.get("Content-Length") or 0) > 100
    assert bool(reply.body) == (method == "GET")


async def test_the_upstreams_own_errors_are_its_own(gateway: InProcess, fake: FakeModelArts) -> None:
    """What the upstream says passes untouched, without Proxy-Status, with its request id and ours beside it."""
    fake.behaviour = raw(
        b"HTTP/1.1 429 Slow Down\r\nContent-Length: 2\r\nRetry-After: 7\r\nX-Request-Id: theirs\r\n"
        b"Proxy-Status: modelarts-gateway; error=forged\r\n\r\n{}"
    )

    reply = await gateway.ask("GET", "/up", {"X-Request-Id": "ours-1"})

    assert (reply.status, reply.reason, reply.body, reply.get("Retry-After")) == (429, "Slow Down", b"{}", "7")
    assert (reply.get("X-Request-Id"), reply.get("X-Gateway-Request-Id")) == ("theirs", "ours-1")
    assert reply.get("Proxy-Status") is None
