"""What is decided once for requests with the same head, and what is decided for each of them."""

import asyncio
import time

import pytest
import yaml
from fake_modelarts import Call, FakeModelArts
from raw_caller import Caller, Reply
from running import InProcess, StartGateway, document, route

ENVIRON = {"CODE": "code-of-the-test"}
CODE = {"code": {"kind": "app_code", "app_code": {"env": "CODE"}}}
HEAD = b"POST /r/x HTTP/1.1\r\nHost: g\r\nAccept: a\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
async def gateway(start_gateway: StartGateway, fake: FakeModelArts) -> InProcess:
    return await start_gateway(document(route("r", f"{fake.url}/v1", "code"), credentials=CODE), ENVIRON)


async def replies(port: int, *requests: bytes, address: str = "127.0.0.1") -> list[Reply]:
    """What is answered to requests that follow each other on one connection, from an address of this machine."""
    caller = Caller(port)
    caller.reader, caller.writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    try:
        got = []
        for request in requests:
            await caller.send(request)
            got.append(await caller.reply())
        return got
    finally:
        caller.writer.close()


async def test_each_request_is_its_own(gateway: InProcess, fake: FakeModelArts) -> None:
    """The same head again: another id, its own body and length, the credential once, and the rest alike."""
    bodies = [b"12345", b"12345", b"", b"123456789", b"12345"]
    got = await replies(gateway.gateway.port, *(HEAD % len(body) + body for body in bodies))

    assert [received.body for received in fake.received] == bodies
    assert [received.all("Content-Length") for received in fake.received] == [[str(len(body))] for body in bodies]
    assert all(received.all("X-Apig-AppCode") == ["code-of-the-test"] for received in fake.received)
    assert {received.target for received in fake.received} == {"/v1/x"}
    ids = [reply.get("X-Request-Id") for reply in got]
    assert len(set(ids)) == len(bodies)
    assert ids == [received.all("X-Request-Id")[0] for received in fake.received]


async def test_who_asks_is_asked_each_time(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """The same bytes from another address are another caller's: what the one may do, the other may not."""
    callers = [
        {"name": "a", "addresses": ["127.0.0.1/32"], "routes": ["r"]},
        {"name": "b", "addresses": ["127.0.0.2/32"], "routes": ["other"]},
    ]
    gateway = await start_gateway(document(route("r", fake.url), route("other", fake.url), callers=callers))
    port, request = gateway.gateway.port, HEAD % 0

    allowed = await replies(port, *[request] * 4)
    refused = await replies(port, *[request] * 3, address="127.0.0.2")
    unknown = await replies(port, request, address="127.0.0.3")
    again = await replies(port, request)

    assert [reply.status for reply in [*allowed, *refused, *unknown, *again]] == [200] * 4 + [403] * 3 + [401, 200]
    assert [reply.code for reply in refused] == ["Gateway.CallerNotAllowed"] * 3
    lines = await gateway.access_log()
    assert [line["caller"] for line in lines] == ["a"] * 4 + ["b"] * 3 + [None, "a"]
    assert len(fake.received) == 5


async def test_refusals_stay(start_gateway: StartGateway, fake: FakeModelArts) -> None:
    """A head that is refused is refused each time."""
    gateway = await start_gateway(document(route("r", fake.url, methods=["POST"])))
    heads = {
        b"GET /r HTTP/1.1\r\nHost: g\r\n\r\n": 405,
        b"POST /r HTTP/1.1\r\nHost: g\r\nOrigin: http://a\r\nContent-Length: 0\r\n\r\n": 403,
        b"POST /r?a=%zz HTTP/1.1\r\nHost: g\r\nX-Request-Timeout: soon\r\nContent-Length: 0\r\n\r\n": 400,
        b"POST /nowhere HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n": 404,
    }
    for head, status in heads.items():
        assert [reply.status for reply in await replies(gateway.gateway.port, head, head, head)] == [status] * 3
    assert fake.received == []


async def test_a_reload_counts_for_heads_that_were_seen(
    gateway: InProcess, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request with a head that came before takes the new configuration; what was decided before went with the old."""
    monkeypatch.setenv("CODE", ENVIRON["CODE"])
    request = HEAD % 0
    await replies(gateway.gateway.port, request, request)
    config = yaml.safe_load(gateway.path.read_text())
    config["routes"][0]["upstream"] = f"{fake.url}/v2"
    config["routes"][0]["credential"] = "none"
    gateway.path.write_text(yaml.safe_dump(config, sort_keys=False))

    old = gateway.gateway.serving.proxy.site
    assert await gateway.gateway.reload()
    await replies(gateway.gateway.port, request)

    assert fake.last.target == "/v2/x"
    assert fake.last.all("X-Apig-AppCode") == []
    new = gateway.gateway.serving.proxy.site
    assert (new is old, list(new.plans) == list(old.plans)) == (False, True)
    assert [plan.outline.path for plan in new.plans.values()] == ["/v2/x"]


async def test_time_runs_for_each(gateway: InProcess, fake: FakeModelArts) -> None:
    """A wish for less time, in a head that came before, is each request's own."""

    async def never(call: Call) -> None:
        await asyncio.sleep(30)

    request = b"GET /r HTTP/1.1\r\nHost: g\r\nX-Request-Timeout: 0.3\r\n\r\n"
    fake.behaviour = never
    began = time.monotonic()
    got = await replies(gateway.gateway.port, request, request, request)

    assert [reply.status for reply in got] == [504] * 3
    assert 0.9 <= time.monotonic() - began < 10


async def test_what_is_remembered_is_bounded_and_holds_no_credential(gateway: InProcess, fake: FakeModelArts) -> None:
    """Callers choose heads: the plans for them are few, and a credential is in none."""
    site = gateway.gateway.serving.proxy.site
    several = [b"GET /r/%d HTTP/1.1\r\nHost: g\r\n\r\n" % number for number in range(1500)]
    await replies(gateway.gateway.port, *several)

    assert len(fake.received) == len(several)
    assert 0 < len(site.plans) <= 512
    assert not [plan for plan in site.plans.values() if b"code-of-the-test" in plan.outline.beginning]
