"""The ``process_`` metrics of all processes of a gateway: Prometheus' standard names, added up."""

import resource
from collections.abc import Iterator, Sequence

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_CPU = "process_cpu_seconds"
_START = "process_start_time_seconds"


class Processes(Collector):
    """This process and its ``workers`` (process ids), read from /proc at the scrape, where there is a /proc.

    CPU time is also that of workers that have died, so it never goes down. The start is this process's own.
    """

    def __init__(self, workers: Sequence[int]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        ours = _numbers("self")
        added = dict(ours)
        for worker in self._workers:
            for name, value in _numbers(str(worker)).items():  # empty for one that has died meanwhile
                added[name] = added.get(name, 0.0) + value
        if not added:
            return
        added[_START] = ours[_START]
        # What the kernel has added to ours when it told us of a worker's end (getrusage(2)).
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        added[_CPU] += ended.ru_utime + ended.ru_stime
        for name, value in added.items():
            family = CounterMetricFamily if name == _CPU else GaugeMetricFamily
            yield family(name, _HELP[name], value=value)


_HELP = {
    _CPU: "CPU time of all processes of the gateway, user and system, those that have ended included.",
    _START: "When the gateway was started, Unix time.",
    "process_virtual_memory_bytes": "Virtual memory of all processes of the gateway.",
    "process_resident_memory_bytes": "Resident memory of all processes of the gateway; what they share counts in each.",
    "process_open_fds": "Open file descriptors of all processes of the gateway.",
    "process_max_fds": "File descriptors that all processes of the gateway together may open.",
}


def _numbers(pid: str) -> dict[str, float]:
    """The standard numbers of one process by family name."""
    families = ProcessCollector(pid=lambda: pid, registry=None).collect()
    return {family.name: family.samples[0].value for family in families}
