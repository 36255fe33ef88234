"""gateway.keyring: credentials that outlive a reload, or do not."""

import asyncio
import time
from pathlib import Path

import pytest
import yaml

from gateway.config import Config, load
from gateway.credentials import kinds
from gateway.credentials.base import Services
from gateway.credentials.token import Token
from gateway.keyring import Keyring


class Keys:
    """A keyring whose tokens come from here, and the configurations it is given."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "gateway.yaml"
        self._config: Config | None = None
        self.asked: list[str] = []
        self.ring = Keyring(Services(time.time, time.monotonic, asyncio.sleep, lambda *_: None, self._token))

    async def _token(self, name: str, _: bytes | None) -> Token:
        self.asked.append(name)
        return Token(b"token", time.time() + 3600)

    def update(self, **users: str) -> None:
        token = {
            "kind": "iam_token",
            "iam_url": "http://127.0.0.1:9",
            "project": "p",
            "domain": "d",
            "password": {"env": "PASSWORD"},
        }
        document = {
            "credentials": {name: {**token, "user": user} for name, user in users.items()},
            "routes": [{"name": "r", "path": "/r", "upstream": "http://127.0.0.1:9", "credential": "none"}],
        }
        self._path.write_text(yaml.safe_dump(document))
        previous = None if self._config is None else self._config.secrets
        self._config = load(self._path, kinds(), environ={"PASSWORD": "secret"}, previous=previous)
        self.ring.update(self._config)

    async def until_asked(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.asked) < count:
                await asyncio.sleep(0.01)


@pytest.fixture
async def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


async def test_nothing_begins_before_the_start(keys: Keys) -> None:
    """Listening comes first."""
    keys.update(a="one")
    await asyncio.sleep(0.05)
    before = list(keys.asked)

    keys.ring.start()
    await keys.until_asked(1)

    assert (before, keys.asked) == ([], ["a"])
    await keys.ring.close()


async def test_a_reload_keeps_what_did_not_change(keys: Keys) -> None:
    """The same settings keep their credential and its token; changed ones begin anew, gone ones end."""
    keys.update(kept="one", changed="one", gone="one")
    keys.ring.start()
    await keys.until_asked(3)
    kept, changed, gone = (keys.ring.of(name) for name in ("kept", "changed", "gone"))

    keys.update(kept="one", changed="two", new="one")
    await keys.until_asked(5)

    assert keys.ring.of("kept") is kept
    assert keys.ring.of("changed") is not changed
    assert keys.ring.get("gone") is None
    assert sorted(keys.asked[3:]) == ["changed", "new"]
    assert gone.name == "gone"
    await keys.ring.close()


async def test_no_credential(keys: Keys) -> None:
    """Routes without one get the one that adds nothing."""
    keys.update()

    assert keys.ring.of(None).kind == "none"
    assert (keys.ring.states(), keys.ring.kinds()) == ({}, {})
    await keys.ring.close()
