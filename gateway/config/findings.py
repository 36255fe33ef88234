"""Collects what is wrong with one document, in plain sentences and at its place in the text."""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.problems import Mark, Problem, Where
from gateway.config.units import found
from gateway.config.yaml import Document

Model = TypeVar("Model", bound=BaseModel)
EMPTY = "this has no value; write one, or leave the key out (none switches a limit off)"


def suggestion(word: str, known: Iterable[str], what: str) -> str:
    """``did you mean …?`` where a known word is close, else the known words."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"{what}: {', '.join(words)}" if words else f"{what}: none"


class Findings:
    """Every problem of one file so far; a place is spoken of once, the first time."""

    def __init__(self, file: str, document: Document, context: Mapping[str, object]) -> None:
        self._file = file
        self._document = document
        self._context = dict(context)
        self._problems: dict[tuple[Where, Mark], Problem] = {}

    def add(self, where: Where, message: str, *, at_key: bool = False) -> None:
        marks = self._document.keys if at_key else self._document.values
        self.add_at(marks.get(where) or self._document.mark(where), where, message)

    def add_at(self, mark: Mark, where: Where, message: str) -> None:
        path = ".".join(str(step) for step in where)
        self._problems.setdefault((where, mark), Problem(self._file, mark.line, mark.column, path, message))

    def about(self, where: Where) -> bool:
        """Whether something is already said about this place or one around it."""
        return any(place and where[: len(place)] == place for place, _ in self._problems)

    def inside(self, where: Where) -> bool:
        """Whether something is said about this place or one inside it."""
        return any(place[: len(where)] == where for place, _ in self._problems)

    def sorted(self) -> tuple[Problem, ...]:
        return tuple(sorted(self._problems.values(), key=lambda problem: (problem.line, problem.column, problem.path)))

    def validated(self, model: type[Model], data: object, where: Where) -> Model | None:
        """The model of a part of the document; ``None`` when it is wrong, and then it is said why."""
        try:
            return model.model_validate(data, context=self._context)
        except ValidationError as error:
            # Never str(error): pydantic repeats what it was given.
            for details in error.errors(include_url=False):
                self._explain(model, details, where, data)
            return None

    def _explain(self, model: type[BaseModel], details: ErrorDetails, where: Where, data: object) -> None:
        place = (*where, *_steps(details["loc"], data))
        match details["type"]:
            case "extra_forbidden":
                known = _properties(model, details["loc"][:-1])
                self.add(place, f"unknown key; {suggestion(str(place[-1]), known, 'known here')}", at_key=True)
            case "missing":
                known = _properties(model, details["loc"][:-1])
                self.add(place, f"this key is missing{_described(known.get(str(place[-1]), {}))}")
            case _ if details["input"] is None:
                self.add(place, EMPTY)
            case _:
                self.add(place, _reworded(details))


def _steps(loc: tuple[int | str, ...], data: Any) -> Where:
    """Pydantic's location without the names of union members that it puts between keys."""
    steps: list[int | str] = []
    for index, step in enumerate(loc):
        if isinstance(data, dict) and step in data:  # noqa: SIM114 - the same line, other types
            data = data[step]
        elif isinstance(data, list) and isinstance(step, int):
            data = data[step]
        elif index < len(loc) - 1 or not isinstance(data, dict):
            continue  # only a missing key, the last step, may be in the location and not in the data
        steps.append(step)
    return tuple(steps)


def _reworded(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    given = details["input"]
    match details["type"]:
        case "value_error" | "assertion_error":
            return str(context.get("error", "this is not valid"))
        case "string_type":
            return f"this is text; found {found(given)}{'' if isinstance(given, dict | list) else ', which needs quotes to be text'}"
        case "bool_type":
            return f"this is true or false; found {found(given)}"
        case "int_type" | "float_type":
            return f"this is a number; found {found(given)}"
        case "literal_error":
            return f"this is {context.get('expected', 'something else')}"
        case "string_pattern_mismatch":
            return f"this does not have the form {context.get('pattern', '')}"
        case "string_too_short":
            return f"this is text of at least {context.get('min_length', 1)} characters" if given else "this is empty"
        case "string_too_long":
            return f"this is text of at most {context.get('max_length', '')} characters"
        case "greater_than_equal":
            return f"this is a number from {context.get('ge')} up; found {found(given)}"
        case "less_than_equal":
            return f"this is a number up to {context.get('le')}; found {found(given)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"this is a mapping (key: value); found {_shape(given)}"
        case "tuple_type" | "list_type" | "set_type" | "frozen_set_type":
            if isinstance(given, dict):
                return "this is a list, each entry of which begins with '- '; found a mapping"
            return f"this is a list, as in [a, b]; found {_shape(given)}"
    message = details["msg"]
    return message[:1].lower() + message[1:]


def _shape(value: object) -> str:
    return "text" if isinstance(value, str) else found(value)


def _described(property_schema: Mapping[str, Any]) -> str:
    description = property_schema.get("description", "").rstrip(".")
    if not description:
        return ""
    # "PEM file" stays, "The name" becomes "the name".
    return f": {description}" if description[1:2].isupper() else f": {description[0].lower()}{description[1:]}"


def _properties(model: type[BaseModel], loc: tuple[int | str, ...]) -> dict[str, dict[str, Any]]:
    """The keys known at a place below a model, each with its part of the JSON Schema."""
    whole = _schema(model)
    node: dict[str, Any] = whole
    for step in loc:
        node = _resolved(whole, node)
        node = node.get("items", {}) if isinstance(step, int) else node.get("properties", {}).get(step, node)
    properties: dict[str, dict[str, Any]] = _resolved(whole, node).get("properties", {})
    return properties


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _resolved(whole: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    for choice in node.get("anyOf", ()):
        if "$ref" in choice:
            node = choice
    if "$ref" in node:
        resolved: dict[str, Any] = whole["$defs"][node["$ref"].rpartition("/")[2]]
        return resolved
    return node
