"""The process: signals, event loop, start and stop."""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable

from gateway import __version__, credentials
from gateway.app import Gateway, PortInUse
from gateway.config import Config, ConfigProblems, load
from gateway.logs import log_loop_exception, setup_logging

log = logging.getLogger(__name__)

# Requests make few cycles; the default thresholds collect hundreds of times a second under load.
_GC_THRESHOLD = 50_000


def run(config_path: str) -> int:
    """Serve until a signal: 0 after a drain, 1 when an address cannot be had, 2 when the file is wrong."""
    try:
        config = load(config_path, credentials.kinds())
    except ConfigProblems as problems:
        print(problems, file=sys.stderr)  # noqa: T201 - the command line's answer, before there is a log
        return 2
    writer = setup_logging()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(serve(config))
    finally:
        writer.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where the extra ``speed`` is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve(config: Config) -> int:
    """Run one gateway until SIGTERM or SIGINT has drained it; a second signal cuts at once."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_exception)
    for warning in config.warnings:
        log.warning("%s", warning)
    gateway = Gateway(config)
    try:
        await gateway.start()
    except PortInUse as error:
        log.error("%s", error)  # noqa: TRY400 - the message is all there is to say
        return 1
    first, second = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: second.set() if first.is_set() else first.set())
    reloads: set[asyncio.Task[bool]] = set()

    def reload() -> None:
        task = loop.create_task(gateway.reload(), name="reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    log.info(
        "modelarts-gateway %s serves %d routes on %s, admin on %s",
        __version__,
        len(config.routes),
        config.listen,
        config.admin,
    )
    await first.wait()
    drained = loop.create_task(gateway.drain(), name="drain")
    hurried = loop.create_task(second.wait(), name="second-signal")
    await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
    for task in (drained, hurried):
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    left = gateway.proxy.in_flight
    if left:
        log.warning("%d requests were cut", left)
    await gateway.close()
    log.info("stopped")
    return 0
