"""Secrets that IAM refused: nobody in this process tries one again before its wait is over, under whatever name.

IAM locks a user after 5 wrong passwords in 15 minutes (IAM user guide, "Login Authentication Policy"). Two credentials
may share a user, a reload makes new ones, and a file may be swapped back to an old password: each would try by itself.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.credentials.token import Cause, FetchFailed

_HOLD_SECONDS = 900.0
_REMEMBERED = 1024


class LockOuts:
    """What was refused, by whose secret it was; holds salted hashes, never a secret."""

    def __init__(self) -> None:
        self._salt = os.urandom(16)
        self._refused: dict[bytes, tuple[float, str]] = {}  # until (monotonic), why
        self._proven: set[bytes] = set()
        self._turns: dict[bytes, asyncio.Lock] = {}

    @asynccontextmanager
    async def trying(self, *identity: str, now: Callable[[], float]) -> AsyncIterator[None]:
        """Around an attempt with this identity, its secret included. Until one has succeeded they are made in turn.

        Raises:
            FetchFailed: this very secret was refused, and how long that counts.
        """
        key = self._key(identity)
        if key in self._proven:
            self._check(key, now())
            async with self._recorded(key, now):
                yield
            return
        async with self._turns.setdefault(key, asyncio.Lock()):
            self._check(key, now())
            async with self._recorded(key, now):
                yield

    @asynccontextmanager
    async def _recorded(self, key: bytes, now: Callable[[], float]) -> AsyncIterator[None]:
        try:
            yield
        except FetchFailed as failure:
            if failure.cause is Cause.LOCK_OUT:
                self._proven.discard(key)
                self._bound()
                self._refused[key] = (now() + _HOLD_SECONDS, failure.reason)
            raise
        self._refused.pop(key, None)
        self._proven.add(key)
        self._turns.pop(key, None)

    def _check(self, key: bytes, now: float) -> None:
        until, why = self._refused.get(key, (0.0, ""))
        if now < until:
            raise FetchFailed(why, Cause.LOCK_OUT, retry_after_seconds=until - now)

    def _bound(self) -> None:
        """A secret that is rotated for years must not fill the memory."""
        for known in (self._refused, self._turns):
            while len(known) >= _REMEMBERED:
                known.pop(next(iter(known)))
        if len(self._proven) >= _REMEMBERED:
            self._proven.clear()

    def _key(self, identity: tuple[str, ...]) -> bytes:
        digest = hashlib.blake2b(key=self._salt)
        for part in identity:
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(b"%d:%b" % (len(encoded), encoded))
        return digest.digest()
