"""Turns the raw figures into Markdown: a table per workload, ratios taken inside each round, and the goals."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.workloads import BY_NAME, Figures

# The peers that others of the same family (token, sign) are compared with.
REFERENCES = ("envoy", "nginx", "plain")


@dataclass(frozen=True)
class Record:
    """One measurement."""

    round: int
    workload: str
    peer: str
    figures: Figures


@dataclass(frozen=True)
class Column:
    """A figure as it is shown. ``compared`` brings a column of ratios for each reference peer."""

    title: str
    figure: str
    digits: int
    scale: float = 1.0
    compared: bool = False


_FAILED = Column("failed", "failed", 0)
_OTHER = Column("other load, CPUs", "other_load", 2)
_COLUMNS = {
    "small": (
        Column("CPU µs/request", "cpu_us", 1, compared=True),
        Column("in the kernel, %", "kernel_percent", 0),
        Column("requests per CPU second", "per_cpu_second", 0),
        Column("p50 ms", "p50_us", 2, 1e-3),
    ),
    "rate": (
        Column("added p50 ms", "added_p50_us", 3, 1e-3, compared=True),
        Column("CPU µs/request", "cpu_us", 0),
        Column("p99 ms", "p99_us", 2, 1e-3),
    ),
    "upload": (Column("CPU s/GB", "cpu_s_per_gb", 2, compared=True), Column("peak MiB", "peak_mib", 0)),
    "memory": (
        Column("growth MiB", "growth_mib", 0),
        Column("peak MiB", "peak_mib", 0),
        Column("seconds", "seconds", 1),
    ),
    "sse": (
        Column("CPU µs/event", "cpu_us", 1, compared=True),
        Column("added p50 ms", "added_event_p50_us", 3, 1e-3),
        Column("peak MiB", "peak_mib", 0),
    ),
    "held": (
        Column("growth KiB/request", "growth_kib", 1),
        Column("peak MiB", "peak_mib", 0),
        Column("slowest s", "max_us", 2, 1e-6),
    ),
    "start": (
        Column("start s", "start_seconds", 2),
        Column("of it CPU s", "start_cpu_seconds", 2),
        Column("idle MiB", "idle_mib", 0),
    ),
}


@dataclass(frozen=True)
class Goal:
    """An upper bound: of the figure itself, or of its ratio to the ``against`` peer."""

    text: str
    workload: str
    family: str
    figure: str
    bound: float
    against: str | None = None
    unit: str = ""
    scale: float = 1.0


GOALS = (
    Goal("small, token: CPU per request", "small", "token", "cpu_us", 0.95, "envoy"),
    Goal("small, signed: CPU per request", "small", "sign", "cpu_us", 0.85, "envoy"),
    Goal("small, signed: CPU per request", "small", "sign", "cpu_us", 0.30, "plain"),
    Goal("500 requests/s, token: added p50", "rate", "token", "added_p50_us", 1.0, "envoy"),
    Goal("500 requests/s, signed: added p50", "rate", "sign", "added_p50_us", 1.0, "envoy"),
    Goal("12 MB uploads, token: CPU per GB", "upload", "token", "cpu_s_per_gb", 1.3, "nginx"),
    Goal("12 MB uploads, signed: CPU per GB", "upload", "sign", "cpu_s_per_gb", 1.3, "envoy"),
    Goal("32 signed uploads of 12 MB: growth", "memory", "sign", "growth_mib", 60, None, "MiB"),
    Goal("500 event streams: CPU per event", "sse", "token", "cpu_us", 0.9, "envoy"),
    Goal("500 event streams: added p50", "sse", "token", "added_event_p50_us", 0.2, None, "ms", 1e-3),
    Goal("1,000 requests in flight: growth each", "held", "token", "growth_kib", 20, None, "KiB"),
    Goal("start to first answer", "start", "token", "start_seconds", 0.5, None, "s"),
    Goal("idle memory", "start", "token", "idle_mib", 60, None, "MiB"),
)


class Results:
    """All records, with what one peer's figures need of another's."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._by: dict[tuple[str, str], dict[int, Figures]] = {}
        for record in records:
            self._by.setdefault((record.workload, record.peer), {})[record.round] = dict(record.figures)
        for (workload, peer), rounds in self._by.items():
            direct = self._by.get((workload, "direct"), {})
            for number, figures in rounds.items():
                if peer != "direct" and number in direct:
                    for name in ("p50_us", "event_p50_us"):
                        if name in figures:
                            figures[f"added_{name}"] = max(0.0, figures[name] - direct[number][name])
                if figures.get("cpu_seconds"):
                    figures["per_cpu_second"] = figures["ok"] / figures["cpu_seconds"]

    def peers(self, workload: str) -> list[str]:
        return [peer for name, peer in self._by if name == workload]

    def workloads(self) -> list[str]:
        return [name for name in BY_NAME if any(name == workload for workload, _ in self._by)]

    def rounds(self, workload: str) -> int:
        return max(len(rounds) for (name, _), rounds in self._by.items() if name == workload)

    def values(self, workload: str, peer: str, figure: str) -> list[float]:
        rounds = self._by.get((workload, peer), {})
        return [figures[figure] for figures in rounds.values() if figure in figures]

    def ratios(self, workload: str, peer: str, reference: str, figure: str) -> list[float]:
        """The figure's ratio inside each round that both took part in."""
        mine, theirs = self._by.get((workload, peer), {}), self._by.get((workload, reference), {})
        return [
            mine[number][figure] / theirs[number][figure]
            for number in mine
            if figure in mine[number] and theirs.get(number, {}).get(figure)
        ]


