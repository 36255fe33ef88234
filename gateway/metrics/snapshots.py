"""Snapshots: a process's numbers as plain JSON, how they add up, and how they read to people."""

from collections.abc import Callable, Iterable
from typing import Any

# Upper bounds in seconds. Inference answers in anything from milliseconds (a small classifier) to minutes (a long
# generation). 40 and 60 are the limits of ModelArts' API gateway and the usual deadlines, so le="40" is what kept them.
BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0)
# Enough to see what is going on; the access log has the rest.
RECENT_ERRORS = 50

# JSON: names to numbers, lists and objects of them. `Any`, because the depth differs from member to member.
Snapshot = dict[str, Any]

# Members that add up over processes.
_SUMMED = ("routes", "refreshes", "access_log_lines_dropped", "worker_restarts")
_SUMMED_GAUGES = ("in_flight", "body_memory_bytes", "upstream_connections")


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The gateway's numbers from those of its processes: counts add up; of a credential, a clock or a reload, the worst.

    At least one of them must be of a process that lives.
    """
    first, *others = snapshots
    merged = first
    for other in others:
        errors = sorted([*merged["recent_errors"], *other["recent_errors"]], key=lambda error: float(error["time"]))
        merged = {
            "version": merged["version"],
            **{name: _add(merged[name], other[name]) for name in _SUMMED},
            "recent_errors": errors[-RECENT_ERRORS:],
            "gauges": _merge_gauges(merged["gauges"], other["gauges"]),
        }
    return merged


def settled(snapshot: Snapshot) -> Snapshot:
    """What stays of a process that died: its counts, so that no counter goes down, and nothing that was only then true."""
    return {**snapshot, "gauges": None}


def summary(route: Snapshot) -> dict[str, float | None]:
    """A route's numbers for people: requests, those that failed, and estimated percentiles in milliseconds.

    ``failed`` are answers of 500 and more, whoever gave them. ``None``: nothing has been measured.
    """
    codes = [(int(key.rpartition(" ")[2]), count) for key, count in route["requests"].items()]
    return {
        "requests": sum(count for _, count in codes),
        "failed": sum(count for code, count in codes if code >= 500),
        "p50_ms": _milliseconds(quantile(route["durations"], 0.50)),
        "p99_ms": _milliseconds(quantile(route["durations"], 0.99)),
        "first_byte_p50_ms": _milliseconds(quantile(route["first_bytes"], 0.50)),
        "request_bytes": route["request_bytes"],
        "response_bytes": route["response_bytes"],
    }


def quantile(counts: list[int], share: float) -> float | None:
    """Seconds below which ``share`` of the observations lie, linear inside a bucket; the last bound is the most it says."""
    rank = share * sum(counts)
    if rank == 0.0:
        return None
    below, lower = 0, 0.0
    for bound, count in zip(BUCKETS_SECONDS, counts, strict=False):
        if count and below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below, lower = below + count, bound
    return lower


def _merge_gauges(ours: Snapshot | None, theirs: Snapshot | None) -> Snapshot | None:
    if ours is None or theirs is None:
        return ours if theirs is None else theirs
    return {
        **{name: _add(ours[name], theirs[name]) for name in _SUMMED_GAUGES},
        "clock_skew_seconds": _join(ours["clock_skew_seconds"], theirs["clock_skew_seconds"], _farther),
        "breakers": _join(ours["breakers"], theirs["breakers"], _less_closed),
        "credentials": _join(ours["credentials"], theirs["credentials"], _worse),
        "reload_successful": ours["reload_successful"] and theirs["reload_successful"],
        "reload_success_timestamp": min(ours["reload_success_timestamp"], theirs["reload_success_timestamp"]),
    }


def _add(ours: Any, theirs: Any) -> Any:
    """Numbers added, lists item by item, objects member by member; what only one has stays."""
    if isinstance(ours, dict):
        return _join(ours, theirs, _add)
    if isinstance(ours, list):
        return [one + other for one, other in zip(ours, theirs, strict=True)]
    return ours + theirs


def _join(ours: Snapshot, theirs: Snapshot, both: Callable[[Any, Any], Any]) -> Snapshot:
    joined = {**ours, **theirs}
    for name in ours.keys() & theirs.keys():
        joined[name] = both(ours[name], theirs[name])
    return joined


def _farther(ours: float, theirs: float) -> float:
    return max(ours, theirs, key=abs)


def _less_closed(ours: str, theirs: str) -> str:
    return max(ours, theirs, key=("closed", "half-open", "open").index)


def _worse(ours: Snapshot, theirs: Snapshot) -> Snapshot:
    expiries = [expiry for expiry in (ours["expiry"], theirs["expiry"]) if expiry is not None]
    return {"usable": ours["usable"] and theirs["usable"], "expiry": min(expiries, default=None)}


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
