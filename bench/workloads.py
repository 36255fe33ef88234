"""The workloads: what is sent, and what is taken down about whoever has to carry it."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.processes import (
    CannotMeasure,
    Running,
    cpu_ns,
    machine_busy_seconds,
    memory_mib,
    reset_peak,
    user_and_kernel_ticks,
)
from bench.tools import Tools

Figures = dict[str, float]

_UPLOAD_BYTES = 12_000_000
_HELD = 1000


@dataclass(frozen=True)
class Workload:
    """``load`` are arguments of the load generator, after ``scale`` (1 is the quick form) has been applied."""

    name: str
    title: str
    path: str
    load: Callable[[float], list[str]]
    warm: tuple[str, ...] = ()
    derive: Callable[[Figures], Figures] = lambda figures: {}
    direct: bool = False  # what a peer adds is its latency less that of the way without one
    simple: bool = False  # the stand-ins in Python can do it too


def _per_request(figures: Figures) -> Figures:
    return {"cpu_us": figures["cpu_seconds"] * 1e6 / max(1, figures["ok"])}


def _per_gigabyte(figures: Figures) -> Figures:
    return {"cpu_s_per_gb": figures["cpu_seconds"] / (max(1, figures["ok"]) * _UPLOAD_BYTES / 1e9)}


def _growth(figures: Figures) -> Figures:
    return {"growth_mib": figures["peak_mib"] - figures["before_mib"]}


def _per_event(figures: Figures) -> Figures:
    return {"cpu_us": figures["cpu_seconds"] * 1e6 / max(1, figures["events"])}


def _per_held(figures: Figures) -> Figures:
    return _per_request(figures) | {"growth_kib": (figures["peak_mib"] - figures["before_mib"]) * 1024 / _HELD}


WORKLOADS = (
    Workload(
        "small",
        "Small JSON POST (300 B, answer 1 KB), keep-alive, 64 connections",
        "/fast",
        lambda scale: ["-c", "64", "-w", "0.5", "-d", f"{2 * scale:g}"],
        derive=_per_request,
        simple=True,
    ),
    Workload(
        "rate",
        "The same at 500 requests/s, open loop (Poisson arrivals)",
        "/fast",
        lambda scale: ["-c", "64", "-r", "500", "-w", "0.5", "-d", f"{4 * scale:g}"],
        derive=_per_request,
        direct=True,
    ),
    Workload(
        "upload",
        "12 MB uploads, 4 at a time",
        "/fast",
        lambda scale: ["-c", "4", "-n", f"{32 * scale:.0f}", "-b", str(_UPLOAD_BYTES)],
        warm=("-c", "4", "-n", "4", "-b", str(_UPLOAD_BYTES)),
        derive=_per_gigabyte,
    ),
    Workload(
        "memory",
        "32 uploads of 12 MB at once, the upstream reads 8 MiB/s of each",
        "/slurp/8192",
        lambda scale: ["-c", "32", "-n", "32", "-b", str(_UPLOAD_BYTES)],
        warm=("-c", "4", "-n", "8"),
        derive=_growth,
    ),
    Workload(
        "sse",
        "500 event streams, an event every 100 ms in each",
        "/sse/{events}/100",
        lambda scale: ["-c", "500", "-n", "500", "-s"],
        derive=_per_event,
        direct=True,
    ),
    Workload(
        "held",
        "1,000 requests in flight, the upstream answers after 2 s",
        "/delay/2000",
        lambda scale: ["-c", str(_HELD), "-n", str(_HELD)],
        warm=("-c", "64", "-n", "500"),
        derive=_per_held,
    ),
)
# Not a load: from the start to the first good answer, and memory after half a second of nothing.
START = Workload("start", "Start to first answer, idle memory", "", lambda scale: [])

BY_NAME = {workload.name: workload for workload in (*WORKLOADS, START)}


def measure(workload: Workload, tools: Tools, port: int, peer: Running | None, scale: float) -> Figures:
    """One workload on one peer (None: straight to the stub).

    ``other_load`` is the number of CPUs that everything else on the machine used meanwhile.

    Raises:
        CannotMeasure: nothing came back that could be counted.
    """
    if workload is START:
        assert peer is not None
        time.sleep(0.5)
        idle_mib = memory_mib(peer.pids(), "VmRSS")
        return {"start_seconds": peer.start_seconds, "start_cpu_seconds": peer.start_cpu_seconds, "idle_mib": idle_mib}
    prefix = "" if peer is None else peer.peer.prefix
    path = prefix + workload.path.format(events=round(30 * scale))
    if workload.warm:
        with tools.load("-p", str(port), "-u", prefix + "/fast", *workload.warm) as warming:
            warming.communicate(timeout=60)
    pids = [] if peer is None else peer.pids()
    before_mib = memory_mib(pids, "VmRSS")
    reset_peak(pids)
    with tools.load("-p", str(port), "-u", path, "-t", "60", *workload.load(scale)) as load:
        ours = [load.pid, tools.stub_pid, os.getpid()]
        assert load.stdout is not None
        if load.stdout.readline() != "begin\n":
            raise CannotMeasure(f"no good answers under `{workload.name}`")
        began = time.monotonic()
        cpu, own, machine = cpu_ns(pids), cpu_ns(ours), machine_busy_seconds()
        user, kernel = user_and_kernel_ticks(pids)
        said = load.stdout.readline()
        # The load stops here, so its process is asked before it is waited for.
        cpu_seconds = (cpu_ns(pids) - cpu) / 1e9
        own_seconds = (cpu_ns(ours) - own) / 1e9
        machine_seconds = machine_busy_seconds() - machine
        seconds = time.monotonic() - began
        user_after, kernel_after = user_and_kernel_ticks(pids)
    figures: Figures = json.loads(said)
    figures |= {
        "cpu_seconds": cpu_seconds,
        "kernel_percent": 100 * (kernel_after - kernel) / max(1, user_after - user + kernel_after - kernel),
        "before_mib": before_mib,
        "peak_mib": memory_mib(pids, "VmHWM"),
        "other_load": max(0.0, (machine_seconds - cpu_seconds - own_seconds) / seconds),
    }
    return figures | workload.derive(figures)
