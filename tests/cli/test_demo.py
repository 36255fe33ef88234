"""`demo`: the whole thing at once, as a newcomer meets it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from gateway.cli.tour import STEPS, Outcome, Step, _fault

from .command import ROOT, run


@pytest.mark.timeout(120)
def test_once(tmp_path: Path) -> None:
    """--once sends every request, sees each do what it should, exits 0 and leaves nothing behind."""
    finished = run("demo", "--once", environ={"TMPDIR": str(tmp_path)}, seconds=100)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Everything went as it should" in finished.stdout
    for step in STEPS:
        assert re.search(rf"ok {re.escape(step.what)} .* {step.status} ", finished.stdout), step.what
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(120)
def test_taken_ports_are_no_obstacle() -> None:
    """Where 8080 is taken, the demo says so and takes another port."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen(1)
        except OSError:
            pass  # somebody else has it, which serves as well

        finished = run("demo", "--once", seconds=100)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "port 8080 is taken" in finished.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_keeps_running_until_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    """After the tour everything stays up for the reader's own requests; Ctrl-C ends it, exit 0, and cleans up."""
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            _use_and_stop(process, number)
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("option", "status"), [((), 0), (("--once",), 1)], ids=["demo", "for CI"])
def test_it_can_be_stopped_in_the_middle_of_the_tour(tmp_path: Path, option: tuple[str, ...], status: int) -> None:
    """Ctrl-C while requests are on their way, which a terminal sends to everything that runs in it, ends it without complaints."""
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "demo", *option],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "ok IAM token" in line:
                    break
            os.killpg(process.pid, signal.SIGINT)
            rest = process.stdout.read()
        finally:
            process.kill()

    assert process.returncode == status, rest
    assert "!!" not in rest
    assert "Traceback" not in rest
    assert rest.endswith("Stopped.\n")
    assert list(tmp_path.iterdir()) == []


def _use_and_stop(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Read until the demo invites, send a request of our own, stop it."""
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if "Ctrl-C" in line:
            break
    base = re.search(r"gateway +(http://\S+)", shown)
    assert base is not None, shown

    # No proxy of the environment has a say here.
    with build_opener(ProxyHandler({})).open(f"{base[1]}/open", timeout=10) as response:
        assert response.status == 200
    assert f"curl -i {base[1]}/nowhere" in shown
    started = time.monotonic()
    process.send_signal(number)
    rest = process.stdout.read()

    assert process.wait(20) == 0, rest
    assert "Traceback" not in rest
    assert time.monotonic() - started < 15


STEP = Step("a", "GET /a", lambda tour: tour.request("GET", "/a"), 200, "token", says="yes")
REFUSAL = Step("b", "GET /b", lambda tour: tour.request("GET", "/b"), 413, error_code="Gateway.X", by_gateway=True)


@pytest.mark.parametrize(
    ("step", "outcome", "seen", "complaint"),
    [
        pytest.param(STEP, Outcome(200, False, "yes"), "token", None, id="all well"),
        pytest.param(STEP, Outcome(500, False, "yes"), "token", "answered 500", id="status"),
        pytest.param(STEP, Outcome(200, True, "yes"), "token", "from the gateway", id="said by the wrong one"),
        pytest.param(STEP, Outcome(200, False, "no"), "token", "does not say", id="text"),
        pytest.param(STEP, Outcome(200, False, "yes"), "none", "saw the credential", id="no credential arrived"),
        pytest.param(REFUSAL, Outcome(413, True, '{"error_code": "Gateway.X"}'), None, None, id="refused well"),
        pytest.param(REFUSAL, Outcome(413, True, '{"error_code": "Y"}'), None, "error_code", id="another refusal"),
        pytest.param(REFUSAL, Outcome(413, True, "<html>"), None, "error_code", id="not an error of ours"),
    ],
)
def test_the_demo_can_fail(step: Step, outcome: Outcome, seen: str | None, complaint: str | None) -> None:
    """An outcome that is not what the step promises is a fault with a reason: the demo is no decoration."""
    fault = _fault(step, outcome, seen)

    assert (fault is None) if complaint is None else (fault is not None and complaint in fault)


@pytest.mark.timeout(120)
def test_a_gateway_that_does_not_start(tmp_path: Path) -> None:
    """If the gateway does not come up, the demo exits with 1 and shows the end of its log, not a traceback of its own."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'serve' in sys.orig_argv:\n    os.write(2, b'this gateway cannot start')\n    os._exit(3)\n"
    )

    finished = run("demo", "--once", environ={"PYTHONPATH": f"{tmp_path}:{ROOT}"})

    assert finished.returncode == 1
    assert "this gateway cannot start" in finished.stderr
    assert "Traceback" not in finished.stderr
