"""Loads configurations that are written down in a test."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Literal

import pytest

from gateway.config import Config, ConfigProblems, SecretStore, load
from gateway.config.types import ConnectionField, CredentialSettings, Duration, SecretValue, UpstreamUrlField
from gateway.routes import Connection

SECRET = "hunter2-do-not-print"
ENVIRON = {"APP_CODE": SECRET, "APP_SECRET": f"{SECRET}-2"}


class Code:
    """A kind with one secret."""

    signs = False

    class Settings(CredentialSettings):
        kind: Literal["app_code"]
        app_code: SecretValue


class Signature:
    """A kind that signs."""

    signs = True

    class Settings(CredentialSettings):
        kind: Literal["app_signature"]
        app_key: SecretValue
        payload: Literal["auto", "hash"] = "auto"


class Token:
    """A kind that fetches from a URL of its own."""

    signs = False

    class Settings(CredentialSettings):
        kind: Literal["iam_token"]
        iam_url: UpstreamUrlField | None = None
        user: str
        password: SecretValue
        timeout: Duration = 10.0
        connection: ConnectionField = Connection()


KINDS = {"app_code": Code, "app_signature": Signature, "iam_token": Token}

ROUTE = """
routes:
  - {name: poetry, path: /poetry, upstream: "https://h.example/v1", credential: none}
"""


def loaded(
    folder: Path, text: str, *, environ: Mapping[str, str] = ENVIRON, previous: SecretStore | None = None
) -> Config:
    """The configuration in ``text``."""
    path = folder / "gateway.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return load(path, KINDS, environ=environ, previous=previous)


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong with ``text``, each as ``line:column: path: message``."""
    with pytest.raises(ConfigProblems) as caught:
        loaded(folder, text)
    prefix = f"{folder / 'gateway.yaml'}:"
    return [str(problem).removeprefix(prefix).strip() for problem in caught.value.problems]
