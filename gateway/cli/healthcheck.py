"""Ask the running gateway whether it serves, with nothing but the standard library and the admin address of its file.

It runs every few seconds in a container, so it does not load the configuration: secrets and schema are none of its concern.
"""

import argparse
import http.client
import socket

from gateway.cli.sources import add_config_argument, config_path
from gateway.cli.terminal import Failure, Terminal

HELP = "Exit 0 when /healthz of the running gateway answers 200, else 1 and the reason on stderr."
EXAMPLE = """\
example:
  modelarts-gateway healthcheck -c gateway.yaml
  HEALTHCHECK CMD ["modelarts-gateway", "healthcheck"]        in a Dockerfile, with GATEWAY_CONFIG set
"""

# A process that serves answers in milliseconds; Docker's own default is 30 s.
_TIMEOUT_SECONDS = 2.0
_DEFAULT_ADMIN = "127.0.0.1:8081"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """-c FILE."""
    add_config_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask, and say why not when the answer is no."""
    admin = _admin_address(config_path(arguments))
    try:
        status = _ask(admin)
    except (OSError, http.client.HTTPException) as error:
        raise Failure(
            f"nobody answers at the admin address {admin}: {getattr(error, 'strerror', None) or error}",
            hint="Is the gateway running, and with this configuration file? Its log on stderr says.",
        ) from error
    if status != 200:
        raise Failure(f"GET /healthz at {admin} answered {status}", hint="The gateway's log on stderr says why.")
    Terminal().print(f"ok: {admin}")
    return 0


def _admin_address(path: str) -> str:
    """The admin address as the file writes it. Everything else in the file is left unread."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            # BaseLoader makes a text of every scalar and builds no objects.
            document = yaml.load(file, Loader=yaml.BaseLoader)  # noqa: S506
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}", status=2) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Failure(f"{path} is not YAML", status=2, hint=f"modelarts-gateway check -c {path} says where.") from error
    admin = document.get("admin", _DEFAULT_ADMIN) if isinstance(document, dict) else _DEFAULT_ADMIN
    return admin if isinstance(admin, str) else _DEFAULT_ADMIN


def _ask(admin: str) -> int:
    """The status of GET /healthz. Addresses that mean "every interface" are asked on loopback."""
    connection = http.client.HTTPConnection("localhost", timeout=_TIMEOUT_SECONDS)
    if admin.startswith("unix:"):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_TIMEOUT_SECONDS)
        connection.sock.connect(admin.removeprefix("unix:"))
    else:
        host, _, port = admin.rpartition(":")
        host = host.strip("[]")
        host = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        if not port.isdecimal():
            raise Failure(f"the admin address '{admin}' has no port", status=2, hint="Write admin: 127.0.0.1:8081")
        connection.sock = socket.create_connection((host, int(port)), timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz", headers={"Host": "localhost"})
        return connection.getresponse().status
    finally:
        connection.close()
