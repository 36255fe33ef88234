"""All credentials of the configuration that serves; a reload keeps those that did not change, tokens and all."""

import asyncio
from collections.abc import Mapping

from gateway import credentials
from gateway.config import Config
from gateway.credentials.base import Credential, CredentialState, Services

_NO_CREDENTIAL = "none"


class Keyring:
    """Credentials by their name in the configuration."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._held: dict[str, Credential] = {}
        self._started = False
        self._closing: set[asyncio.Task[None]] = set()
        settings = credentials.kinds()[_NO_CREDENTIAL].Settings(kind=_NO_CREDENTIAL)
        self._nothing = credentials.create("-", settings, services)

    def start(self) -> None:
        """Begin their background work; those that a reload brings begin at once."""
        self._started = True
        for credential in self._held.values():
            credential.start()

    def update(self, config: Config) -> None:
        """Keep those whose settings did not change; begin the new; close the gone, in the background."""
        kept: dict[str, Credential] = {}
        for name, settings in config.credentials.items():
            known = self._held.get(name)
            if known is not None and known.settings == settings:
                kept[name] = known
            else:
                kept[name] = credentials.create(name, settings, self._services)
                if self._started:
                    kept[name].start()
        gone = [known for name, known in self._held.items() if kept.get(name) is not known]
        self._held = kept
        for credential in gone:
            task = asyncio.get_running_loop().create_task(credential.close(), name=f"close {credential.name}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def of(self, name: str | None) -> Credential:
        """The credential of this name; for None the one that adds nothing."""
        return self._nothing if name is None else self._held[name]

    def get(self, name: str) -> Credential | None:
        return self._held.get(name)

    def states(self) -> dict[str, CredentialState]:
        return {name: known.state() for name, known in self._held.items()}

    def kinds(self) -> Mapping[str, str]:
        return {name: known.kind for name, known in self._held.items()}

    async def close(self) -> None:
        await asyncio.gather(*(known.close() for known in self._held.values()), *self._closing)
