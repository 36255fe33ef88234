"""The command line: what there is, and which module does it.

Each command is a module with ``HELP``, ``EXAMPLE``, ``add_arguments(parser)`` and ``run(arguments) -> int``. Modules
are imported when their command is called, and import what is heavy only in ``run``: `--help` and `healthcheck` stay fast.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from gateway import __version__
from gateway.cli.terminal import Failure, Terminal

# Command, the module behind it, and its line in the list.
COMMANDS = {
    "serve": "run the gateway",
    "authz": "answer the checks of an Envoy (ext_authz) or nginx (auth_request) that carries the requests itself",
    "check": "validate the configuration, print every problem at once, then the resolved routes",
    "explain": "send nothing; show which route a request takes, what would leave and what is signed",
    "simulate": "run a local stand-in for IAM, APIG and ModelArts that verifies credentials",
    "demo": "run simulator and gateway together and send one request per credential kind",
    "schema": "print the JSON Schema of the configuration, for editors and CI",
    "healthcheck": "exit 0 when the running gateway answers /healthz, for containers without curl",
}

_EPILOG = """\
GATEWAY_CONFIG stands in for -c in every command. Exit status: 0 done; 2 configuration or usage is wrong; 1 anything else.

new here?            modelarts-gateway demo
write your own file: modelarts-gateway check -c gateway.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 configuration or usage is wrong, 1 anything else."""
    arguments_given = list(sys.argv[1:] if argv is None else argv)
    terminal = Terminal()
    try:
        parser = _parser(arguments_given)
        if not arguments_given:
            parser.print_help(sys.stderr)
            return 2
        arguments = parser.parse_args(arguments_given)
        return int(arguments.run(arguments))
    except Failure as failure:
        terminal.error(failure)
        return failure.status
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        # `modelarts-gateway explain … | head`: whoever read us has enough. Nothing more can be written, not even at exit.
        sys.stdout = None  # the interpreter skips flushing a missing stdout
        return 1


def _parser(arguments_given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelarts-gateway",
        description="Plain HTTP in, authorised requests to Huawei Cloud ModelArts out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"modelarts-gateway {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        # Only the command that was called is imported. An unknown one gets the list from argparse.
        if name in arguments_given:
            module = importlib.import_module(f"gateway.cli.{name}")
            command.description = module.HELP
            command.epilog = module.EXAMPLE
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser
