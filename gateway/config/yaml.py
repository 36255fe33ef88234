"""Reads one YAML 1.2 document into plain data, with the line and column of everything in it.

PyYAML parses; values are made here, because its own constructors read YAML 1.1 (``yes`` is true, ``012`` is 10,
``1:30`` is 90) and let the later of two equal keys win in silence.
"""

import os
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from gateway.config.problems import Mark, Where

# A thousand routes written out at length take about half of this.
_LARGEST_FILE_BYTES = 1024 * 1024
# Values, each use of an alias counted anew: a dozen nested aliases can otherwise stand for more than memory holds.
_MOST_VALUES = 200_000
_CORE = "tag:yaml.org,2002:"
_MERGE = f"{_CORE}merge"


class _Loader(yaml.SafeLoader):
    """Composes nodes with the scalars of YAML 1.2; whole numbers as JSON has them, so that 012 stays text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own mechanism


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"{_CORE}{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


@dataclass(slots=True)
class Document:
    """A file's data, and where each value and each key of it stands."""

    data: Any = None  # Any: mappings, lists and scalars, as they came
    values: dict[Where, Mark] = field(default_factory=dict)
    keys: dict[Where, Mark] = field(default_factory=dict)
    faults: list[tuple[Mark, Where, str]] = field(default_factory=list)

    def mark(self, where: Where) -> Mark:
        """The place of a value, or of the nearest thing around it that is written down."""
        while where and where not in self.values:
            where = where[:-1]
        return self.values.get(where, Mark(1, 1))


