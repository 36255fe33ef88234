"""Run the gateway until a signal ends it."""

import argparse

from gateway.cli.sources import add_config_argument, config_path

HELP = """\
Run the gateway. The program's log goes to stderr, the access log to stdout, one JSON object a line.

SIGTERM and SIGINT drain and stop (a second one stops at once); SIGHUP, or a change of the file, loads the configuration again.
"""
EXAMPLE = """\
example:
  modelarts-gateway serve -c gateway.yaml
  GATEWAY_CONFIG=/etc/gateway/gateway.yaml modelarts-gateway serve
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """-c FILE."""
    add_config_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve; returns when the gateway has stopped."""
    path = config_path(arguments)

    from gateway import server

    return server.run(path)
