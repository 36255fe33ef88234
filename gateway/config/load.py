"""Reads the file into a ``Config``, or says everything that is wrong with it."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gateway import paths
from gateway.config import build, places, warnings, yaml
from gateway.config.findings import EMPTY, Findings, suggestion
from gateway.config.model import (
    CallerSettings,
    NoCredential,
    RouteSettings,
    TlsSettings,
    TopSettings,
    checked_name,
)
from gateway.config.problems import ConfigProblems, Problem, Where
from gateway.config.secrets import SecretStore
from gateway.config.shapes import Caller, Config, Tls
from gateway.config.types import CredentialKind, CredentialSettings
from gateway.errors import BadPath
from gateway.routes import Route

# What a route says, and the kind an entry under credentials has, where the upstream takes no credential.
NO_CREDENTIAL = "none"


def load(
    path: Path | str,
    kinds: Mapping[str, CredentialKind],
    *,
    environ: Mapping[str, str] | None = None,
    previous: SecretStore | None = None,
    content: bytes | None = None,
) -> Config:
    """The configuration in a file. ``kinds`` are the credential kinds by name.

    ``content`` is what somebody has read from the file, so that several processes load the very same text.

    With ``previous`` (the secrets of the configuration it will replace) secrets from the same source keep their
    holder, so that settings which did not change compare equal. Blocks on files, never on the network.

    Raises:
        ConfigProblems: the file cannot be used; holds every problem, and no secret.
    """
    path = Path(path)
    try:
        document = yaml.read(path, content)
    except yaml.Unreadable as error:
        line, column = error.mark or (0, 0)
        raise ConfigProblems(str(path), (Problem(str(path), line, column, "", error.message),)) from None
    store = SecretStore(previous)
    context = {
        "environ": os.environ if environ is None else environ,
        "secrets": store,
        "folder": path.absolute().parent,
    }
    reading = _Reading(Findings(str(path), document, context), document, kinds)
    return reading.config(path, store)


class _Reading:
    """One pass over one document: each part by itself, then what must fit together."""

    def __init__(self, findings: Findings, document: yaml.Document, kinds: Mapping[str, CredentialKind]) -> None:
        self._findings = findings
        self._document = document
        self._data: dict[str, Any] = document.data
        self._kinds = kinds

    def config(self, path: Path, store: SecretStore) -> Config:
        for mark, where, message in self._document.faults:
            self._findings.add_at(mark, where, message)
        top = self._findings.validated(TopSettings, self._data, ())
        if top is not None and top.listen == top.admin and (top.listen.port or top.listen.unix_path):
            self._findings.add(("admin",), "this is the address of listen; the admin listener needs its own")
        credentials = self._credentials()
        routes = self._routes(credentials)
        callers = self._callers()
        tls = self._tls(top)
        self._nothing_is_empty()
        problems = self._findings.sorted()
        if problems or top is None:
            raise ConfigProblems(str(path), problems)
        config = Config(
            path=path,
            listen=top.listen,
            admin=top.admin,
            workers=top.workers or _cores(),
            tls=tls,
            process=build.process(top.process),
            credentials={name: entry for name, entry in credentials.items() if entry.kind != NO_CREDENTIAL},
            routes=routes,
            callers=callers,
            secrets=store,
        )
        return warnings.with_warnings(config)

    def _credentials(self) -> dict[str, CredentialSettings]:
        """The entries that are right, by name."""
        entries: dict[str, CredentialSettings] = {}
        for name, entry in _items(self._data.get("credentials")):
            where: Where = ("credentials", name)
            if not self._named(name, where, at_key=True):
                continue
            settings = self._credential(entry, where)
            if settings is not None and name == NO_CREDENTIAL and settings.kind != NO_CREDENTIAL:
                self._findings.add(
                    where, "a route's 'credential: none' means no credential; give this one another name", at_key=True
                )
            elif settings is not None:
                entries[name] = settings
        return entries

    def _credential(self, entry: object, where: Where) -> CredentialSettings | None:
        known = {NO_CREDENTIAL, *self._kinds}
        if not isinstance(entry, dict):
            self._findings.add(
                where, EMPTY if entry is None else f"this is a mapping with its kind: {', '.join(sorted(known))}"
            )
            return None
        kind = entry.get("kind")
        if "kind" not in entry:
            self._findings.add((*where, "kind"), f"this key is missing: one of {', '.join(sorted(known))}")
        elif not isinstance(kind, str) or kind not in known:
            hint = (
                suggestion(kind, known, "known kinds")
                if isinstance(kind, str)
                else f"known kinds: {', '.join(sorted(known))}"
            )
            self._findings.add((*where, "kind"), f"unknown kind of credential; {hint}")
        else:
            model = self._kinds[kind].Settings if kind in self._kinds else NoCredential
            return self._findings.validated(model, entry, where)
        return None

    def _routes(self, credentials: Mapping[str, CredentialSettings]) -> tuple[Route, ...]:
        entries = _list(self._data.get("routes"))
        if self._data.get("routes") == []:
            self._findings.add(("routes",), "this list is empty; a gateway needs at least one route")
        self._unique(((("routes", index, "name"), _get(entry, "name")) for index, entry in enumerate(entries)), "route")
        prefixes: dict[str, str] = {}
        routes = []
        for index, entry in enumerate(entries):
            where: Where = ("routes", index)
            settings = self._findings.validated(RouteSettings, entry, where)
            self._known_credential(_get(entry, "credential"), (*where, "credential"))
            if settings is None:
                continue
            if settings.path in prefixes:
                self._findings.add((*where, "path"), f"route '{prefixes[settings.path]}' has this path already")
            prefixes.setdefault(settings.path, settings.name)
            credential = credentials.get(settings.credential)
            kind = credential.kind if credential is not None else NO_CREDENTIAL
            signed = kind in self._kinds and self._kinds[kind].signs
            if signed:
                self._signable(settings, where)
            routes.append(build.route(settings, None if kind == NO_CREDENTIAL else settings.credential, signed=signed))
        return tuple(routes)

    def _known_credential(self, name: object, where: Where) -> None:
        known = {known for known, _ in _items(self._data.get("credentials"))} | {NO_CREDENTIAL}
        if isinstance(name, str) and name not in known:
            self._findings.add(where, f"no credential has this name; {suggestion(name, known, 'there are')}")

    def _signable(self, settings: RouteSettings, where: Where) -> None:
        try:
            paths.canonical_path(settings.upstream.base_path or "/")
        except BadPath as refusal:
            self._findings.add((*where, "upstream"), f"this path cannot be signed: {refusal.message}")

    def _callers(self) -> tuple[Caller, ...]:
        entries = _list(self._data.get("callers"))
        if self._data.get("callers") == []:
            self._findings.add(
                ("callers",), "this list is empty; name a caller, or leave the key out to let everybody in"
            )
        self._unique(
            ((("callers", index, "name"), _get(entry, "name")) for index, entry in enumerate(entries)), "caller"
        )
        route_names = {
            name for entry in _list(self._data.get("routes")) if isinstance(name := _get(entry, "name"), str)
        }
        callers: list[Caller] = []
        for index, entry in enumerate(entries):
            where: Where = ("callers", index)
            settings = self._findings.validated(CallerSettings, entry, where)
            for position, name in enumerate(_list(_get(entry, "routes"))):
                if isinstance(name, str) and name != "*" and name not in route_names:
                    hint = suggestion(name, route_names, "there are")
                    self._findings.add((*where, "routes", position), f"no route has this name; {hint}")
            if settings is not None:
                caller = build.caller(settings)
                self._distinct(caller, callers, where)
                callers.append(caller)
        return tuple(callers)

    def _distinct(self, caller: Caller, others: list[Caller], where: Where) -> None:
        """A token or certificate tells one caller; which one must not depend on the order of the list."""
        if caller.token is not None and (not caller.token.reveal().isascii() or " " in caller.token.reveal()):
            self._findings.add(
                (*where, "token"), "a token holds visible ASCII characters only, as it travels in a header"
            )
        if caller.certificate is not None and _get(self._data.get("tls"), "client_ca") is None:
            self._findings.add(
                (*where, "certificate"), "callers are asked for a certificate only with tls.client_ca; set it"
            )
        for other in others:
            if caller.token is not None and other.token is not None and caller.token.reveal() == other.token.reveal():
                self._findings.add((*where, "token"), f"caller '{other.name}' has the same token; each needs its own")
            if caller.certificate is not None and caller.certificate == other.certificate:
                self._findings.add(
                    (*where, "certificate"), f"caller '{other.name}' has the same certificate; each needs its own"
                )

    def _tls(self, top: TopSettings | None) -> Tls | None:
        settings: TlsSettings | None
        if top is not None:
            settings = top.tls
        elif isinstance(self._data.get("tls"), dict) and not self._findings.inside(("tls",)):
            settings = self._findings.validated(TlsSettings, self._data["tls"], ("tls",))
        else:
            return None
        if settings is None:
            return None
        try:
            places.key_pair(settings.certificate, settings.key)
        except ValueError as error:
            self._findings.add(("tls",), str(error))
        return Tls(settings.certificate, settings.key, settings.client_ca)

    def _nothing_is_empty(self) -> None:
        """A key without a value means nothing anywhere, and for ``callers`` it would mean everybody."""
        for where in self._document.values:
            if where and _at(self._data, where) is None and not self._findings.about(where):
                self._findings.add(where, EMPTY)

    def _named(self, name: str, where: Where, *, at_key: bool = False) -> bool:
        try:
            checked_name(name)
        except ValueError as error:
            self._findings.add(where, str(error), at_key=at_key)
            return False
        return True

    def _unique(self, names: Iterable[tuple[Where, object]], what: str) -> None:
        first: dict[str, Where] = {}
        for where, name in names:
            if isinstance(name, str) and name in first:
                line = self._document.mark(first[name]).line
                self._findings.add(where, f"another {what} has this name, in line {line}; names are unique")
            elif isinstance(name, str):
                first[name] = where


def _items(section: object) -> list[tuple[str, object]]:
    return list(section.items()) if isinstance(section, dict) else []


def _list(section: object) -> list[object]:
    return section if isinstance(section, list) else []


def _get(entry: object, key: str) -> object:
    return entry.get(key) if isinstance(entry, dict) else None


def _at(data: Any, where: Where) -> object:
    for step in where:
        data = data[step]
    return data


def _cores() -> int:
    """Cores this process may use; the machine's, where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
