"""One worker's part of the gateway's limits."""

from dataclasses import replace
from math import ceil

from gateway.config import Config
from gateway.routes import Limits, Rate


def share(config: Config, workers: int) -> Config:
    """The configuration of one of ``workers`` processes: what counts requests or bytes of the whole gateway is divided.

    Rounded up, so that no limit becomes 0: together they let through at most ``workers - 1`` more than was written.
    Durations, sizes of one request and breakers stay as they are.
    """

    def part(count: int | None) -> int | None:
        return None if count is None else ceil(count / workers)

    def rate(rate: Rate | None) -> Rate | None:
        return None if rate is None else Rate(rate.per_second / workers, ceil(rate.burst / workers))

    def limits(limits: Limits) -> Limits:
        return replace(limits, in_flight=part(limits.in_flight), rate=rate(limits.rate))

    return replace(
        config,
        process=replace(
            config.process,
            in_flight=part(config.process.in_flight),
            body_memory_bytes=part(config.process.body_memory_bytes),
        ),
        routes=tuple(replace(route, limits=limits(route.limits)) for route in config.routes),
        callers=tuple(
            replace(caller, in_flight=part(caller.in_flight), rate=rate(caller.rate)) for caller in config.callers
        ),
    )
