"""The running program's access log: one line for each request, however it ends."""

import asyncio
import json
import signal
import socket
import struct
from typing import Any

from fake_modelarts import Call, FakeModelArts, raw, says, stalls
from raw_caller import Caller, CutOff, request_bytes
from running import Process, StartProcess, document, route

MEMBERS = {
    "time", "request_id", "upstream_request_id", "caller", "route", "method", "path", "code", "outcome", "error",
    "upstream_code", "attempts", "duration_ms", "first_byte_ms", "request_bytes", "response_bytes", "body_mode",
}  # fmt: skip
ENVIRON = {"CALLER": "token-of-the-caller", "KEY": "key", "SECRET": "secret"}


async def ended(process: Process) -> list[dict[str, Any]]:  # Any: JSON
    """Stop it, and return the lines of its access log."""
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0
    return process.access_log()


async def test_each_ending(start_process: StartProcess, fake: FakeModelArts) -> None:
    """complete, cut, caller_left (499), and refusals of our own, each once and in full."""
    callers = [{"name": "team-a", "token": {"env": "CALLER"}, "routes": ["*"]}]
    app = {"kind": "app_signature", "app_key": {"env": "KEY"}, "app_secret": {"env": "SECRET"}, "payload": "hash"}
    process = await start_process(
        document(
            route("r", fake.url),
            route("signed", f"{fake.url}/v1/infers/S", "app", replay="1KiB"),
            callers=callers,
            credentials={"app": app},
        ),
        ENVIRON,
    )
    known = {"X-API-Key": ENVIRON["CALLER"]}

    fake.plan = [says("200 OK", b"hello", "X-Request-Id: theirs")]
    await process.ask("POST", "/r/a?secret=1", known | {"X-Request-Id": "complete-1"}, body=b"abc")

    fake.plan = [raw(b"HTTP/1.1 206 OK\r\nContent-Length: 100\r\n\r\nhalf")]
    try:
        await process.ask("GET", "/r", known | {"X-Request-Id": "cut-1"})
    except CutOff:
        pass

    fake.plan = [stalls]
    async with Caller(process.port) as caller:
        await caller.send(request_bytes("POST", "/r", known | {"X-Request-Id": "left-1"}, b"abc"))
        await fake.until(lambda: fake.received[-1].complete and fake.received[-1].get("X-Request-Id") == "left-1")
        connection = caller.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.writer.transport.abort()
        await fake.until(lambda: fake.open <= 1)

    await process.ask("GET", "/nowhere", known | {"X-Request-Id": "refused-1"})
    await process.ask("GET", "/r", {"X-Request-Id": "unknown-1"})
    await process.ask("POST", "/signed", known | {"X-Request-Id": "file-1"}, body=b"x" * 5000)
    async with Caller(process.port) as caller:
        await caller.send(b"nonsense\r\n\r\n")
        await caller.reply()

    lines = await ended(process)
    by_id = {line["request_id"]: line for line in lines}
    assert len(lines) == 7
    assert all(set(line) == MEMBERS for line in lines)

    def part(request_id: str, *names: str) -> tuple[object, ...]:
        return tuple(by_id[request_id][name] for name in names)

    assert part("complete-1", "code", "outcome", "error", "upstream_code", "attempts") == (
        200,
        "complete",
        None,
        200,
        1,
    )
    assert part("complete-1", "caller", "route", "method", "path") == ("team-a", "r", "POST", "/r/a")
    assert part("complete-1", "request_bytes", "response_bytes", "upstream_request_id") == (3, 5, "theirs")
    assert by_id["complete-1"]["duration_ms"] >= by_id["complete-1"]["first_byte_ms"] >= 0
    assert part("cut-1", "code", "outcome", "error") == (206, "cut", "Gateway.UpstreamProtocolError")
    assert part("left-1", "code", "outcome", "upstream_code", "first_byte_ms") == (499, "caller_left", None, None)
    assert part("refused-1", "code", "outcome", "error", "route") == (404, "complete", "Gateway.RouteNotFound", "-")
    assert part("unknown-1", "code", "error", "caller", "attempts") == (401, "Gateway.CallerUnknown", None, 0)
    assert part("file-1", "code", "body_mode", "request_bytes") == (200, "file", 5000)
    assert [line["error"] for line in lines if line["code"] == 400] == ["Gateway.BadRequest"]


async def test_hostile_paths_stay_one_line(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Whatever a caller puts into its path, a line of the log is one JSON object."""
    process = await start_process(document(route("r", fake.url)))
    for target in ("/r/%0a%22}", '/r/"},{"code":200', "/r/\x1b[31m", "/r/" + "x" * 5000, "/r/\\u000a"):
        async with Caller(process.port) as caller:
            await caller.send(request_bytes("GET", target))
            await caller.reply()

    lines = await ended(process)

    assert len(lines) == 5
    assert all(len(json.dumps(line)) < 4096 for line in lines)


async def test_ids(start_process: StartProcess, fake: FakeModelArts) -> None:
    """A caller's sensible X-Request-Id is kept and sent on; any other is replaced; every answer tells it."""
    process = await start_process(document(route("r", fake.url)))
    kept = ["a", "A-z0_9.:/+=", "x" * 128]
    replaced = ["", "x" * 129, "a b", 'a"b', "ä"]

    for theirs in kept:
        reply = await process.ask("GET", "/r", {"X-Request-Id": theirs})
        assert fake.last.all("X-Request-Id") == [theirs]
        assert (reply.get("X-Gateway-Request-Id"), reply.all("X-Request-Id")) == (theirs, [theirs])
    made = set()
    for theirs in replaced:
        reply = await process.ask("GET", "/r", {"X-Request-Id": theirs})
        ours = reply.get("X-Gateway-Request-Id") or ""
        assert fake.last.all("X-Request-Id") == [ours]
        assert ours not in {"", theirs}
        made.add(ours)
    assert len(made) == len(replaced)


async def test_while_a_request_runs_nothing_is_written(start_process: StartProcess, fake: FakeModelArts) -> None:
    """In flight is a metric; the line is written at the end, and the request is counted once."""
    release = asyncio.Event()

    async def waits(call: Call) -> None:
        await call.body()
        await release.wait()
        await call.reply("201 Created", b"done")

    fake.behaviour = waits
    process = await start_process(document(route("r", fake.url)))
    asking = asyncio.create_task(process.ask("POST", "/r", body=b"abc"))
    await fake.until(lambda: bool(fake.received))

    running = (await process.samples("gateway_requests_in_flight"))['route="r"']
    release.set()
    await asking

    assert running == 1
    assert (await process.samples("gateway_requests_in_flight"))['route="r"'] == 0
    assert (await process.samples("gateway_requests_total"))['code="201",method="POST",route="r"'] == 1
    assert (await process.samples("gateway_request_body_bytes_total"))['route="r"'] == 3
    assert (await process.samples("gateway_response_body_bytes_total"))['route="r"'] == 4
    assert len(await ended(process)) == 1
