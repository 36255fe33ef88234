"""Answer Envoy's ext_authz checks, and nginx's auth_request, until a signal ends it."""

import argparse
from typing import TYPE_CHECKING

from gateway.cli.sources import add_config_argument, config_path, load_config
from gateway.cli.terminal import Failure

if TYPE_CHECKING:
    from gateway.config import Address, Config

_LISTEN = "127.0.0.1:9191"

HELP = """\
Answer the checks of an Envoy (HTTP ext_authz) or nginx (auth_request) that carries the requests itself: the same
configuration, the same routes, callers and credentials as `serve`, but bodies never come here. `listen` and `admin` of the
file are not used.

Whoever can connect is told credentials. Keep it on loopback or a Unix socket, where the proxy alone is. `--admin` is for
everybody else who has to look: probes, Prometheus, people. What was decided goes to stdout, a line for each check.
"""
EXAMPLE = """\
example:
  modelarts-gateway authz -c gateway.yaml
  modelarts-gateway authz -c gateway.yaml --listen unix:/run/gateway/authz.sock --admin 0.0.0.0:9192
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """-c FILE, where to listen, and what stands before the paths of Envoy's checks."""
    add_config_argument(parser)
    parser.add_argument(
        "--listen", default=_LISTEN, metavar="ADDR", help=f"host:port or unix:/path (default: {_LISTEN})"
    )
    parser.add_argument(
        "--admin",
        metavar="ADDR",
        help="health, readiness, metrics and status page, which tell no credential (default: none)",
    )
    parser.add_argument(
        "--envoy-prefix", default="/envoy", metavar="PREFIX", help="Envoy's path_prefix (default: /envoy)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Answer checks; returns when a signal came."""
    config_file = config_path(arguments)

    from gateway import process
    from gateway.logs import setup_logging

    address = _address("--listen", arguments.listen)
    admin = _address("--admin", arguments.admin) if arguments.admin else None
    prefix: str = arguments.envoy_prefix
    if not prefix.startswith("/") or len(prefix) < 2 or prefix.endswith("/"):
        raise Failure("--envoy-prefix begins with '/' and does not end in it, as /envoy", status=2)
    config = load_config(config_file)
    writer = setup_logging()
    try:
        return process.run(_serve(config, address, admin, prefix))
    finally:
        writer.close()


def _address(option: str, text: str) -> "Address":
    from gateway.config import places

    try:
        return places.address(text)
    except ValueError as error:
        raise Failure(f"{option}: {error}", status=2) from error


async def _serve(config: "Config", address: "Address", admin: "Address | None", prefix: str) -> int:
    import logging

    from gateway import process, sockets, systemd
    from gateway.authz import Authz
    from gateway.reload import read

    log = logging.getLogger(__name__)
    for warning in config.warnings:
        log.warning("%s", warning)
    if not address.loopback:
        log.warning("%s is open to the network: whoever reaches it is told credentials; only the proxy should", address)
    try:
        (sock,) = sockets.bind(address, "--listen")
    except sockets.PortInUse as error:
        log.error("%s", error)  # noqa: TRY400 - the message is all there is to say
        return 1
    authz = Authz(config, read(config.path) or b"", envoy_prefix=prefix)
    signals = process.Signals(authz.file.reload)
    try:
        admin_port = await authz.start(sock, admin)
    except sockets.PortInUse as error:
        log.error("%s", error)  # noqa: TRY400 - as above
        sock.close()
        return 1
    port = sockets.port_of(sock)
    where = f"{address.host}:{port}" if port else str(address)
    also = "" if admin is None else f", admin on {admin.host}:{admin_port}" if admin_port else f", admin on {admin}"
    log.info("modelarts-gateway authorises %d routes on %s%s", len(config.routes), where, also)
    systemd.ready("answering checks")
    await signals.first_or(authz.failed)
    systemd.stopping()
    await authz.close()
    log.info("stopped")
    return 1 if authz.failed.is_set() else 0
