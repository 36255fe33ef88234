"""The command: which peers, which workloads, how many rounds; tables on standard output, progress on standard error."""

import argparse
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bench import profiles
from bench.machine import date_machine_versions
from bench.peers import Peer, all_peers
from bench.processes import CannotMeasure, fake_iam, missing_proc, running
from bench.tables import Record, Results, markdown
from bench.tools import NO_COMPILER, Tools, tools
from bench.workloads import BY_NAME, START, Workload, measure

_BEGIN, _END = "<!-- bench: begin -->", "<!-- bench: end -->"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _names(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run",
        description="Measure this gateway beside nginx, Envoy and a plain aiohttp proxy, on loopback. What is not installed is left out, with the reason.",
        epilog="workloads: " + ", ".join(f"{name} ({workload.title})" for name, workload in BY_NAME.items()),
    )
    parser.add_argument(
        "--peers", type=_names, default=[], help="names, or their beginnings: gateway,envoy-sign (default: all)"
    )
    parser.add_argument("--workloads", type=_names, default=list(BY_NAME), help="default: all")
    parser.add_argument("--rounds", type=int, default=2, help="each runs every peer once per workload (default 2)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="length of a measurement; 1 is about 2 to 5 s (default)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes or threads of each peer (default 1)")
    parser.add_argument(
        "--compiled", type=Path, help="a folder with a compiled package `gateway`: measured as gateway-compiled"
    )
    parser.add_argument(
        "--markdown",
        nargs="?",
        const="-",
        metavar="FILE",
        help="with machine and versions; into FILE: between its two marks",
    )
    parser.add_argument("--json", action="store_true", help="print the raw figures instead of tables")
    parser.add_argument("--save", type=Path, help="write the raw figures here")
    parser.add_argument(
        "--load", type=Path, action="append", default=[], help="measure nothing, show what --save wrote"
    )
    parser.add_argument(
        "--profile", metavar="PEER", help="where a Python peer spends its CPU under the (first) workload (needs py-spy)"
    )
    parser.add_argument(
        "--list", action="store_true", help="which peers can be measured here, and what the others need"
    )
    options = parser.parse_args()
    for name in options.workloads:
        if name not in BY_NAME:
            parser.error(f"no workload {name}; there are {', '.join(BY_NAME)}")
    return options


def _chosen(options: argparse.Namespace) -> list[Peer]:
    chosen = []
    for peer in all_peers(options.compiled):
        if options.peers and not any(peer.name == name or peer.name.startswith(name + "-") for name in options.peers):
            continue
        why = peer.missing() or ("has no workers" if options.workers > 1 and not peer.many_workers else None)
        if why:
            _say(f"left out: {peer.name}: {why}")
        else:
            chosen.append(peer)
    return chosen


def _cpus(workers: int) -> tuple[set[int], set[int]]:
    """CPUs of what is measured, and of load and stub: apart where there are enough."""
    cpus = sorted(os.sched_getaffinity(0))
    return set(cpus[:workers]), {cpus[-1]} if workers < len(cpus) else set(cpus)


def _measurements(
    options: argparse.Namespace, peers: list[Peer], made: Tools, iam_port: int, cpus: set[int]
) -> Iterator[Record]:
    """Every peer once per round and workload, in another order each time, freshly started every time."""
    began = time.monotonic()
    failed: set[tuple[str, str]] = set()
    checked: set[str] = set()
    for number, name in itertools.product(range(options.rounds), options.workloads):
        workload = BY_NAME[name]
        turn = number * len(peers) // max(1, options.rounds)
        order = peers[turn:] + peers[:turn]
        if number % 2:
            order.reverse()
        if workload.direct:
            yield Record(number, name, "direct", measure(workload, made, made.port, None, options.scale))
        for peer in order:
            if (peer.name, name) in failed:
                continue
            try:
                yield _measurement(options, workload, number, peer, made, iam_port, cpus, checked)
            except (CannotMeasure, subprocess.SubprocessError) as error:
                failed.add((peer.name, name))
                _say(f"left out of `{name}` from here: {peer.name}: {error}")
        _say(f"[{time.monotonic() - began:4.0f} s] round {number + 1} of {options.rounds}: {name} done")


def _measurement(
    options: argparse.Namespace,
    workload: Workload,
    number: int,
    peer: Peer,
    made: Tools,
    iam_port: int,
    cpus: set[int],
    checked: set[str],
) -> Record:
    with running(peer, made.port, iam_port, options.workers, cpus) as started:
        if peer.name not in checked:
            started.check()
            checked.add(peer.name)
            _say(f"checked {peer.name}: what the caller sends arrives upstream with the right credential")
            if workload is START:  # the check has warmed it up
                with running(peer, made.port, iam_port, options.workers, cpus) as fresh:
                    return Record(number, workload.name, peer.name, measure(workload, made, 0, fresh, options.scale))
        return Record(
            number, workload.name, peer.name, measure(workload, made, started.place.port, started, options.scale)
        )


def _show(options: argparse.Namespace, records: list[Record]) -> None:
    if options.json:
        print(json.dumps([asdict(record) for record in records]))
        return
    text = markdown(Results(records))
    if options.markdown is None:
        print(text)
        return
    workers = f"{options.workers} worker{'s' * (options.workers > 1)} per peer"
    text = f"{date_machine_versions()}; {workers}.\n\n{text}"
    if options.markdown == "-":
        print(text)
        return
    path = Path(options.markdown)
    before, _, rest = path.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    if not after:
        sys.exit(f"{path} has no place between {_BEGIN} and {_END}")
    path.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{after}")


def main() -> int:
    """0 when something was measured, 1 when nothing could be."""
    options = _arguments()
    if options.load:
        _show(options, [Record(**record) for path in options.load for record in json.loads(path.read_text())])
        return 0
    if options.list:
        for peer in all_peers(options.compiled):
            print(f"{peer.name:24} {peer.missing() or 'can be measured'}")
        return 0
    if why := missing_proc():
        _say(why)
        return 1
    peers = _chosen(options)
    own, load = _cpus(options.workers)
    records: list[Record] = []
    with tools(load) as made, fake_iam() as iam_port:
        if not made.native:
            _say(NO_COMPILER)
            options.workloads = [name for name in options.workloads if BY_NAME[name].simple or BY_NAME[name] is START]
        if options.profile:
            return profiles.profile(options.profile, BY_NAME[options.workloads[0]], peers, made, iam_port, own)
        with contextlib.suppress(KeyboardInterrupt):  # then what was measured so far is shown
            records.extend(_measurements(options, peers, made, iam_port, own))
    if options.save:
        options.save.write_text(json.dumps([asdict(record) for record in records]))
    _show(options, records)
    return 0 if records else 1


if __name__ == "__main__":
    sys.exit(main())
