"""Where a Python peer spends its CPU under the small workload, by function, from py-spy's samples."""

import collections
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.peers import Peer
from bench.processes import cpu_ns, running
from bench.tools import Tools

_SECONDS = 8
_SHOWN = 40


def profile(name: str, peers: list[Peer], made: Tools, iam_port: int, cpus: set[int]) -> int:
    """Print a function's own share of the samples and its share with all it calls; 1 when that cannot be had.

    The shares are of time, not of calls, and a sampled process is a little slower: multiply them by the CPU per request
    of an unsampled run. What C code and the kernel do counts for the Python function that called them.
    """
    beside = Path(sys.executable).parent / "py-spy"
    spy = shutil.which("py-spy") or (str(beside) if beside.exists() else None)
    peer = next((peer for peer in peers if peer.name == name), None)
    if spy is None or peer is None:
        print("py-spy is not installed: pip install py-spy" if peer else f"no peer {name} here", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, running(peer, made.port, iam_port, 1, cpus) as started:
        path = ["-p", str(started.place.port), "-u", peer.prefix + "/fast"]
        with made.load(*path, "-c", "64", "-w", "0.5", "-d", str(_SECONDS + 2)):
            time.sleep(1)
            pids, raw = started.pids(), Path(folder, "raw")
            before = cpu_ns(pids)
            subprocess.run(
                [
                    spy,
                    "record",
                    "-d",
                    str(_SECONDS),
                    "-r",
                    "400",
                    "-f",
                    "raw",
                    "-F",
                    "-o",
                    str(raw),
                    "-p",
                    str(started.process.pid),
                ],
                capture_output=True,
                check=True,
            )
            print(f"{name}: {(cpu_ns(pids) - before) / 1e9 / _SECONDS:.0%} of a CPU while sampled")
        _print(raw.read_text())
    return 0


def _print(raw: str) -> None:
    own: collections.Counter[str] = collections.Counter()
    whole: collections.Counter[str] = collections.Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [
            frame.rpartition(":")[0] if frame.rpartition(":")[2].isdigit() else frame for frame in stack.split(";")
        ]
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
    total = own.total()
    print(f"{'own':>6} {'whole':>6}   of {total} samples")
    for frame, count in own.most_common(_SHOWN):
        print(f"{count / total:6.1%} {whole[frame] / total:6.1%}   {frame}")
