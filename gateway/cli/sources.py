"""Where a command's input comes from: the configuration file, and what an unreadable one sounds like."""

import argparse
import os
from typing import TYPE_CHECKING

from gateway.cli.terminal import Failure

if TYPE_CHECKING:
    from gateway.config import Config

_ENVIRONMENT = "GATEWAY_CONFIG"


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """``-c FILE``, or GATEWAY_CONFIG in its place."""
    parser.add_argument(
        "-c", "--config", metavar="FILE", help=f"configuration file (default: the environment variable {_ENVIRONMENT})"
    )


def config_path(arguments: argparse.Namespace) -> str:
    """The configuration file that was named.

    Raises:
        Failure: none was, neither by option nor by environment.
    """
    path = arguments.config or os.environ.get(_ENVIRONMENT)
    if not path:
        raise Failure(
            "no configuration file was named",
            status=2,
            hint=f"Give one with -c FILE or in {_ENVIRONMENT}. To see the gateway without one: modelarts-gateway demo",
        )
    return str(path)


def load_config(path: str) -> "Config":
    """The checked configuration.

    Raises:
        Failure: the file has problems; the message is all of them, each with file, line and path.
    """
    from gateway import credentials
    from gateway.config import ConfigProblems, load

    try:
        return load(path, credentials.kinds())
    except ConfigProblems as problems:
        raise Failure(str(problems), status=2) from problems
