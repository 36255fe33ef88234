"""The JSON Schema of the file, for editors and CI."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Field, create_model

from gateway.config.model import CallerSettings, NoCredential, RouteSettings, TopSettings
from gateway.config.types import CredentialKind
from gateway.config.units import duration_text, size_text

_COMMAND = "modelarts-gateway schema"


def schema(kinds: Mapping[str, CredentialKind]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a configuration with these credential kinds."""
    models: dict[str, type[BaseModel]] = {"none": NoCredential, **{name: kind.Settings for name, kind in kinds.items()}}
    entries = [_told_apart(name, model) for name, model in sorted(models.items())]
    entry: Any = Union[tuple(entries)]  # noqa: UP007 - made of a list
    if len(entries) > 1:
        entry = Annotated[entry, Field(discriminator="kind")]
    whole = create_model(
        "Configuration",
        __base__=TopSettings,
        __doc__="Configuration of modelarts-gateway.",
        credentials=(dict[str, entry], Field(description="What upstreams want to see, by name.", default={})),
        routes=(list[RouteSettings], Field(description="Where requests go.", min_length=1)),
        callers=(
            list[CallerSettings],
            Field(
                description="Who may use which routes; without it everybody who can reach the port.",
                min_length=1,
                default=[],
            ),
        ),
    )
    document = _as_written(whole.model_json_schema())
    document["properties"]["callers"].pop("default", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document, "$comment": f"made by: {_COMMAND}"}


def write_schema(path: Path, kinds: Mapping[str, CredentialKind]) -> None:
    """Write ``schema(kinds)`` to a file, as it is kept beside the example configuration."""
    path.write_text(schema_text(kinds), encoding="utf-8")


def schema_text(kinds: Mapping[str, CredentialKind]) -> str:
    return json.dumps(schema(kinds), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _told_apart(name: str, model: type[BaseModel]) -> type[BaseModel]:
    """The model with its kind as a constant, which tells editors the entries apart."""
    title = "".join(part.capitalize() for part in name.split("_"))
    kind: Any = Literal[name]
    return create_model(title, __base__=model, __doc__=model.__doc__, kind=(kind, ...))


def _as_written(node: Any) -> Any:
    """Pydantic's schema in the file's terms: no null, no titles, defaults with their unit."""
    if isinstance(node, list):
        return [_as_written(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _as_written(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    choices = [choice for choice in node.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        node.pop("anyOf")
        node = {**choices[0], **node}
    elif choices:
        node["anyOf"] = choices
    if "default" in node:
        node |= {"default": _default(node)}
        if node["default"] is None or isinstance(node["default"], dict):
            node.pop("default")
    return node


def _default(node: Mapping[str, Any]) -> Any:
    value, description = node["default"], str(node.get("pattern", ""))
    none = "none" in description or {"const": "none"} in node.get("anyOf", ())
    if value is None and none:
        return "none"
    if isinstance(value, int | float) and not isinstance(value, bool) and "MiB" in description:
        return size_text(int(value))
    if isinstance(value, int | float) and not isinstance(value, bool) and "ms)" in description:
        return duration_text(value)
    return value
