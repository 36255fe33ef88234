"""Where secrets come from, and how a rotated file reaches those who hold one."""

import configparser
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from gateway.secret import Secret

# No secret of ours is longer; reading is bounded so that /dev/zero or a log file named by mistake does no harm.
_LARGEST_FILE_BYTES = 64 * 1024
# Files that change between two rounds of reading, again and again, are taken as they are.
_ROUNDS = 4
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# A value pasted where a name belongs must not end up in a log: only what looks like NAME_OF_A_VARIABLE is repeated.
_REPEATABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)+\Z")

# A line of a shell or of an env file in place of its value. Padding in base64 and base32 is '=' with nothing but '=' behind it.
_ASSIGNMENT = re.compile(r"(?:export\s+)?[A-Z_][A-Z0-9_]*=+[^=]")
# What `docker --env-file` and quotation marks of the shell leave as it is.
_VARIABLE = re.compile(r"\$(?:[A-Z_][A-Z0-9_]*|\{[A-Z_][A-Z0-9_]*\})\Z")


class SecretError(ValueError):
    """A secret cannot be had; the message never holds its value."""


class SecretStore:
    """Every secret of one configuration by its source, one holder for each.

    Give a new store the ``previous`` one: what comes from the same source keeps its holder, so that whatever
    was derived from it (a token) survives a reload. The store holds no file open and needs no lock: values are replaced whole.
    """

    def __init__(self, previous: "SecretStore | None" = None) -> None:
        self._previous = previous._held if previous is not None else {}
        self._held: dict[str, Secret] = {}
        self._readers: dict[str, Callable[[], str]] = {}  # of what can be read again
        self._warned: dict[str, str] = {}

    def from_env(self, name: str, environ: Mapping[str, str]) -> Secret:
        """The secret in an environment variable.

        Raises:
            SecretError: it is not set, empty, or holds control characters.
        """
        if name not in environ:
            called = f"environment variable {name}" if _REPEATABLE_NAME.match(name) else "this environment variable"
            raise SecretError(f"{called} is not set; set it, or take the secret from {{file: PATH}}")
        return self._hold(f"env {name}", _checked(environ[name], f"environment variable {name}"))

    def from_file(self, path: Path) -> Secret:
        """The secret in a file, its one trailing newline dropped.

        Raises:
            SecretError: the file cannot be read, is empty, or holds control characters or anything but UTF-8.
        """
        return self._hold(f"file {path}", _read(path), partial(_read, path))

    def from_profile(self, path: Path, section: str, key: str) -> Secret:
        """The value of a key in a section of an INI file, as the official SDKs keep them.

        Raises:
            SecretError: the file cannot be read, or the value is not there, is empty, or holds control characters.
        """
        reader = partial(_read_profile, path, section, key)
        return self._hold(f"file {path} [{section}] {key}", reader(), reader)

    def from_profile_if_there(self, path: Path, section: str, key: str) -> Secret | None:
        """The same; None where the section has no such key.

        Raises:
            SecretError: the file cannot be read, or the value holds control characters.
        """
        return self.from_profile(path, section, key) if _profile(path, section).get(key) else None

    def oddities(self) -> list[str]:
        """What can be meant and hardly ever is, such as quotation marks that `docker --env-file` leaves standing."""
        return [
            f"{called} {odd}: is that part of the secret?"
            for secret in self._held.values()
            if (odd := _odd(secret.reveal()))
            for called in (secret.source.replace("env ", "environment variable ", 1),)
        ]

    def refresh(self) -> list[str]:
        """Read every file again by its path, so that a Kubernetes symlink swap is seen; blocking, for a thread.

        Returns a warning for each that turned bad since the last time; its old value stays in use.
        """
        warnings = []
        for source, found in self._read_together().items():
            if isinstance(found, str):
                self._held[source].replace(found)
                self._warned.pop(source, None)
                continue
            # Said once: this runs every other second.
            if self._warned.get(source) != str(found):
                warnings.append(f"{found}; the old value stays in use")
            self._warned[source] = str(found)
        return warnings

    def _read_together(self) -> dict[str, "str | SecretError"]:
        """Every file's value, or what is wrong with it. A folder may be swapped between two files that belong together,
        as an access key and its secret do: so all are read again until two rounds agree."""
        earlier: dict[str, str | SecretError] = {}
        for _ in range(_ROUNDS):
            now = {source: _attempted(reader) for source, reader in self._readers.items()}
            if all(str(now[source]) == str(earlier.get(source)) for source in now):
                break
            earlier = now
        return now

    def _hold(self, source: str, value: str, reader: Callable[[], str] | None = None) -> Secret:
        secret = self._held.get(source) or self._previous.get(source)
        if secret is None:
            secret = Secret(value, source)
        else:
            secret.replace(value)
        self._held[source] = secret
        if reader is not None:
            self._readers[source] = reader
        return secret


def _attempted(reader: Callable[[], str]) -> "str | SecretError":
    try:
        return reader()
    except SecretError as problem:
        return problem


def _read_profile(path: Path, section: str, key: str) -> str:
    value = _profile(path, section).get(key)
    if value is None:
        raise SecretError(f"file {path} has no {key} in its section [{section}]")
    return _checked(value, f"{key} in section [{section}] of file {path}")


def _profile(path: Path, section: str) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(_content(path))
    except configparser.Error:
        # Not chained: the exception repeats the line.
        raise SecretError(f"file {path} is not an INI file, with lines such as [basic] and ak = …") from None
    if not parser.has_section(section):
        raise SecretError(f"file {path} has no section [{section}]")
    return parser[section]


def _read(path: Path) -> str:
    text = _content(path)
    return _checked(text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text, f"file {path}")


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise SecretError(f"file {path} cannot be read: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:
        raise SecretError("this is not a path: it holds a NUL character") from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise SecretError(f"file {path} is over 64KiB; is it the right file?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        # Not chained: the exception carries the bytes.
        raise SecretError(f"file {path} is not UTF-8 text") from None


def _odd(value: str) -> str:
    """What is odd about a value, without any of it; empty where nothing is."""
    if value != value.strip():
        return "begins or ends with a blank"
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return "stands in quotation marks"
    if _ASSIGNMENT.match(value):
        return "begins with the name of a variable and '='"
    if _VARIABLE.match(value):
        return "is '$' and the name of a variable"
    if value.lower().startswith("authorization:"):
        return "begins with 'Authorization:'"
    return "begins with 'Bearer '" if value.lower().startswith("bearer ") else ""


def _checked(value: str, source: str) -> str:
    if not value:
        raise SecretError(f"{source} is empty")
    if value.startswith("\ufeff"):
        raise SecretError(f"{source} begins with a byte order mark; save it as plain UTF-8")
    if "\n" in value:
        raise SecretError(f"{source} holds more than one line; a secret is one line of text")
    if _CONTROL.search(value):
        raise SecretError(f"{source} holds control characters; a secret is one line of text")
    return value
