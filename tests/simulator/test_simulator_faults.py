"""Faults happen when they are asked for, and only then."""

import asyncio
import json
import time

import pytest

from gateway.simulator import Simulator

from .senders import Wall, connect, head_bytes, reply_of, send


async def fault(simulator: Simulator, words: str, path: str = "/echo", method: str = "GET") -> bytes:
    """Everything that arrives until the connection ends; a reset ends in ConnectionResetError."""
    url = simulator.urls["v2_open"] + path
    reader, writer = await connect(url)
    writer.write(head_bytes(url, method, [("X-Simulate", words)], None))
    received = b""
    try:
        while chunk := await reader.read(65536):
            received += chunk
    finally:
        writer.close()
    return received


@pytest.mark.parametrize(
    ("words", "status", "code", "fragment"),
    [
        pytest.param("status=503", 503, "ModelArts.4302", "", id="503"),
        pytest.param("status=502", 502, "APIG.0201", "unavailable", id="502"),
        pytest.param("status=418", 418, None, "", id="the model's own"),
        pytest.param("throttled", 429, "APIG.0308", "limit:10,time:1 minute", id="throttled"),
        pytest.param("expired-token", 401, "APIG.0301", "token expires", id="expired token"),
        pytest.param("stale-token", 401, "APIG.0307", "", id="stale token"),
        pytest.param("locked", 401, "APIG.0301", "failed to reach the limit", id="locked"),
        pytest.param("breaker-open", 500, "ModelArts.4302", "self protection", id="breaker"),
        pytest.param("no-response", 500, "ModelArts.4503", "failed to respond", id="no response"),
        pytest.param("early, not-running", 400, "ModelArts.4203", "", id="early"),
        pytest.param("backend-timeout", 504, "APIG.0201", "timeout", id="timeout"),
    ],
)
async def test_refusals(simulator: Simulator, words: str, status: int, code: str | None, fragment: str) -> None:
    """A documented refusal can be had by name or by status."""
    reply = reply_of(await fault(simulator, words))

    assert reply.status == status
    assert reply.json().get("error_code") == code
    assert fragment in reply.body.decode()


async def test_retry_after(simulator: Simulator) -> None:
    """A refusal can carry Retry-After."""
    assert reply_of(await fault(simulator, "throttled,retry-after=3")).fields["retry-after"] == "3"


@pytest.mark.parametrize("words", ["slow=200ms", "slow=0.2s", "pause=200ms", "slow=0.2s,status=503"])
async def test_slowness(simulator: Simulator, words: str) -> None:
    """The answer comes late, or with a silence in its middle."""
    began = time.monotonic()
    received = await fault(simulator, words)

    assert time.monotonic() - began >= 0.2
    assert reply_of(received).json()


async def test_reset(simulator: Simulator) -> None:
    """The connection is reset before any answer."""
    with pytest.raises(ConnectionResetError):
        await fault(simulator, "reset")


