"""One deadline from the head to the last byte answered; who is blamed when it, or another limit of time, passes."""

import asyncio
import time
from typing import Any

import pytest
from fake_modelarts import Call, FakeModelArts, raw, stalls
from raw_caller import Caller, CutOff, Reply, request_bytes
from running import Document, InProcess, StartGateway, document, free_port, route

# A sweep looks ten times a second; what the machine adds is its business.
SLACK_SECONDS = 1.0
ENVIRON = {"PASSWORD": "password", "KEY": "key-of-the-test", "SECRET": "secret-of-the-test"}


async def gateway_with(start_gateway: StartGateway, upstream: str, limits: Document, **more: Any) -> InProcess:
    return await start_gateway(document(route("r", upstream, limits=limits, **more)))


async def timed(gateway: InProcess, *arguments: object, **more: object) -> tuple[Reply, float]:
    """The answer, and how many seconds it took."""
    began = time.monotonic()
    reply = await gateway.ask(*arguments, **more)  # type: ignore[arg-type]
    return reply, time.monotonic() - began


async def test_upstream_never_answers(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Past the deadline the caller gets 504 that names it, and the upstream request is ended."""
    fake.behaviour = stalls
    gateway = await gateway_with(start_gateway, fake.url, {"deadline": "300ms"})

    reply, took = await timed(gateway, "POST", "/r", body=b"{}")

    assert (reply.status, reply.code, reply.details) == (504, "Gateway.DeadlineExceeded", "limits.deadline")
    assert reply.proxy_error == "http_response_timeout"
    assert 0.3 <= took < 0.3 + SLACK_SECONDS
    await fake.until(lambda: fake.open == 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("X-Request-Timeout", "0.3", id="seconds"),
        pytest.param("x-envoy-expected-rq-timeout-ms", "300", id="Envoy's milliseconds"),
    ],
)
async def test_a_caller_may_shorten_it(
    start_gateway: StartGateway, fake: FakeModelArts, field: str, value: str
) -> None:
    """A caller that has less time says so, and the 504 names its field, which does not travel."""
    fake.plan = [stalls]
    gateway = await gateway_with(start_gateway, fake.url, {"deadline": "30s"})

    reply, took = await timed(gateway, "POST", "/r", {field: value}, body=b"{}")

    assert (reply.status, reply.code, reply.details) == (504, "Gateway.DeadlineExceeded", "X-Request-Timeout")
    assert 0.3 <= took < 0.3 + SLACK_SECONDS
    assert field.lower() not in fake.last.names


async def test_a_caller_never_lengthens_it(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """Asking for more than the route gives changes nothing."""
    fake.behaviour = stalls
    gateway = await gateway_with(start_gateway, fake.url, {"deadline": "300ms"})

    reply, took = await timed(gateway, "GET", "/r", {"X-Request-Timeout": "60"})

    assert (reply.status, reply.details) == (504, "limits.deadline")
    assert took < 0.3 + SLACK_SECONDS


@pytest.mark.parametrize("value", ["soon", "-1", "1e3", "1,5", "nan", "", "9999999999999"])
async def test_no_number_of_seconds(start_gateway: StartGateway, fake: FakeModelArts, value: str) -> None:
    """A time that is no plain number is refused, and nothing is sent."""
    gateway = await gateway_with(start_gateway, fake.url, {})

    reply = await gateway.ask("GET", "/r", {"X-Request-Timeout": value})

    assert (reply.status, reply.code) == (400, "Gateway.BadRequest")
    assert fake.connections == 0


@pytest.mark.parametrize(
    "framing", [{"Content-Length": "100"}, {"Transfer-Encoding": "chunked"}], ids=["length", "chunked"]
)
async def test_still_uploading_when_it_passes(
    start_gateway: StartGateway, fake: FakeModelArts, framing: dict[str, str]
) -> None:
    """A caller that is still uploading when the deadline passes gets 408, though it was never silent for long."""
    gateway = await gateway_with(start_gateway, fake.url, {"deadline": "400ms"})

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("POST", "/r", framing))
        trickle = asyncio.create_task(drip(caller, chunked="Transfer-Encoding" in framing))
        reply = await caller.reply()
        trickle.cancel()

    assert (reply.status, reply.code, reply.details) == (408, "Gateway.RequestTimeout", "limits.deadline")
    await fake.until(lambda: fake.open == 0)
    assert not any(request.complete for request in fake.received)


async def drip(caller: Caller, *, chunked: bool) -> None:
    while True:
        await caller.send(b"1\r\nx\r\n" if chunked else b"x")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("payload", ["hash", "unsigned"])
async def test_silent_while_uploading(start_gateway: StartGateway, fake: FakeModelArts, payload: str) -> None:
    """A caller that goes silent for ``idle`` in the middle of its body gets 408, also while the body is collected for its hash."""
    credentials = {
        "app": {
            "kind": "app_signature",
            "app_key": {"env": "KEY"},
            "app_secret": {"env": "SECRET"},
            "payload": payload,
        }
    }
    routes = [route("r", fake.url + "/v1/infers/S", "app", limits={"idle": "300ms"})]
    gateway = await start_gateway(document(*routes, credentials=credentials), ENVIRON)

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("POST", "/r", {"Content-Length": "100"}) + b"some of it")
        began = time.monotonic()
        reply = await caller.reply()

    assert (reply.status, reply.code, reply.details) == (408, "Gateway.RequestTimeout", "limits.idle")
    assert 0.3 <= time.monotonic() - began + 0.1 < 0.4 + SLACK_SECONDS
    assert not any(request.complete for request in fake.received)


async def test_slow_but_not_silent(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """``idle`` measures silence: an upload that takes longer than it, without ever being silent so long, passes."""
    gateway = await gateway_with(start_gateway, fake.url, {"idle": "300ms"})

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("POST", "/r", {"Content-Length": "8"}))
        for _ in range(8):
            await asyncio.sleep(0.1)
            await caller.send(b"x")
        reply = await caller.reply()

    assert reply.status == 200


async def test_an_answer_slow_but_not_silent(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """So does an answer whose events come one by one."""

    async def events(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.1)
            await call.send(b"1\r\nx\r\n")
        await call.send(b"0\r\n\r\n")

    fake.behaviour = events
    gateway = await gateway_with(start_gateway, fake.url, {"idle": "300ms"})

    reply = await gateway.ask("GET", "/r")

    assert reply.body == b"x" * 8


async def test_thinking_is_not_idle(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A model that thinks longer than ``idle`` before it answers is no broken stream."""

    async def thinks(call: Call) -> None:
        await call.body()
        await asyncio.sleep(0.7)
        await call.reply("200 OK", b"thought")

    fake.behaviour = thinks
    gateway = await gateway_with(start_gateway, fake.url, {"idle": "300ms"})

    assert (await gateway.ask("POST", "/r", body=b"{}")).body == b"thought"


async def test_first_byte(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """An upstream that does not begin its answer within ``first_byte`` after the request was sent: 504 naming it."""
    fake.behaviour = stalls
    gateway = await gateway_with(start_gateway, fake.url, {"first_byte": "300ms"})

    reply, took = await timed(gateway, "POST", "/r", body=b"{}")

    assert (reply.status, reply.code, reply.details) == (504, "Gateway.UpstreamTimeout", "limits.first_byte")
    assert reply.proxy_error == "http_response_timeout"
    assert 0.3 <= took < 0.3 + SLACK_SECONDS


async def test_first_byte_begins_with_the_last_sent(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """``first_byte`` does not count the upload."""
    gateway = await gateway_with(start_gateway, fake.url, {"first_byte": "300ms"})

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("POST", "/r", {"Content-Length": "6"}))
        for _ in range(6):
            await asyncio.sleep(0.1)
            await caller.send(b"x")
        reply = await caller.reply()

    assert reply.status == 200


@pytest.mark.parametrize(
    ("limits", "answer"),
    [
        pytest.param(
            {"deadline": "300ms"}, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", id="deadline, length"
        ),
        pytest.param(
            {"idle": "300ms"}, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", id="idle, chunked"
        ),
        pytest.param({"idle": "300ms"}, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf", id="idle, until close"),
    ],
)
async def test_passed_within_the_answer(
    start_gateway: StartGateway, fake: FakeModelArts, limits: Document, answer: bytes
) -> None:
    """After the head a passed limit cuts the connection: no second response, and nothing that looks whole."""
    fake.behaviour = raw(answer, then="stall")
    gateway = await gateway_with(start_gateway, fake.url, limits)

    async with Caller(gateway.port) as caller:
        await caller.send(request_bytes("GET", "/r"))
        head = await caller.head()
        rest = b""
        reset = False
        try:
            while piece := await caller.receive():
                rest += piece
        except ConnectionResetError:
            reset = True

    assert head.status == 200
    assert b"half" in rest
    assert b"HTTP/1.1" not in rest
    assert b"0\r\n\r\n" not in rest
    assert reset or head.get("Content-Length") or head.get("Transfer-Encoding"), "only a reset shows it"
    await fake.until(lambda: fake.open == 0)
    assert [line["outcome"] for line in await gateway.access_log()] == ["cut"]


async def test_connecting_takes_too_long(start_gateway: StartGateway) -> None:
    """A connection that does not come about within ``connect`` is a 504 that names it; nothing was sent."""
    async with await deaf_server() as server:
        port = server.sockets[0].getsockname()[1]
        gateway = await gateway_with(
            start_gateway, f"https://127.0.0.1:{port}", {"connect": "300ms"}, retry={"attempts": 1}
        )

        reply, took = await timed(gateway, "GET", "/r")

        assert (reply.status, reply.code, reply.details) == (504, "Gateway.UpstreamTimeout", "limits.connect")
        assert reply.proxy_error == "connection_timeout"
        assert 0.3 <= took < 0.3 + SLACK_SECONDS


async def test_the_deadline_covers_connecting(start_gateway: StartGateway) -> None:
    """A deadline that passes while connecting is the deadline's 504, with the phase in Proxy-Status."""
    async with await deaf_server() as server:
        port = server.sockets[0].getsockname()[1]
        gateway = await gateway_with(start_gateway, f"https://127.0.0.1:{port}", {"deadline": "300ms"})

        reply, took = await timed(gateway, "GET", "/r")

        assert (reply.status, reply.code, reply.details) == (504, "Gateway.DeadlineExceeded", "limits.deadline")
        assert reply.proxy_error == "connection_timeout"
        assert took < 0.3 + SLACK_SECONDS


async def deaf_server() -> asyncio.Server:
    """Accepts, and never says a word of TLS."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(4096):
                pass
        finally:
            writer.close()

    return await asyncio.start_server(deaf, "127.0.0.1", 0)


async def test_the_deadline_covers_the_wait_for_a_token(start_gateway: StartGateway) -> None:
    """A request that waits for a token when its deadline passes gets 503, not 504: nothing was sent."""
    async with FakeModelArts(stalls) as iam, FakeModelArts() as fake:
        credentials = {
            "token": {
                "kind": "iam_token",
                "iam_url": iam.url,
                "domain": "d",
                "user": "u",
                "project": "p",
                "password": {"env": "PASSWORD"},
            }
        }
        routes = [route("r", fake.url, "token", limits={"deadline": "300ms"})]
        gateway = await start_gateway(document(*routes, credentials=credentials), ENVIRON)

        reply, took = await timed(gateway, "POST", "/r", body=b"{}")

        assert (reply.status, reply.code) == (503, "Gateway.CredentialUnavailable")
        assert reply.get("Retry-After") is not None
        assert took < 0.3 + SLACK_SECONDS
        assert fake.connections == 0


async def test_one_deadline_for_all_attempts(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A second attempt gets what is left of the time, not a new deadline."""
    fake.behaviour = stalls

    async def late_refusal(call: Call) -> None:
        await call.body()
        await asyncio.sleep(0.3)
        await call.reply("502 Bad Gateway", b'{"error_code":"APIG.0201","error_msg":"Backend unavailable."}')

    fake.plan = [late_refusal]
    gateway = await gateway_with(start_gateway, fake.url, {"deadline": "700ms"}, retry={"idempotent": True})

    reply, took = await timed(gateway, "GET", "/r")

    assert (reply.status, len(fake.received)) == (504, 2)
    assert 0.7 <= took < 0.7 + SLACK_SECONDS / 2


async def test_heads_that_do_not_come(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A caller that does not finish its head within ``process.head`` gets 408 and is closed."""
    gateway = await start_gateway(document(route("r", fake.url), process={"head": "200ms"}))

    async with Caller(gateway.port) as caller:
        await caller.send(b"POST /r HTTP/1.1\r\nHost: x")
        reply = await caller.reply()
        closed = await caller.closed()

    assert (reply.status, reply.code, reply.details, closed) == (408, "Gateway.RequestTimeout", "process.head", True)


async def test_refused_connections_come_back_in_time(start_gateway: StartGateway) -> None:
    """Attempts that fail at once do not use the deadline up."""
    gateway = await gateway_with(start_gateway, f"http://127.0.0.1:{free_port()}", {})

    reply, took = await timed(gateway, "GET", "/r")

    assert (reply.status, reply.proxy_error) == (502, "connection_refused")
    assert took < SLACK_SECONDS


async def test_the_pause_before_another_attempt_is_no_part_of_connecting(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt has the whole of ``connect``, and nothing between two attempts counts."""
    monkeypatch.setattr("gateway.retry._PAUSE_SECONDS", (0.4, 0.4))
    gateway = await gateway_with(
        start_gateway, f"http://127.0.0.1:{free_port()}", {"connect": "50ms"}, retry={"attempts": 2}
    )

    reply, took = await timed(gateway, "GET", "/r")

    assert (reply.status, reply.proxy_error) == (502, "connection_refused")
    assert took >= 0.4
    assert [line["attempts"] for line in await gateway.access_log()] == [2]


async def test_limits_can_be_switched_off(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """``none`` switches a limit off; a caller may still set a deadline of its own."""
    fake.behaviour = stalls
    limits = dict.fromkeys(("deadline", "idle", "first_byte", "connect", "body"), "none")
    gateway = await gateway_with(start_gateway, fake.url, limits)

    reply = await gateway.ask("GET", "/r", {"X-Request-Timeout": "0.2"})

    assert (reply.status, reply.details) == (504, "X-Request-Timeout")


async def test_a_cut_answer_is_seen_as_cut(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A caller that counts finds less than was announced."""
    fake.behaviour = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    gateway = await gateway_with(start_gateway, fake.url, {})

    with pytest.raises(CutOff):
        await gateway.ask("GET", "/r")
