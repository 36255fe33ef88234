"""Callers of the running program: who they are, which routes are theirs, and how much of them."""

import asyncio
import re
import signal
from pathlib import Path

import pytest
from fake_modelarts import Call, FakeModelArts
from raw_caller import Reply, ask, request_bytes
from running import StartProcess, document, route


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_tokens_from_files(
    start_process: StartProcess, fake: FakeModelArts, tmp_path: Path, workers: int
) -> None:
    """Bearer or X-API-Key, each caller its routes; a rotated file counts without a restart, and the old token no longer."""
    for name in ("team-a", "team-b"):
        (tmp_path / name).write_text(f"{name}-first\n")
    callers = [
        {"name": "team-a", "token": {"file": str(tmp_path / "team-a")}, "routes": ["r"]},
        {"name": "team-b", "token": {"file": str(tmp_path / "team-b")}, "routes": ["*"]},
    ]
    process = await start_process(
        document(route("r", fake.url), route("other", fake.url), callers=callers, workers=workers)
    )

    async def status(target: str, fields: dict[str, str]) -> int:
        return (await process.ask("GET", target, fields)).status

    first = [
        await status("/r", bearer("team-a-first")),
        await status("/r", {"X-API-Key": "team-a-first"}),
        await status("/other", bearer("team-a-first")),
        await status("/other", {"X-API-Key": "team-b-first"}),
        await status("/r", bearer("team-a-firs")),
        await status("/r", {}),
        await status("/nowhere", {}),
    ]
    travelled = {name for received in fake.received for name in received.names}
    (tmp_path / "team-a").write_text("team-a-second\n")
    async with asyncio.timeout(6):
        while {await status("/r", bearer("team-a-second")) for _ in range(14)} != {200}:
            await asyncio.sleep(0.1)
    afterwards = {await status("/r", bearer("team-a-first")) for _ in range(8)}
    process_log = process.stderr
    text = (await ask(process.admin_port, "GET", "/metrics")).body.decode()
    process.signal(signal.SIGTERM)
    await process.ended()

    assert first == [200, 200, 403, 200, 401, 401, 401]
    assert afterwards == {401}
    assert travelled & {"authorization", "x-api-key"} == set()
    assert {line["caller"] for line in process.access_log()} == {"team-a", "team-b", None}
    assert "team-" not in re.sub(r"# .*", "", text)  # names of callers are no labels
    assert "-second" not in process_log + process.stdout


async def test_addresses(start_process: StartProcess, fake: FakeModelArts) -> None:
    """A range of addresses is a caller, the narrowest range first; whoever comes from elsewhere is nobody."""
    callers = [
        {"name": "machine", "addresses": ["127.0.0.0/8"], "routes": ["r"]},
        {"name": "neighbour", "addresses": ["127.0.0.2/32"], "routes": ["other"]},
    ]
    process = await start_process(
        document(route("r", fake.url), route("other", fake.url), callers=callers) | {"listen": "127.0.0.1:0"}
    )

    async def asked(source: str, target: str) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port, local_addr=(source, 0))
        writer.write(request_bytes("GET", target, {"Connection": "close"}))
        answer = await reader.read()
        writer.close()
        return int(answer.split(b" ", 2)[1])

    seen = [await asked(source, target) for source in ("127.0.0.1", "127.0.0.2") for target in ("/r", "/other")]

    assert seen == [200, 403, 403, 200]


class Waits:
    """A behaviour whose answers wait for ``release``."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        await call.body()
        await self.release.wait()
        await call.reply("200 OK", b"ok")


@pytest.mark.parametrize("whose", ["caller", "route"])
async def test_how_many_at_once(start_process: StartProcess, fake: FakeModelArts, whose: str) -> None:
    """``in_flight`` of a caller or a route: one more is 503 at once, others go on, and there is room when one has ended."""
    waits = fake.behaviour = Waits()
    limited = {"in_flight": 2}
    callers = [
        {"name": "a", "token": {"env": "A"}, "routes": ["*"], **({"limits": limited} if whose == "caller" else {})},
        {"name": "b", "token": {"env": "B"}, "routes": ["*"]},
    ]
    process = await start_process(
        document(
            route("r", fake.url, **({"limits": limited} if whose == "route" else {})),
            route("other", fake.url),
            callers=callers,
        ),
        {"A": "token-of-a", "B": "token-of-b"},
    )

    running = [asyncio.create_task(process.ask("GET", "/r", bearer("token-of-a"))) for _ in range(2)]
    await fake.until(lambda: len(fake.received) == 2)
    refused = await process.ask("GET", "/r", bearer("token-of-a"))
    elsewhere = ("/r", "token-of-b") if whose == "caller" else ("/other", "token-of-a")
    running.append(asyncio.create_task(process.ask("GET", elsewhere[0], bearer(elsewhere[1]))))
    await fake.until(lambda: len(fake.received) == 3)
    waits.release.set()
    replies = await asyncio.gather(*running)
    after = await process.ask("GET", "/r", bearer("token-of-a"))

    assert (refused.status, refused.code) == (503, "Gateway.Overloaded")
    assert refused.get("Retry-After") == "1"
    assert [reply.status for reply in (*replies, after)] == [200] * 4


@pytest.mark.parametrize("whose", ["caller", "route"])
async def test_how_fast(start_process: StartProcess, fake: FakeModelArts, whose: str) -> None:
    """``rate`` of a caller or a route: the burst passes, then 429 says when to come back, and that is true."""
    limited = {"rate": "2/s burst 4"}
    callers = [
        {"name": "a", "token": {"env": "A"}, "routes": ["*"], **({"limits": limited} if whose == "caller" else {})},
        {"name": "b", "token": {"env": "B"}, "routes": ["*"]},
    ]
    process = await start_process(
        document(
            route("r", fake.url, **({"limits": limited} if whose == "route" else {})),
            route("other", fake.url),
            callers=callers,
        ),
        {"A": "token-of-a", "B": "token-of-b"},
    )

    replies: list[Reply] = [await process.ask("GET", "/r", bearer("token-of-a")) for _ in range(6)]
    elsewhere = ("/r", "token-of-b") if whose == "caller" else ("/other", "token-of-a")
    others = [(await process.ask("GET", elsewhere[0], bearer(elsewhere[1]))).status for _ in range(6)]
    pause = replies[-1].get("Retry-After")
    await asyncio.sleep(float(pause or "nan"))
    after = await process.ask("GET", "/r", bearer("token-of-a"))

    assert [reply.status for reply in replies] == [200] * 4 + [429] * 2
    assert (replies[-1].code, pause) == ("Gateway.RateLimited", "1")
    assert others == [200] * 6
    assert after.status == 200