class Unreadable(Exception):
    """There is no document to look into: the reason, and where, if it has a place."""

    def __init__(self, message: str, mark: Mark | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.mark = mark


def read(path: Path, content: bytes | None = None) -> Document:
    """The document in a file; with ``content``, in what somebody has read from it.

    Raises:
        Unreadable: no such file, not UTF-8, not YAML, empty, or too large. Never repeats what the file holds.
    """
    try:
        if content is None:
            with path.open("rb") as file:
                content = file.read(_LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        relative = "" if path.is_absolute() else f", here relative to {Path.cwd()}"
        raise Unreadable(f"no such file; name the configuration with -c FILE or GATEWAY_CONFIG{relative}") from None
    except IsADirectoryError:
        raise Unreadable("this is a directory; name the file in it") from None
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a path"
        raise Unreadable(f"cannot be read: {reason}") from None
    if len(content) > _LARGEST_FILE_BYTES:
        raise Unreadable("larger than 1MiB; is it the right file?")
    try:
        return parse(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = len(before.rpartition(b"\n")[2].decode("utf-8")) + 1
        raise Unreadable("this is not UTF-8; save the file as UTF-8", Mark(before.count(b"\n") + 1, column)) from None


def parse(text: str) -> Document:
    """The document in a text; duplicate keys and the like are among its ``faults``.

    Raises:
        Unreadable: the text is not one YAML document with a mapping at its top.
    """
    text = text.removeprefix("\ufeff")
    try:
        node = _Loader(text).get_single_node()
    except ReaderError as error:
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1)
        raise Unreadable("a control character; only text and line breaks may stand here", mark) from None
    except yaml.MarkedYAMLError as error:
        raise _reworded(error, text) from None
    except RecursionError:
        raise Unreadable("nested too deep to be a configuration") from None
    if node is None:
        raise Unreadable("the file is empty; it needs at least routes")
    if not isinstance(node, MappingNode):
        raise Unreadable("the file's top is a mapping (listen: …, routes: …)", _mark(node))
    return _Construction().document(node)


def _mark(node: Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _reworded(error: yaml.MarkedYAMLError, text: str) -> Unreadable:
    """PyYAML's complaint without what it quotes: the file may hold what should be a secret."""
    at = error.problem_mark or error.context_mark
    mark = Mark(at.line + 1, at.column + 1) if at is not None else None
    problem = error.problem or ""
    line = text.splitlines()[at.line] if at is not None and at.line < len(text.splitlines()) else ""
    if re.search(r":\s+\[[0-9a-fA-F:.]+\]:[0-9]", line):
        return Unreadable("an address that begins with [ needs quotes, as '[::1]:8080'", mark)
    if "\\t" in problem:
        return Unreadable("a tab; YAML is indented with spaces", mark)
    if isinstance(error, ComposerError):
        if "undefined alias" in problem:
            return Unreadable("an alias (*name) without its anchor (&name); text that begins with * needs quotes", mark)
        if "single document" in (error.context or ""):
            return Unreadable("a second document (---); the configuration is one", mark)
        return Unreadable("this anchor (&name) stands for two things", mark)
    if "mapping values are not allowed" in problem:
        return Unreadable("a colon out of place; check the indentation, and quote text that holds ': '", mark)
    if problem.startswith("expected <block end>"):
        return Unreadable("the indentation fits nothing above; what belongs together begins in the same column", mark)
    # What PyYAML quotes may come from the file; only its names of tokens and single signs may not.
    problem = re.sub(r"'(?!<|[^\w\s]')[^']*'|\"[^\"]*\"", "…", problem)
    return Unreadable(f"this is not YAML: {problem or 'it ends too early'}", mark)


class _Construction:
    """Makes data of nodes, noting marks and faults on the way."""

    def __init__(self) -> None:
        self._document = Document()
        self._count = 0
        self._open: set[int] = set()  # collections being made: an alias to one of them has no end

    def document(self, node: MappingNode) -> Document:
        try:
            self._document.data = self._value(node, ())
        except RecursionError:
            raise Unreadable("nested too deep to be a configuration") from None
        return self._document

    def _fault(self, node: Node, where: Where, message: str) -> None:
        self._document.faults.append((_mark(node), where, message))

    def _value(self, node: Node, where: Where) -> Any:
        self._count += 1
        if self._count > _MOST_VALUES:
            raise Unreadable("aliases make this more than 200000 values", _mark(node))
        self._document.values[where] = _mark(node)
        if isinstance(node, ScalarNode):
            return self._scalar(node, where)
        if id(node) in self._open:
            raise Unreadable("an alias inside the very thing it stands for", _mark(node))
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, where)
            return self._sequence(node, where)
        finally:
            self._open.discard(id(node))

    def _sequence(self, node: Node, where: Where) -> list[Any]:
        assert isinstance(node, SequenceNode)
        if node.tag != f"{_CORE}seq":
            self._fault(node, where, "tags (!…) have no meaning here")
        return [self._value(item, (*where, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: MappingNode, where: Where) -> dict[str, Any]:
        if node.tag != f"{_CORE}map":
            self._fault(node, where, "tags (!…) have no meaning here")
        own: dict[str, tuple[Node, Node]] = {}
        merged: dict[str, tuple[Node, Node]] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._fault(key_node, where, "a key is plain text")
            elif key_node.tag == _MERGE:
                for key, pair in self._merged(value_node, where):
                    merged.setdefault(key, pair)
            elif key_node.value in own:
                first = _mark(own[key_node.value][0]).line
                self._fault(key_node, (*where, key_node.value), f"this key stands here twice, first in line {first}")
            else:
                own[key_node.value] = (key_node, value_node)
        data = {}
        for key, (key_node, value_node) in {**merged, **own}.items():
            inner = (*where, key)
            self._document.keys[inner] = _mark(key_node)
            data[key] = self._value(value_node, inner)
        return data

    def _merged(self, node: Node, where: Where) -> Iterator[tuple[str, tuple[Node, Node]]]:
        """The pairs that ``<<: *anchor`` or ``<<: [*one, *two]`` brings in; the earlier ones win."""
        self._count += 1
        if self._count > _MOST_VALUES:
            raise Unreadable("aliases make this more than 200000 values", _mark(node))
        if isinstance(node, SequenceNode):
            for item in node.value:
                yield from self._merged(item, where)
            return
        if not isinstance(node, MappingNode):
            self._fault(node, where, "<< takes a mapping, as in <<: *defaults")
            return
        if id(node) in self._open:
            raise Unreadable("an alias inside the very thing it stands for", _mark(node))
        self._open.add(id(node))
        nested = []
        for key_node, value_node in node.value:
            self._count += 1
            if isinstance(key_node, ScalarNode) and key_node.tag == _MERGE:
                nested.append(value_node)
            elif isinstance(key_node, ScalarNode):
                yield key_node.value, (key_node, value_node)
        for value_node in nested:
            yield from self._merged(value_node, where)
        self._open.discard(id(node))

    def _scalar(self, node: ScalarNode, where: Where) -> Hashable:
        text: str = node.value
        match node.tag.removeprefix(_CORE):
            case "str" | "merge":
                return text
            case "null":
                return None
            case "bool" if text.lower() in {"true", "false"}:
                return text.lower() == "true"
            case "int":
                return self._whole_number(node, where)
            case "float":
                return self._number(node, where)
        self._fault(node, where, "tags (!…) have no meaning here; text with signs at its beginning needs quotes")
        return text

    def _whole_number(self, node: ScalarNode, where: Where) -> Hashable:
        try:
            # Base 0 knows 0o17 and 0xFF, and refuses 012.
            return int(node.value, 0)
        except ValueError:
            self._fault(node, where, "this is not a whole number that can be read")
            return None

    def _number(self, node: ScalarNode, where: Where) -> Hashable:
        try:
            return float(re.sub(r"^([-+]?)\.(?=[a-zA-Z])", r"\1", node.value))
        except ValueError:
            self._fault(node, where, "this is not a number that can be read")
            return None
