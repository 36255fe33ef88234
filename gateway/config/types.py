"""The pydantic types that configuration models are written with, those of the credential kinds included.

Validation context: ``environ`` (a mapping, the process's own by default), ``secrets`` (a ``SecretStore``)
and ``folder`` (a ``Path``: what relative paths in the file are relative to, the working directory by default).
"""

import os
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, GetPydanticSchema, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic_core import core_schema

from gateway.config import places
from gateway.config.secrets import SecretStore
from gateway.config.units import (
    DURATION_PATTERN,
    RATE_PATTERN,
    SIZE_PATTERN,
    is_number,
    parse_duration,
    parse_rate,
    parse_size,
)
from gateway.routes import Connection, Rate, UpstreamUrl
from gateway.secret import Secret

SECRET_RULE = "a secret comes from {env: NAME} or {file: PATH}, not from this file"  # noqa: S105 - a message


class Settings(BaseModel):
    """The base of every model of the file: frozen, unknown keys refused, nothing converted behind the reader's back."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class CredentialSettings(Settings):
    """The base of each credential kind's ``Settings``: what one entry under ``credentials`` holds."""

    kind: str


class CredentialKind(Protocol):
    """What the configuration asks of a credential kind's class; the kinds themselves live above it."""

    @property
    def Settings(self) -> type[CredentialSettings]: ...  # noqa: N802 - a class, named as one

    @property
    def signs(self) -> bool: ...


def _duration(value: object) -> float:
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError("a duration of 0 would let nothing through; write what is meant, as in 40s")
    return seconds


def _duration_or_none(value: object) -> float | None:
    if value == "none":
        return None
    if (is_number(value) and value == 0) or parse_duration(value) == 0:
        raise ValueError("a limit of 0 would let nothing through; none switches it off")
    return parse_duration(value)


def _wait(value: object) -> float | None:
    return None if value == "none" else parse_duration(value)


def _delay(value: object) -> float:
    return 0.0 if value == "none" else parse_duration(value)


def _size_or_none(value: object) -> int | None:
    return None if value == "none" else parse_size(value)