async def test_reset_in_mid_body(simulator: Simulator) -> None:
    """A head and a part of the body, then a reset."""
    url = simulator.urls["v2_open"] + "/echo"
    reader, writer = await connect(url)
    writer.write(head_bytes(url, "GET", [("X-Simulate", "reset-mid-body")], None))

    head = await reader.readuntil(b"\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1_000_000)

    assert head.startswith(b"HTTP/1.1 200")
    writer.close()


async def test_close(simulator: Simulator) -> None:
    """The connection ends without an answer, or in the middle of one."""
    assert await fault(simulator, "close") == b""

    cut = reply_of(await fault(simulator, "close-mid-body"))
    assert cut.status == 200
    assert 0 < len(cut.body) < int(cut.fields["content-length"])


async def test_a_stream_cut_in_its_middle(simulator: Simulator) -> None:
    """A stream of unknown length ends without its last chunk."""
    url = simulator.urls["v2_open"] + "/v1/chat/completions"
    body = b'{"messages": [{"role": "user", "content": "one two three"}], "stream": true}'

    reply = await send(url, "POST", [("X-Simulate", "close-mid-body")], body)

    assert reply.body.count(b"data: ") == 3
    assert not reply.body.endswith(b"0\r\n\r\n")


async def test_garbage(simulator: Simulator) -> None:
    """What comes is no HTTP."""
    assert not (await fault(simulator, "garbage")).startswith(b"HTTP/")


@pytest.mark.parametrize(("words", "received"), [("stall", b""), ("stall-mid-body", b"HTTP/1.1 200")])
async def test_stall_and_a_caller_that_leaves(simulator: Simulator, words: str, received: bytes) -> None:
    """Nothing more comes; when the caller goes, the request is over and counted as left."""
    url = simulator.urls["v2_open"] + "/echo"
    reader, writer = await connect(url)
    writer.write(head_bytes(url, "GET", [("X-Simulate", words)], None))
    await asyncio.sleep(0.1)
    assert simulator.state["in_flight"] == 1

    writer.close()
    data = await reader.read()
    async with asyncio.timeout(5):
        while simulator.state["in_flight"]:
            await asyncio.sleep(0.01)

    assert data[:12] == received
    assert simulator.state["left"] == 1


async def test_early_answers_do_not_wait_for_the_body(simulator: Simulator) -> None:
    """With ``early`` the answer comes while the upload is still on its way."""
    url = simulator.urls["v2_open"] + "/echo"
    reader, writer = await connect(url)
    writer.write(head_bytes(url, "POST", [("X-Simulate", "early,status=503")], 1000))

    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 503")
    writer.close()


@pytest.mark.parametrize("words", ["nonsense", "slow=2", "status=200", "stall=1", "status=x"])
async def test_unknown_words(simulator: Simulator, words: str) -> None:
    """A word that is not known is said to be so, and nothing else happens."""
    reply = reply_of(await fault(simulator, words))

    assert (reply.status, reply.json()["error_code"]) == (400, "Simulator.UnknownFault")


async def test_faults_are_behind_the_gate(simulator: Simulator) -> None:
    """A fault changes the answer to a good request; a bad one is refused as ever."""
    reply = await send(simulator.urls["v1_app"] + "/echo", "GET", [("X-Simulate", "status=503")])

    assert reply.status == 401


async def test_planned_faults(simulator: Simulator) -> None:
    """Faults planned by an admin call hit the family, the path and the number of requests that were named."""
    admin = simulator.urls["admin"] + "/_simulator/faults"
    plan = {"fault": "status=503", "family": "v2_open", "path": "/echo", "times": 2}

    planned = await send(admin, "POST", [], json.dumps(plan).encode())
    statuses = [(await send(simulator.urls["v2_open"] + path)).status for path in ("/x", "/echo", "/echo", "/echo")]

    assert (planned.status, planned.json()) == (201, {"faults": [plan]})
    assert statuses == [200, 503, 503, 200]
    assert (await send(admin)).json() == {"faults": []}


async def test_planned_faults_can_be_cleared(simulator: Simulator) -> None:
    """DELETE forgets what was planned."""
    admin = simulator.urls["admin"] + "/_simulator/faults"
    await send(admin, "POST", [], b'{"fault": "throttled"}')
    assert (await send(simulator.urls["v2_open"])).status == 429

    await send(admin, "DELETE")

    assert (await send(simulator.urls["v2_open"])).status == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"fault": "nonsense"}', b'{"fault": "reset", "times": 0}'])
async def test_bad_plans(simulator: Simulator, body: bytes) -> None:
    """A plan that cannot be carried out is refused."""
    assert (await send(simulator.urls["admin"] + "/_simulator/faults", "POST", [], body)).status == 400


async def test_clock(simulator: Simulator, wall: Wall, token: str) -> None:
    """The clock can be moved: tokens age, and Date shows it."""
    moved = await send(simulator.urls["admin"] + "/_simulator/clock", "POST", [], b'{"offset_seconds": 86400}')
    reply = await send(simulator.urls["v1_iam"] + "/echo", "GET", [("X-Auth-Token", token)])

    assert moved.json() == {"offset_seconds": 86400}
    assert reply.status == 401
    assert reply.fields["date"] == "Wed, 15 Nov 2023 22:13:20 GMT"


async def test_state(simulator: Simulator, token: str) -> None:
    """The state counts what came and what became of it."""
    await send(simulator.urls["v1_iam"] + "/echo?x=1", "POST", [("X-Auth-Token", token)], b"abc")
    await send(simulator.urls["v1_iam"], "GET", [("X-Auth-Token", "MIIwrong")])
    await send(simulator.urls["iam"] + "/nowhere")
    state = (await send(simulator.urls["admin"] + "/_simulator/state")).json()

    assert state["requests"] == {"iam": 1, "v1_iam": 2, "-": 1}
    assert state["accepted"] == {"token": 1}
    assert state["refused"] == {"APIG.0301": 1, "APIG.0101": 1}
    assert state["tokens_issued"] == state["iam_attempts"] == 1
    assert state["last_request"]["target"] == "/nowhere"
    assert token not in json.dumps(state)


async def test_locks_can_be_lifted(simulator: Simulator) -> None:
    """An admin call ends every lock."""
    for _ in range(6):
        simulator.gate.locks.failed("somebody")
    assert simulator.state["locked"]["access_keys"] == ["somebody"]

    await send(simulator.urls["admin"] + "/_simulator/locks", "DELETE")

    assert simulator.state["locked"]["access_keys"] == []
