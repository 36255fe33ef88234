"""Starts what is measured, and reads from /proc what it used."""

import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.identity import KEY, SECRET, TOKEN, fault
from bench.peers import Peer, Place

_START_SECONDS = 20.0
# Two bodies for the check: one that everything keeps in memory, one above what this gateway keeps there.
_CHECK_BYTES = (300, 2_000_000)
# Kept from one run to the next, outside of the project's tree.
_BYTECODE = Path(tempfile.gettempdir()) / f"modelarts-gateway-bench-bytecode-{os.getuid()}"


class CannotMeasure(Exception):
    """A peer did not start, or does not do its job; says why."""


def missing_proc() -> str | None:
    """Why nothing can be measured on this machine; None where it can."""
    needed = Path("/proc/self/schedstat")
    return None if needed.exists() else f"{needed} is missing: CPU time is read from Linux's /proc"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def on_cpus(cpus: set[int]) -> Iterator[None]:
    """Processes started inside run on these CPUs only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _session(leader: int) -> list[int]:
    """The processes of a session: a peer's whole tree, wherever in it a process was re-parented."""
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                after_name = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if int(after_name[3]) == leader:
                    pids.append(int(entry))
    return pids


def cpu_ns(pids: list[int]) -> int:
    """Nanoseconds on a CPU of all threads; exact, where the times in `stat` are counted in ticks."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total


def user_and_kernel_ticks(pids: list[int]) -> tuple[int, int]:
    """CPU time in user and in kernel mode, in clock ticks: coarse, good for shares over seconds."""
    user = kernel = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            user += int(after_name[11])
            kernel += int(after_name[12])
    return user, kernel


def memory_mib(pids: list[int], name: str) -> float:
    """``VmRSS`` now, ``VmHWM`` the most since ``reset_peak``; all processes together."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            match = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            kib += int(match[1]) if match else 0
    return kib / 1024


def reset_peak(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def machine_busy_seconds() -> float:
    """CPU seconds spent by everything on this machine since it started."""
    with Path("/proc/stat").open() as stat:
        times = [int(text) for text in stat.readline().split()[1:9]]
    return (sum(times) - times[3] - times[4]) / os.sysconf("SC_CLK_TCK")  # less idle and waiting for disks


@contextlib.contextmanager
def fake_iam() -> Iterator[int]:
    """An IAM that gives the one token to whoever asks, in a thread of this process; its port."""
    expiry = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() + 86400))
    project = {"id": "p", "name": "cn-north-4", "domain": {"id": "d", "name": "bench"}}
    content = json.dumps({"token": {"expires_at": expiry, "methods": ["password"], "project": project}}).encode()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(201)
            self.send_header("X-Subject-Token", TOKEN)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Not a word."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, name="fake-iam", daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def _post(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Running:
    """A started peer. ``start_seconds`` run from its start to its first good answer; ``start_cpu_seconds`` is what it computed in them."""

    def __init__(self, peer: Peer, place: Place, cpus: set[int]) -> None:
        self.peer = peer
        self.place = place
        command = peer.command(place)
        environ = {**os.environ, "BENCH_KEY": KEY, "BENCH_SECRET": SECRET, "BENCH_TOKEN": TOKEN, **command.environ}
        # Installed programs have their bytecode; a start that had to compile first would be nobody's start.
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        environ["PYTHONPYCACHEPREFIX"] = str(_BYTECODE)
        self._log = place.folder / "stderr"
        # Standard output is a file as well: the gateway's access log goes there, and is part of what is measured.
        with self._log.open("wb") as stderr, (place.folder / "stdout").open("wb") as stdout, on_cpus(cpus):
            began = time.monotonic()
            self.process = subprocess.Popen(
                command.argv,
                env=environ,
                cwd=place.folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers(began)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.monotonic() - began
        self.start_cpu_seconds = cpu_ns(self.pids()) / 1e9

    def pids(self) -> list[int]:
        return _session(self.process.pid)

    def check(self) -> None:
        """Send two requests and look at how they arrive upstream.

        Raises:
            CannotMeasure: without the right credential.
        """
        for size in _CHECK_BYTES:
            body = b'{"prompt":"' + b"x" * size + b'"}'
            status, head = _post(self.place.port, self.peer.prefix + "/echo", body)
            why = f"status {status}" if status != 200 else fault(self.peer.credential, head, body, self.place.host)
            if why is not None:
                raise CannotMeasure(f"{self.peer.name} fails the check with a body of {size} bytes: {why}")

    def stop(self) -> None:
        """End it, its children too, and nothing else."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _wait_until_it_answers(self, began: float) -> None:
        status: object = "no answer"
        while time.monotonic() < began + _START_SECONDS and self.process.poll() is None:
            try:
                status, _ = _post(self.place.port, self.peer.prefix + "/fast", b"{}")
                if status == 200:
                    return
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            time.sleep(0.002)
        said = self._log.read_text(errors="replace")[-1500:]
        raise CannotMeasure(f"{self.peer.name} did not come up ({status}); it said:\n{said}")


@contextlib.contextmanager
def running(peer: Peer, upstream_port: int, iam_port: int, workers: int, cpus: set[int]) -> Iterator[Running]:
    """A peer, freshly started and ended afterwards.

    Raises:
        CannotMeasure: it did not come up.
    """
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    folder.chmod(0o755)  # nginx's workers may be another user
    try:
        started = Running(peer, Place(folder, free_port(), upstream_port, iam_port, workers), cpus)
        try:
            yield started
        finally:
            started.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
