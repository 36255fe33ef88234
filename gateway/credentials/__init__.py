"""Credentials: one module per kind, found by being there."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from gateway.config.types import CredentialSettings
from gateway.credentials.base import Credential, Services


@cache
def kinds() -> Mapping[str, type[Credential]]:
    """Every kind by its name in the configuration."""
    found: dict[str, type[Credential]] = {}
    for module_info in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
        module = importlib.import_module(module_info.name)
        for value in vars(module).values():
            own = inspect.isclass(value) and issubclass(value, Credential) and value.__module__ == module.__name__
            if own and "kind" in vars(value):
                found[value.kind] = value
    return MappingProxyType(dict(sorted(found.items())))


def create(name: str, settings: CredentialSettings, services: Services) -> Credential:
    """The credential called ``name`` in the configuration; nothing is started yet.

    Raises:
        KeyError: there is no such kind (the configuration was not read with ``kinds()``).
    """
    return kinds()[settings.kind](name, settings, services)
