"""Run the stand-in for Huawei Cloud by itself."""

import argparse

from gateway.simulator import command

HELP = """\
Run a local stand-in for IAM, APIG and a ModelArts service, for a demo, for tests and for your own CI. It verifies: tokens and their
project scope, signatures, the 15-minute clock window, 12 MB, 40 s; it locks keys and answers with the documented error bodies.
"""
EXAMPLE = """\
example:
  modelarts-gateway simulate --write-config simulated      and a gateway.yaml for it, with its secrets
  modelarts-gateway simulate --json        one JSON object with addresses and accepted credentials, then it serves
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The simulator's own."""
    command.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    return command.run(arguments)
