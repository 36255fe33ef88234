"""The command's whole life: configuration, log, one process or several, signals, end."""

import logging
import sys

from gateway import __version__, credentials, process, systemd
from gateway.app import Gateway
from gateway.config import Config, ConfigProblems, load
from gateway.logs import setup_logging
from gateway.reload import read
from gateway.sockets import PortInUse
from gateway.workers.crew import NoWorker
from gateway.workers.supervisor import Supervisor

log = logging.getLogger(__name__)


def run(config_path: str) -> int:
    """Serve until a signal: 0 after a drain, 1 when an address cannot be had or something broke, 2 when the file is wrong."""
    content = read(config_path)
    try:
        config = load(config_path, credentials.kinds(), content=content)
    except ConfigProblems as problems:
        print(problems, file=sys.stderr)  # noqa: T201 - the command line's answer, before there is a log
        return 2
    writer = setup_logging(shared=config.workers > 1)
    try:
        return process.run(serve(config, content or b""))
    finally:
        writer.close()


async def serve(config: Config, content: bytes) -> int:
    """Run the gateway until SIGTERM, SIGINT or a fault of its own has drained it; a second signal cuts at once."""
    for warning in config.warnings:
        log.warning("%s", warning)
    gateway = Gateway(config, content) if config.workers == 1 else Supervisor(config, content)
    try:
        await gateway.start()
    except (PortInUse, NoWorker) as error:
        log.error("%s", error)  # noqa: TRY400 - the message is all there is to say
        return 1

    async def reload() -> None:
        systemd.reloading()
        loaded = await gateway.reload()
        systemd.ready("serving" if loaded else "serving the old configuration: the new one was refused, see the log")

    signals = process.Signals(reload)
    process.settle()
    log.info(
        "modelarts-gateway %s serves %d %s on %s, admin on %s%s",
        __version__,
        len(config.routes),
        "route" if len(config.routes) == 1 else "routes",
        config.listen,
        config.admin,
        "" if config.workers == 1 else f", {config.workers} workers",
    )
    systemd.ready("serving")
    await signals.first_or(gateway.failed)
    systemd.stopping()
    await signals.unless_second(gateway.drain())
    cut = await gateway.close()
    if cut:
        log.warning("%d requests were cut", cut)
    log.info("stopped")
    return 1 if gateway.failed.is_set() else 0
