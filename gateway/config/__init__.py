"""The configuration: one YAML file in, one frozen ``Config`` out, or every problem at once."""

from gateway.config.load import load
from gateway.config.places import Address
from gateway.config.problems import ConfigProblems, Problem
from gateway.config.schema import schema, write_schema
from gateway.config.secrets import SecretStore
from gateway.config.shapes import Caller, Config, Process, Tls
from gateway.config.types import CredentialKind

__all__ = [
    "Address",
    "Caller",
    "Config",
    "ConfigProblems",
    "CredentialKind",
    "Problem",
    "Process",
    "SecretStore",
    "Tls",
    "load",
    "schema",
    "write_schema",
]
