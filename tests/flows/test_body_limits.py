"""12 MiB pass and one byte more does not, however the body comes and however it is signed."""

import asyncio

import pytest
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, CutOff, request_bytes
from running import Document, InProcess, StartGateway, document, route

LIMIT = 12 * 1024 * 1024
PIECE = b"\xc3" * 65536
ENVIRON = {"KEY": "key-of-the-test", "SECRET": "secret-of-the-test"}
PAYLOADS = ["auto", "hash", "unsigned", "none"]
FRAMINGS = [pytest.param(False, id="declared"), pytest.param(True, id="chunked")]


def credentials() -> Document:
    app = {"kind": "app_signature", "app_key": {"env": "KEY"}, "app_secret": {"env": "SECRET"}}
    return {payload: {**app, "payload": payload} for payload in ("auto", "hash", "unsigned")}


async def limited_gateway(start_gateway: StartGateway, fake: FakeModelArts, **more: object) -> InProcess:
    routes = [route(name, f"{fake.url}/v1/infers/S", name, **more) for name in PAYLOADS]
    return await start_gateway(document(*routes, credentials=credentials()), ENVIRON)


async def upload(caller: Caller, size: int, *, chunked: bool) -> None:
    """Send so many body bytes, as far as the gateway takes them."""
    try:
        left = size
        while left:
            piece = PIECE[: min(left, len(PIECE))]
            left -= len(piece)
            await caller.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await caller.send(b"0\r\n\r\n")
    except ConnectionError:
        pass  # the answer has been given


def head(path: str, size: int, *, chunked: bool, expect: bool = False) -> bytes:
    fields = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
    return request_bytes("POST", path, fields | ({"Expect": "100-continue"} if expect else {}))


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("chunked", FRAMINGS)
async def test_the_limit_itself_passes(start_gateway: StartGateway, payload: str, chunked: bool) -> None:
    """A body of exactly the limit arrives whole."""
    async with FakeModelArts(keep_bodies=False) as fake:
        gateway = await limited_gateway(start_gateway, fake)

        async with Caller(gateway.port) as caller:
            await caller.send(head(f"/{payload}", LIMIT, chunked=chunked))
            sending = asyncio.create_task(upload(caller, LIMIT, chunked=chunked))
            reply = await caller.reply()
            await sending

        assert (reply.status, reply.json()["body_bytes"]) == (200, LIMIT)
        assert fake.last.chunked == (chunked and payload != "hash")


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_one_byte_more_declared(start_gateway: StartGateway, fake: FakeModelArts, payload: str) -> None:
    """Declared over the limit: 413 before anything goes upstream, and before the caller has uploaded."""
    gateway = await limited_gateway(start_gateway, fake)

    async with Caller(gateway.port) as caller:
        await caller.send(head(f"/{payload}", LIMIT + 1, chunked=False))
        reply = await caller.reply()

    assert (reply.status, reply.code, reply.details) == (413, "Gateway.BodyTooLarge", "limits.body")
    assert "12 MiB" in reply.json()["error_msg"]
    assert fake.connections == 0


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_one_byte_more_chunked(start_gateway: StartGateway, payload: str) -> None:
    """Found over the limit on the way: 413, and what the upstream saw was broken off, never a shorter whole message."""
    async with FakeModelArts(keep_bodies=False) as fake:
        gateway = await limited_gateway(start_gateway, fake)

        async with Caller(gateway.port) as caller:
            await caller.send(head(f"/{payload}", 0, chunked=True))
            sending = asyncio.create_task(upload(caller, LIMIT + 1, chunked=True))
            reply = await caller.reply()
            await sending
        await fake.until(lambda: fake.open == 0)

        assert (reply.status, reply.code, reply.details) == (413, "Gateway.BodyTooLarge", "limits.body")
        assert [request.complete for request in fake.received] == ([] if payload == "hash" else [False])


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_refused_before_the_upload(start_gateway: StartGateway, fake: FakeModelArts, payload: str) -> None:
    """A caller that asks first (Expect: 100-continue) gets 413 and is never told to go on."""
    gateway = await limited_gateway(start_gateway, fake)

    async with Caller(gateway.port) as caller:
        await caller.send(head(f"/{payload}", LIMIT + 1, chunked=False, expect=True))
        reply = await caller.reply()

        assert (reply.status, reply.interims) == (413, [])
        assert await caller.closed()  # whatever follows could be the body or the next request


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("chunked", FRAMINGS)
async def test_invited_where_it_fits(
    start_gateway: StartGateway, fake: FakeModelArts, payload: str, chunked: bool
) -> None:
    """A caller that asks first and fits is told to go on, once, and its request leaves without Expect."""
    gateway = await limited_gateway(start_gateway, fake)

    async with Caller(gateway.port) as caller:
        await caller.send(head(f"/{payload}", 3, chunked=chunked, expect=True))
        interim = await caller.head()
        await caller.send(b"3\r\nabc\r\n0\r\n\r\n" if chunked else b"abc")
        reply = await caller.reply()

    assert (interim.status, reply.status, reply.interims) == (100, 200, [])
    assert fake.last.body == b"abc"
    assert "expect" not in fake.last.names


