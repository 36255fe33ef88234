"""Writes reference.md, every key of the configuration, from the schema that `modelarts-gateway schema` prints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.config import schema
from gateway.credentials import kinds

PAGE = Path(__file__).with_name("reference.md")

_HEAD = """\
# Configuration reference

Every key there is, its form and its default, made from the schema that `modelarts-gateway schema` prints. [Configuration](configuration.md)
explains them in their context; a size, duration or rate is written [with its unit](configuration.md#how-values-are-written).
"""

# What the schema does not say in words, for the columns of the page.
_WORDS = {
    "kind": "The kind of credential.",
    "algorithm": "How the signature is computed; the second needs `region`.",
    "payload": "What the signature covers of the body: its hash, nothing, or the hash of what fits into the route's `replay`.",
    "project": "The project by name, usually the region's.",
    "project_id": "The project by id.",
    "region": "The region, as cn-north-4; it chooses IAM's address.",
    "domain": "The account's name.",
    "user": "The IAM user's name; a HUAWEI ID cannot obtain tokens.",
    "renew_at": "The share of a life after which the next token or key is fetched.",
    "ca": "PEM file: authorities to trust instead of the system's.",
}
# What the schema leaves to the program.
DEFAULTS = {"listen": "127.0.0.1:8080", "admin": "127.0.0.1:8081"}
_PLAIN = {"string": "text", "boolean": "`true` or `false`", "integer": "number", "number": "number"}

Schema = dict[str, Any]  # Any: JSON Schema


def page(document: Schema) -> str:
    """The page for a schema. Sections are in the order of a file: the process, credentials by kind, routes, callers."""
    definitions: Schema = document["$defs"]
    lines = [_HEAD, "## The file", "", *_table(document)]
    lines += _section(definitions, "ProcessSettings", "process")
    lines += _section(definitions, "TlsSettings", "tls")
    lines += [
        "",
        "## credentials",
        "",
        "By name; `kind` says which of these it is. [Credentials](credentials/README.md) says how to come by each.",
    ]
    mapping: dict[str, str] = document["properties"]["credentials"]["additionalProperties"]["discriminator"]["mapping"]
    for kind, reference in sorted(mapping.items(), key=lambda pair: (pair[0] == "none", pair[0])):
        lines += ["", f"### kind: {kind}", "", *_table(definitions[_name(reference)])]
        lines += _parts(definitions, definitions[_name(reference)], "")
    lines += _section(definitions, "RouteSettings", "routes[]")
    lines += _section(definitions, "CallerSettings", "callers[]")
    return "\n".join(lines) + "\n"


def _section(definitions: Schema, name: str, heading: str) -> Iterator[str]:
    node = definitions[name]
    yield from ("", f"## {heading}", "", node["description"].replace("``", "`"), "", *_table(node))
    yield from _parts(definitions, node, f"{heading}.")


def _parts(definitions: Schema, node: Schema, prefix: str) -> Iterator[str]:
    """A table for each key that holds keys of its own."""
    for key, value in sorted(node["properties"].items()):
        if "$ref" in value:
            part = definitions[_name(value["$ref"])]
            level = "###" if prefix else "####"
            yield from ("", f"{level} {prefix}{key}", "", part["description"], "", *_table(part))


def _table(node: Schema) -> Iterator[str]:
    required = node.get("required", ())
    yield "| key | what it is | written | default |"
    yield "|---|---|---|---|"
    for key in sorted(node["properties"], key=lambda key: (key != "kind", key not in required, key)):
        value = node["properties"][key]
        default = value.get("default", DEFAULTS.get(key))
        shown = "required" if key in required else "" if default in (None, []) else f"`{_text(default)}`"
        yield f"| `{key}` | {_what(key, value)} | {_written(value)} | {shown} |"


def _what(key: str, value: Schema) -> str:
    text = value.get("description", "")
    if text.startswith("A secret:"):
        return f"The {key.replace('_', ' ').replace('api', 'API').replace('id ', 'ID ')}."
    if text.startswith("A duration"):  # only the form is described; it is the same key everywhere
        return "One attempt to obtain it, from connecting to the answer's end."
    return text or ("In a table of its own, below." if "$ref" in value else _WORDS[key])


def _written(value: Schema) -> str:
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if "oneOf" in value:
        return "`{env: NAME}` or `{file: PATH}`"
    if "$ref" in value or value.get("type") == "object":
        return "keys"
    if "anyOf" in value:
        return " or ".join(_written(choice) for choice in value["anyOf"])
    if value.get("type") == "array":
        return "list of keys" if "$ref" in value["items"] else "list"
    pattern = value.get("pattern", "")
    none = " or `none`" if pattern.endswith("|^none$") else ""
    if "ms)?$" in pattern:
        return f"duration{none}"
    if "KiB" in pattern:
        return f"size{none}"
    if "burst" in pattern:
        return f"rate{none}"
    span = f", {value.get('minimum', '')} to {value['maximum']}" if "maximum" in value else ""
    return _PLAIN[value["type"]] + span


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


if __name__ == "__main__":
    PAGE.write_text(page(schema(kinds())), encoding="utf-8")
