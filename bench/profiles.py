"""Where a Python peer spends its CPU under a workload, by function, from py-spy's samples."""

import collections
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.peers import Peer
from bench.processes import running
from bench.tools import Tools
from bench.workloads import Figures, Workload, measure

_SECONDS = 8
_SHOWN = 40
_SHOWN_MODULES = 20
_LINE_NUMBER = re.compile(r":\d+\)?$")


def profile(name: str, workload: Workload, peers: list[Peer], made: Tools, iam_port: int, cpus: set[int]) -> int:
    """Print each module's and each function's share, and what that is per request; 1 when it cannot be had.

    Only the event loop's thread is looked at. What C code and the kernel do counts for the Python function that called
    them, so the event loop's own share is waiting, reading and waking.
    """
    beside = Path(sys.executable).parent / "py-spy"
    spy = shutil.which("py-spy") or (str(beside) if beside.exists() else None)
    peer = next((peer for peer in peers if peer.name == name), None)
    if spy is None or peer is None:
        print("py-spy is not installed: pip install py-spy" if peer else f"no peer {name} here", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, running(peer, made.port, iam_port, 1, cpus) as started:
        figures = measure(workload, made, started.place.port, started, 1)  # before sampling slows it down
        address = ["-p", str(started.place.port), "-u", peer.prefix + workload.path.format(events=200)]
        raw = Path(folder, "raw")
        with made.load(*address, *workload.load(20)):  # long enough, and ended with the sampling
            time.sleep(1)
            command = [
                spy,
                "record",
                "--threads",
                "--nonblocking",
                "-d",
                str(_SECONDS),
                "-r",
                "400",
                "-f",
                "raw",
                "-F",
                "-o",
                str(raw),
            ]
            subprocess.run([*command, "-p", str(started.process.pid)], capture_output=True, check=True)
        _print(raw.read_text(), figures)
    return 0


def _print(raw: str, figures: Figures) -> None:
    own: collections.Counter[str] = collections.Counter()
    whole: collections.Counter[str] = collections.Counter()
    modules: collections.Counter[str] = collections.Counter()
    for line in raw.splitlines():
        stack, _, text = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if "MainThread" not in thread or not frames:
            continue
        count, names = int(text), [_LINE_NUMBER.sub(")", frame) for frame in frames]
        own[names[-1]] += count
        function, _, module = names[-1].rstrip(")").rpartition(" (")
        modules[f"{module}, write" if function.endswith(".write") else module] += count
        for name in set(names):
            whole[name] += count
    total = own.total()
    unit, cost = next(((name, figures[name]) for name in ("cpu_us", "cpu_s_per_gb") if name in figures), ("", 0.0))
    print(f"{total} samples; unsampled: {unit} {cost:.2f}")
    print(f"\n| module | share | {unit} |\n| --- | ---: | ---: |")
    for name, count in modules.most_common(_SHOWN_MODULES):
        print(f"| {name} | {count / total:.1%} | {count / total * cost:.2f} |")
    print(f"\n| function | own | with what it calls | {unit}, own |\n| --- | ---: | ---: | ---: |")
    for name, count in own.most_common(_SHOWN):
        print(f"| {name} | {count / total:.1%} | {whole[name] / total:.1%} | {count / total * cost:.2f} |")