async def test_encoded_bodies_count_as_they_are(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A compressed body is neither opened nor counted as anything but the bytes received."""
    import gzip

    gateway = await limited_gateway(start_gateway, fake, limits={"body": "64KiB"})
    body = gzip.compress(b"\x00" * 1_000_000)

    reply = await gateway.ask("POST", "/none", {"Content-Encoding": "gzip"}, body=body)

    assert reply.status == 200
    assert fake.last.body == body
    assert fake.last.get("Content-Encoding") == "gzip"


async def test_a_tail_that_never_comes(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A caller that goes away in the middle of its body: the upstream sees a broken message, never a whole one."""
    gateway = await limited_gateway(start_gateway, fake)

    async with Caller(gateway.port) as caller:
        await caller.send(head("/none", 0, chunked=True) + b"5\r\nabcde\r\n")
        await fake.until(lambda: bool(fake.received) and fake.received[0].body_bytes == 5)
    await fake.until(lambda: fake.open == 0)

    assert fake.received[0].complete is False
    assert (await gateway.access_log())[0]["outcome"] == "caller_left"


async def test_an_early_answer_is_relayed(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """An upstream that refuses before the upload has ended is heard at once."""

    async def early(call: Call) -> None:
        await call.reply("403 Forbidden", b'{"error_code":"APIG.0306","error_msg":"denied"}')
        await call.reader.read(1)

    fake.behaviour = early
    gateway = await limited_gateway(start_gateway, fake)

    async with Caller(gateway.port) as caller:
        await caller.send(head("/none", 1000, chunked=False) + b"some of it")
        reply = await caller.reply()

    assert (reply.status, reply.code) == (403, "APIG.0306")
    assert not fake.received[0].complete


async def test_answers_have_no_limit(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """An answer larger than any limit of ours passes whole."""
    size = 32 * 1024 * 1024

    async def large(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(size // len(PIECE)):
            await call.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
        await call.send(b"0\r\n\r\n")

    fake.behaviour = large
    gateway = await limited_gateway(start_gateway, fake)

    reply = await gateway.ask("GET", "/none")

    assert len(reply.body) == size


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_broken_framing_never_looks_whole(start_gateway: StartGateway, fake: FakeModelArts, payload: str) -> None:
    """Chunk framing that breaks on the way: 400, and nothing upstream that could pass for a whole message."""
    gateway = await limited_gateway(start_gateway, fake)

    async with Caller(gateway.port) as caller:
        await caller.send(head(f"/{payload}", 0, chunked=True) + b"5\r\nabcde\r\n")
        await asyncio.sleep(0.02)
        await caller.send(b"zz\r\nabc\r\n0\r\n\r\n")
        reply = await caller.reply()
        with pytest.raises((CutOff, ConnectionError)):
            await caller.reply()

    assert (reply.status, reply.code) == (400, "Gateway.BadRequest")
    await fake.until(lambda: fake.open == 0)
    assert not any(request.complete for request in fake.received)