def markdown(results: Results) -> str:
    """Every table of a run."""
    parts = [_goals(results)]
    parts += [_table(results, workload) for workload in results.workloads()]
    return "\n\n".join(part for part in parts if part)


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def _table(results: Results, workload: str) -> str:
    columns = _COLUMNS[workload]
    peers = results.peers(workload)
    compared = [name for name in REFERENCES if any(peer.startswith(name + "-") for peer in peers)]
    header = ["peer"]
    for column in columns:
        header += [column.title, *(f"x {name}" for name in compared if column.compared)]
    rows = []
    for peer in peers:
        row, family = [peer], peer.rpartition("-")[2]
        for column in (*columns, _FAILED, _OTHER) if workload != "start" else columns:
            values = [value * column.scale for value in results.values(workload, peer, column.figure)]
            row.append(f"{statistics.median(values):.{column.digits}f}" if values else "-")
            if column.compared:
                row += [
                    _spread(results.ratios(workload, peer, f"{name}-{family}", column.figure), 2) for name in compared
                ]
        rows.append(row)
    if workload != "start":
        header += [_FAILED.title, _OTHER.title]
    count = results.rounds(workload)
    title = f"### {BY_NAME[workload].title}\n\n{count} round{'s' * (count > 1)}; medians, ratios as median [min..max] of the rounds.\n\n"
    return title + _lines(header, rows)


def _goals(results: Results) -> str:
    builds = [
        name
        for name in ("gateway", "gateway-compiled")
        if any(
            f"{name}-{family}" in results.peers(workload)
            for workload in results.workloads()
            for family in ("token", "sign")
        )
    ]
    rows = []
    for goal in GOALS:
        row = [
            goal.text,
            f"at most {goal.bound:g} x {goal.against}" if goal.against else f"at most {goal.bound:g} {goal.unit}",
        ]
        row += [_verdict(results, goal, f"{build}-{goal.family}") for build in builds]
        if any(cell != "-" for cell in row[2:]):
            rows.append(row)
    if not rows or not builds:
        return ""
    return "### Goals\n\n" + _lines(["what", "goal", *builds], rows)


def _verdict(results: Results, goal: Goal, peer: str) -> str:
    if goal.against:
        values = results.ratios(goal.workload, peer, f"{goal.against}-{goal.family}", goal.figure)
    else:
        values = [value * goal.scale for value in results.values(goal.workload, peer, goal.figure)]
    if not values:
        return "-"
    middle = statistics.median(values)
    beyond = (middle / goal.bound - 1) * 100
    verdict = "met" if beyond <= 0 else f"**missed by {beyond:.0f} %**" if beyond >= 1 else "**missed, by under 1 %**"
    return f"{_spread(values, 2)}: {verdict}"


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[number]) for row in (header, *rows)) for number in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = (
        "| "
        + " | ".join("-" * width if not number else "-" * (width - 1) + ":" for number, width in enumerate(widths))
        + " |"
    )
    return "\n".join([line(header), rule, *(line(row) for row in rows)])
