"""The example configuration and its JSON Schema."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway import credentials
from gateway.config import Config, load, schema
from gateway.config.model import (
    BreakerSettings,
    CallerSettings,
    CorsSettings,
    LimitSettings,
    ProcessSettings,
    RetrySettings,
    RouteSettings,
    TlsSettings,
    TopSettings,
)
from gateway.config.schema import schema_text, write_schema
from gateway.config.types import ConnectionSettings
from gateway.config.yaml import read

from .support import KINDS

FOLDER = Path(__file__).parents[2] / "config"
EXAMPLE = FOLDER / "gateway.example.yaml"


@pytest.fixture
def example(tmp_path: Path) -> Config:
    """The example, loaded with the files and variables that it names."""
    ca = trustme.CA()
    issued = ca.issue_cert("gateway.example")
    for folder in ("tls", "secrets", "callers"):
        (tmp_path / folder).mkdir()
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "tls" / "tls.crt"))
    issued.private_key_pem.write_to_path(str(tmp_path / "tls" / "tls.key"))
    for name in ("tls/ca.crt", "ca.crt"):
        ca.cert_pem.write_to_path(str(tmp_path / name))
    for name in ("secrets/iam-password", "secrets/maas-key", "callers/team-a"):
        (tmp_path / name).write_text(f"the secret in {name.replace('/', '-')}\n".replace(" ", "-"))
    path = tmp_path / "gateway.yaml"
    path.write_text(EXAMPLE.read_text(encoding="utf-8").replace("/etc/gateway", str(tmp_path)), encoding="utf-8")
    names = ("APP_KEY", "APP_SECRET", "APP_CODE", "SDK_AK", "SDK_SK", "SDK_SECURITY_TOKEN")
    return load(path, credentials.kinds(), environ={f"HUAWEICLOUD_{name}": f"value-of-{name}" for name in names})


def test_it_loads(example: Config) -> None:
    """The example is a right configuration, and has every kind of credential and a route for each."""
    kinds = {settings.kind for settings in example.credentials.values()}

    assert kinds == set(credentials.kinds()) - {"none"}
    assert {route.credential for route in example.routes} == {*example.credentials, None}
    assert {route.signed for route in example.routes} == {True, False}


def _keys(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from _keys(value)
    elif isinstance(data, list):
        for item in data:
            yield from _keys(item)


def test_it_has_every_key() -> None:
    """No key is left out of the example."""
    models = [TopSettings, TlsSettings, ProcessSettings, RouteSettings, LimitSettings, RetrySettings]
    models += [BreakerSettings, CorsSettings, ConnectionSettings, CallerSettings]
    known = {field for model in models for field in model.model_fields}

    assert known - set(_keys(read(EXAMPLE).data)) == set()
    for kind in credentials.kinds().values():
        for field, information in kind.Settings.model_fields.items():
            # Of two keys that exclude each other, one stands in a comment.
            assert f"{information.alias or field}:" in EXAMPLE.read_text(encoding="utf-8"), f"{kind.kind}.{field}"


def test_it_states_the_defaults() -> None:
    """Where the example says that its values are the defaults, they are."""
    data = read(EXAMPLE).data
    poetry = data["routes"][0]
    not_defaults = {"first_byte", "in_flight", "rate"}

    assert ProcessSettings.model_validate(data["process"]) == ProcessSettings()
    limits = {key: value for key, value in poetry["limits"].items() if key not in not_defaults}
    assert LimitSettings.model_validate(limits) == LimitSettings()
    assert RetrySettings.model_validate(poetry["retry"]) == RetrySettings()
    assert BreakerSettings.model_validate(poetry["breaker"]) == BreakerSettings()
    cors = {"origins": poetry["cors"]["origins"]}
    assert CorsSettings.model_validate(poetry["cors"]) == CorsSettings.model_validate(cors)
    top = TopSettings.model_validate({key: data[key] for key in ("listen", "admin", "workers", "routes")})
    assert (top.listen, top.admin, top.workers) == tuple(
        TopSettings.model_fields[key].default for key in ("listen", "admin", "workers")
    )


def test_the_schema_file_is_current() -> None:
    """``config/schema.json`` is what the program says now; ``modelarts-gateway schema`` writes it anew."""
    assert (FOLDER / "schema.json").read_text(encoding="utf-8") == schema_text(credentials.kinds())


def test_the_example_passes_the_schema() -> None:
    """Editors and CI judge the example as the program does."""
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(FOLDER / "schema.json"), str(EXAMPLE)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_speaks_as_the_file_does(tmp_path: Path) -> None:
    """Defaults carry their unit, nothing may be null, and each kind of credential is told apart by its kind."""
    write_schema(tmp_path / "schema.json", KINDS)
    document = json.loads((tmp_path / "schema.json").read_text())

    assert document == schema(KINDS)
    limits = document["$defs"]["LimitSettings"]["properties"]
    assert (limits["body"]["default"], limits["deadline"]["default"], limits["rate"]["default"]) == (
        "12MiB",
        "40s",
        "none",
    )
    assert '"null"' not in json.dumps(document)
    entries = document["properties"]["credentials"]["additionalProperties"]
    assert set(entries["discriminator"]["mapping"]) == {*KINDS, "none"}
    assert document["$defs"]["AppCode"]["properties"]["kind"]["const"] == "app_code"
    assert schema({})["properties"]["credentials"]["additionalProperties"] == {"$ref": "#/$defs/None"}
