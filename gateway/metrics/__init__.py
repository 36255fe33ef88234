"""What the gateway counts, and how it reads at a scrape.

Requests add to plain numbers (``counts``); a Prometheus client object per increment would cost several times as much.
The client library comes in at the scrape alone (``families``), where a snapshot becomes metric families. A snapshot is
plain JSON, so the snapshots of several workers add up to the numbers of the whole gateway (``snapshots``).
"""

from gateway.metrics.counts import Gauges, Metrics, RouteCounts
from gateway.metrics.families import render
from gateway.metrics.snapshots import RECENT_ERRORS, Snapshot, merge, quantile, settled, summary

__all__ = [
    "RECENT_ERRORS",
    "Gauges",
    "Metrics",
    "RouteCounts",
    "Snapshot",
    "merge",
    "quantile",
    "render",
    "settled",
    "summary",
]
