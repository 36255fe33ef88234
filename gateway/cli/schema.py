"""The JSON Schema of the configuration."""

import argparse

HELP = "Print the JSON Schema of the configuration file, for editors and CI."
EXAMPLE = """\
example:
  modelarts-gateway schema > gateway.schema.json
  # yaml-language-server: $schema=gateway.schema.json        as the first line of gateway.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(_arguments: argparse.Namespace) -> int:
    """Print it, in the same layout whoever reads it, so that it can be kept under version control."""
    import json

    from gateway import credentials
    from gateway.cli.terminal import Terminal
    from gateway.config import schema

    Terminal().print(json.dumps(schema(credentials.kinds()), indent=2, ensure_ascii=False))
    return 0