def _size_or_zero(value: object) -> int:
    return 0 if value == "none" else parse_size(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("this is a whole number from 1 up")
    return value


def _count_or_none(value: object) -> int | None:
    if value == "none":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("this is a whole number from 1 up, or none for no limit")
    return value


def _rate_or_none(value: object) -> Rate | None:
    return None if value == "none" else parse_rate(value)


def _folder(info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return folder if isinstance(folder, Path) else Path.cwd()


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("this is the path of a file, as text")
    # Not resolved: a symlink swapped by Kubernetes has to be followed anew at each reading.
    return _folder(info) / value


def _secret(value: object, info: ValidationInfo) -> Secret:
    context = info.context or {}
    store = context.get("secrets")
    if not isinstance(store, SecretStore):
        store = SecretStore()
    match value:
        case {"env": str(name), **rest} if not rest and name:
            return store.from_env(name, context.get("environ", os.environ))
        case {"file": str(name), **rest} if not rest and name:
            return store.from_file(_path(name, info))
        case dict() if any(str(key).startswith(("env:", "file:")) for key in value):
            raise ValueError("a secret is written {env: NAME} or {file: PATH}, with a space after the colon")
        case dict():
            raise ValueError("a secret is written {env: NAME} or {file: PATH}, with one of the two and nothing else")
    raise ValueError(SECRET_RULE)


def _existing_pem(value: object, info: ValidationInfo) -> str:
    return places.certificates(_path(value, info))


def _file(value: object, info: ValidationInfo) -> str:
    return str(_path(value, info))


def _duration_schema(*, none: bool) -> WithJsonSchema:
    text = "A duration with its unit: 40s, 1m30s, 500ms, 2h, 1d"
    pattern = f"{DURATION_PATTERN}|^none$" if none else DURATION_PATTERN
    return WithJsonSchema(
        {"type": "string", "pattern": pattern, "description": f"{text}{'; or none.' if none else '.'}"}
    )


def _size_schema(*, none: bool) -> WithJsonSchema:
    text = "A size with its unit: 512B, 64KiB, 12MiB (1024s), 12MB (1000s)"
    pattern = f"{SIZE_PATTERN}|^none$" if none else SIZE_PATTERN
    return WithJsonSchema(
        {"type": "string", "pattern": pattern, "description": f"{text}{'; or none.' if none else '.'}"}
    )


_SECRET_SCHEMA = {
    "description": "A secret: {env: NAME} or {file: PATH}. It is never written into this file.",
    "oneOf": [
        {
            "type": "object",
            "properties": {where: {"type": "string", "minLength": 1}},
            "required": [where],
            "additionalProperties": False,
        }
        for where in ("env", "file")
    ],
}
_COUNT_SCHEMA = {"type": "integer", "minimum": 1}

# Seconds, above 0.
Duration = Annotated[float, PlainValidator(_duration), _duration_schema(none=False)]
# Seconds, above 0; None where the file says none.
DurationOrNone = Annotated[float | None, PlainValidator(_duration_or_none), _duration_schema(none=True)]
# How long to wait for something: 0 is not at all, None (none in the file) is for ever.
Wait = Annotated[float | None, PlainValidator(_wait), _duration_schema(none=True)]
# How long to hold something back: 0 and none are the same.
Delay = Annotated[float, PlainValidator(_delay), _duration_schema(none=True)]
# Bytes, 0 allowed.
Size = Annotated[int, PlainValidator(parse_size), _size_schema(none=False)]
SizeOrNone = Annotated[int | None, PlainValidator(_size_or_none), _size_schema(none=True)]
SizeOrZero = Annotated[int, PlainValidator(_size_or_zero), _size_schema(none=True)]
# Whole numbers from 1 up.
Count = Annotated[int, PlainValidator(_count), WithJsonSchema(_COUNT_SCHEMA)]
CountOrNone = Annotated[
    int | None, PlainValidator(_count_or_none), WithJsonSchema({"anyOf": [_COUNT_SCHEMA, {"const": "none"}]})
]
RateOrNone = Annotated[
    Rate | None,
    PlainValidator(_rate_or_none),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"{RATE_PATTERN}|^none$",
            "description": "Requests on average: 50/s, 600/m, 1000/h; with a burst: 50/s burst 100; or none.",
        }
    ),
]
SecretValue = Annotated[Secret, PlainValidator(_secret), WithJsonSchema(_SECRET_SCHEMA)]
UpstreamUrlField = Annotated[
    UpstreamUrl,
    PlainValidator(places.upstream_url),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(?:https?|wss?)://[^/?#@\s]+(?:/[^?#\s]*)?$",
            "description": "http or https, a host, a path; no query, no user.",
        }
    ),
]
# A host and a port: ("10.0.0.8", 443), ("::1", 443).
HostPort = Annotated[
    tuple[str, int],
    PlainValidator(places.host_port),
    WithJsonSchema({"type": "string", "description": "host:port, as 10.0.0.8:443 or [2001:db8::8]:443."}),
]
ProxyField = Annotated[
    tuple[str, int],
    PlainValidator(places.proxy),
    WithJsonSchema({"type": "string", "pattern": r"^http://[^/?#@\s]+/?$", "description": "http://host:port."}),
]
# The path of a file; relative ones are relative to the configuration's folder.
FileField = Annotated[str, PlainValidator(_file), WithJsonSchema({"type": "string", "minLength": 1})]
# The same, checked to hold certificates.
PemField = Annotated[str, PlainValidator(_existing_pem), WithJsonSchema({"type": "string", "minLength": 1})]


class ConnectionSettings(Settings):
    """How an upstream (or IAM) is reached, when not straight by its URL."""

    address: HostPort | None = None
    ca: PemField | None = None
    proxy: ProxyField | None = None


def _connection(settings: ConnectionSettings) -> Connection:
    return Connection(address=settings.address, ca=settings.ca, proxy=settings.proxy)


def _connection_schema(_source: Any, handler: Any) -> core_schema.CoreSchema:  # Any: pydantic's own signature
    return core_schema.no_info_after_validator_function(_connection, handler.generate_schema(ConnectionSettings))


ConnectionField = Annotated[Connection, GetPydanticSchema(_connection_schema)]
