"""What the running program tells of itself: every metric, upstreams' errors by class, and logs that hold up nobody."""

import asyncio
import re
import signal
import time

import pytest
from fake_modelarts import Call, FakeModelArts, refuses
from raw_caller import Caller, ask, request_bytes
from running import Process, StartProcess, document, free_port, route

from flows.setups import credentials, environ
from gateway.simulator import Simulator

# Every metric that is promised, with its labels.
PROMISED = {
    "gateway_requests_total": {"route", "method", "code"},
    "gateway_request_duration_seconds_count": {"route"},
    "gateway_request_duration_seconds_bucket": {"route", "le"},
    "gateway_upstream_first_byte_seconds_count": {"route"},
    "gateway_upstream_first_byte_seconds_bucket": {"route", "le"},
    "gateway_requests_in_flight": {"route"},
    "gateway_request_body_bytes_total": {"route"},
    "gateway_response_body_bytes_total": {"route"},
    "gateway_errors_total": {"route", "error"},
    "gateway_upstream_errors_total": {"route", "class"},
    "gateway_retries_total": {"route", "reason"},
    "gateway_credential_refreshes_total": {"credential", "result"},
    "gateway_credential_expiry_timestamp_seconds": {"credential"},
    "gateway_credential_usable": {"credential"},
    "gateway_clock_skew_seconds": {"upstream"},
    "gateway_upstream_connections": {"upstream", "state"},
    "gateway_body_memory_bytes": set(),
    "gateway_config_last_reload_successful": set(),
    "gateway_config_last_reload_success_timestamp_seconds": set(),
    "gateway_worker_restarts_total": set(),
    "gateway_build_info": {"version"},
}


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two workers"])
async def test_every_metric(
    start_process: StartProcess, fake: FakeModelArts, modelarts: Simulator, workers: int
) -> None:
    """All of them are there under their names and labels after a little of everything, with what happened as their values."""
    process = await start_process(
        document(
            route("token", modelarts.urls["v1_iam"], "token"),
            route("dead", f"http://127.0.0.1:{free_port()}"),
            route("r", fake.url),
            credentials={"token": credentials(modelarts)["token"]},
            workers=workers,
        ),
        environ(modelarts),
    )
    async with asyncio.timeout(10):
        while (await ask(process.admin_port, "GET", "/readyz")).status != 200:
            await asyncio.sleep(0.05)
    fake.plan = [refuses("429 Too Many Requests", "APIG.0308", "The throttling threshold has been reached.")]
    for method, target in (("POST", "/token/echo"), ("GET", "/dead"), ("GET", "/r"), ("PURGE", "/r"), ("GET", "/none")):
        await process.ask(method, target, {}, body=b"12345" if method == "POST" else None)

    text = (await ask(process.admin_port, "GET", "/metrics")).body.decode()
    labels: dict[str, set[str]] = {}
    for name, found in re.findall(r"^([a-z_]+)(?:\{(.*)\})? ", text, re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', found))
    requests = await process.samples("gateway_requests_total")

    assert {name: labels.get(name) for name in PROMISED} == PROMISED
    assert requests == {
        'code="200",method="POST",route="token"': 1,
        'code="502",method="GET",route="dead"': 1,
        'code="429",method="GET",route="r"': 1,
        'code="200",method="other",route="r"': 1,
        'code="404",method="GET",route="-"': 1,
    }
    assert (await process.samples("gateway_errors_total"))['error="Gateway.UpstreamUnreachable",route="dead"'] == 1
    assert await process.samples("gateway_upstream_errors_total") == {'class="throttled",route="r"': 1}
    assert (await process.samples("gateway_request_body_bytes_total"))['route="token"'] == 5
    assert await process.samples("gateway_credential_usable") == {'credential="token"': 1}
    expiry = (await process.samples("gateway_credential_expiry_timestamp_seconds"))['credential="token"']
    assert time.time() < expiry < time.time() + 25 * 3600


async def test_an_error_is_looked_at_in_passing(start_process: StartProcess, fake: FakeModelArts) -> None:
    """An upstream's refusal reaches the caller byte for byte and piece by piece as it comes, and is counted by its class."""
    pieces = [b'{"error_code": "APIG.0101", ', b'"error_msg": "The API does not exist"}']
    go_on = asyncio.Event()

    async def slowly(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % sum(map(len, pieces)) + pieces[0])
        await go_on.wait()
        await call.send(pieces[1])

    fake.behaviour = slowly
    process = await start_process(document(route("r", fake.url)))

    async with Caller(process.port) as caller, asyncio.timeout(5):
        await caller.send(request_bytes("GET", "/r"))
        head = await caller.head()
        first = await caller.receive()
        go_on.set()
        rest = await caller.receive()

    assert (head.status, head.proxy_error) == (404, None)
    assert [first, rest] == pieces
    assert await process.samples("gateway_upstream_errors_total") == {'class="route_unknown",route="r"': 1}


# Runs the gateway with its access log where nothing can be written, or where nobody ever reads.
TO_A_FULL_DISK = """
import os, sys
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
from gateway.server import run
raise SystemExit(run(sys.argv[1]))
"""
TO_A_BLOCKED_PIPE = """
import os, sys
os.dup2(os.pipe()[1], 1)
from gateway.server import run
raise SystemExit(run(sys.argv[1]))
"""


async def many(process: Process, count: int) -> None:
    """Requests on one connection, each with as long a path as the log keeps."""
    async with Caller(process.port) as caller:
        for _ in range(count):
            await caller.send(request_bytes("GET", "/r/" + "x" * 2000))
            assert (await caller.reply()).status == 200


@pytest.mark.parametrize(
    ("program", "workers"),
    [
        pytest.param(TO_A_FULL_DISK, 1, id="full disk, one process"),
        pytest.param(TO_A_FULL_DISK, 2, id="full disk, two workers"),
        pytest.param(TO_A_BLOCKED_PIPE, 1, id="blocked pipe"),
    ],
)
async def test_a_log_that_takes_nothing(
    start_process: StartProcess, fake: FakeModelArts, program: str, workers: int
) -> None:
    """Requests go on as if nothing were wrong; lines that a disk refuses are counted and told of; the end does not wait."""

    async def ok(call: Call) -> None:
        await call.body()
        await call.reply("200 OK", b"ok")

    fake.behaviour = ok
    process = await start_process(document(route("r", fake.url), workers=workers), program=("-c", program))

    async with asyncio.timeout(10):
        await asyncio.gather(*(many(process, 40) for _ in range(8)))  # 640 KiB of lines; a pipe holds 64
        if program is TO_A_FULL_DISK:
            while await process.total("gateway_access_log_lines_dropped_total") < 320:
                await asyncio.sleep(0.1)
            await process.says("lines lost")
        assert (await process.ask("GET", "/r")).status == 200
    process.signal(signal.SIGTERM)

    assert await process.ended(seconds=8) == 0
    assert process.stdout == ""
