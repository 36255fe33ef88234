"""A request body on its way through: counted, and kept only where a signature or a second attempt needs it."""

from __future__ import annotations

import asyncio
import hashlib
import math

from gateway.errors import BodyTooLarge, Overloaded
from gateway.exchange import Exchange, Phase
from gateway.inbound import BodySource
from gateway.spool import Spool, Spools

_FILE_READ_BYTES = 256 * 1024
# Bodies are on their way out again within moments; a body that finds no room waits so long for another one's.
_ROOM_SECONDS = 1.0


class Budget:
    """Bytes of memory that all buffered bodies together may use, ``None`` is no limit; and the files they share."""

    __slots__ = ("_waiting", "limit_bytes", "spools", "used_bytes")

    def __init__(self, limit_bytes: int | None, spools: Spools | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.spools = spools or Spools()
        self.used_bytes = 0
        self._waiting: dict[asyncio.Future[None], int] = {}  # and how much each has to have, in their order

    def has_room(self, count: int) -> bool:
        return self.limit_bytes is None or self.used_bytes + count <= self.limit_bytes

    def take(self, count: int) -> None:
        """Raises Overloaded when there is no room; nothing is taken then."""
        if self.limit_bytes is not None and self.used_bytes + count > self.limit_bytes:
            raise Overloaded(
                "The gateway is holding as many request bodies as it may (process.body_memory). Try again shortly.",
                setting="process.body_memory",
                retry_after_seconds=1,
            )
        self.used_bytes += count

    async def take_soon(self, count: int) -> None:
        """``take``, after waiting for a moment where others may make room."""
        if self.limit_bytes is not None and count <= self.limit_bytes:
            loop = asyncio.get_running_loop()
            until = loop.time() + _ROOM_SECONDS
            while not self.has_room(count) and loop.time() < until:
                await self._given_back(count, until - loop.time())
        self.take(count)

    def give_back(self, count: int) -> None:
        """Those who wait go on as far as there is room: every request that ends gives back, most of them nothing."""
        self.used_bytes -= count
        if not self._waiting:
            return
        room = math.inf if self.limit_bytes is None else self.limit_bytes - self.used_bytes
        for waiting, wanted in self._waiting.items():
            if wanted <= room:
                room -= wanted
                if not waiting.done():
                    waiting.set_result(None)

    async def _given_back(self, count: int, seconds: float) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = count
        try:
            await asyncio.wait({waiting}, timeout=seconds)
        finally:
            del self._waiting[waiting]


class Body:
    """A request body that can be streamed once, or buffered and replayed.

    ``limit_bytes`` counts bytes as received, chunk framing left out and before any content decoding. What passes is
    kept in memory up to ``replay_bytes`` for a second attempt; ``sha256()`` keeps the rest in a temporary file.
    """

    # Most bodies leave most of these as they are, so they stand on the class.
    received_bytes = 0
    whole: bytes | None = None  # all of a small one that came together with its head
    _held_bytes = 0
    _at = 0  # next piece of _kept to hand out
    _spool: Spool | None = None
    _spool_at = 0  # next byte of the file to hand out
    _hash: hashlib._Hash | None = None

    def __init__(
        self,
        source: BodySource,
        exchange: Exchange,
        budget: Budget,
        route: str,
        limit_bytes: int | None,
        replay_bytes: int,
    ) -> None:
        """Raises BodyTooLarge when the declared length is over the limit: nothing has been read or sent then."""
        self._source = source
        self._exchange = exchange
        self._budget = budget
        self._setting_route = route
        self.limit_bytes = limit_bytes
        self.replay_bytes = replay_bytes
        self._kept: list[bytes] = []  # everything received so far, while _keeping and no spool
        self._keeping = replay_bytes > 0
        declared = source.content_length
        if limit_bytes is not None and declared is not None and declared > limit_bytes:
            raise self._too_large()
        if declared is None:
            if source.chunked:
                exchange.body_mode = "streamed"
        elif declared > replay_bytes:
            self._keeping = False
            exchange.body_mode = "streamed"
        elif declared:
            exchange.body_mode = "streamed"
            if budget.has_room(declared):
                self._take_what_came(source)

    def _take_what_came(self, source: BodySource) -> None:
        """Hold what arrived together with the head: of most small bodies everything."""
        piece = source.take()
        if piece:
            count = self.received_bytes = self._held_bytes = self._exchange.request_bytes = len(piece)
            self._budget.used_bytes += count
            self._kept.append(piece)
            self._exchange.moved = True
            if source.ended:
                self.whole = piece

    @property
    def empty(self) -> bool:
        """Known to have no bytes."""
        source = self._source
        return not source.content_length and not source.chunked

    @property
    def announced(self) -> bool:
        """The caller said how long it is."""
        return self._source.content_length is not None

    @property
    def length(self) -> int | None:
        """The size in bytes, once it is known: declared, or received whole."""
        if self._source.ended:
            return self.received_bytes
        return 0 if self.empty else self._source.content_length

    @property
    def ended(self) -> bool:
        """Everything has been handed out by ``take``."""
        if self._at < len(self._kept) or (self._spool is not None and self._spool_at < self.received_bytes):
            return False
        return self._source.ended

    @property
    def replayable(self) -> bool:
        """A second attempt could send every byte again: all that was received is still held."""
        return self.received_bytes == 0 or self._spool is not None or self._keeping

    def take(self) -> bytes:
        """The next bytes to send, b"" when none are there yet or the body has ended.

        Raises:
            BodyTooLarge: the body passed ``limit_bytes``.
            BadRequest: its chunk framing is broken.
        """
        if self._at < len(self._kept):
            piece = self._kept[self._at]
            self._at += 1
            return piece
        if self._spool is not None and self._spool_at < self.received_bytes:
            piece = self._spool.read(_FILE_READ_BYTES, self._spool_at)
            self._spool_at += len(piece)
            return piece
        piece = self._receive()
        self._at = len(self._kept)
        return piece

    def rewind(self) -> None:
        """Start again for another attempt; only when ``replayable``."""
        if not self.replayable:  # a body without its beginning must never go out as a whole one
            raise RuntimeError("the body's beginning is not held any more")
        self._at = 0
        self._spool_at = 0

    def invite(self) -> None:
        """Let a caller that waits for ``100 Continue`` send."""
        self._source.invite()

    async def fits(self, count: int) -> bool:
        """Receive until the body has ended (True) or is seen to be over ``count`` bytes (False); all of it is held.

        Raises:
            BodyTooLarge, BadRequest: as ``take``.
            Overloaded: there is no memory left for buffered bodies.
        """
        declared = self._source.content_length
        if declared is not None and declared > count:
            return False
        while not self._source.ended:
            if self.received_bytes > count:
                return False
            if not await self._take_in():
                await self._wait()
        if self.received_bytes:
            self._exchange.body_mode = "memory"
        return self.received_bytes <= count

    def sha256_if_here(self) -> str | None:
        """``sha256()`` of a small body that has arrived whole; None where there is something to wait for."""
        if self.whole is None:
            return None
        self._exchange.body_mode = "memory"
        return hashlib.sha256(self.whole).hexdigest()

    async def sha256(self) -> str:
        """Receive the whole body and return its lower-case hex SHA-256; beyond ``replay_bytes`` it goes to a file.

        Raises:
            BodyTooLarge, BadRequest: as ``take``.
            Overloaded: there is no memory, or no disk space, left for buffered bodies.
        """
        if self._hash is None:
            self._start_hash()
        while not self._source.ended:
            if self._held_bytes > self.replay_bytes or (self._source.content_length or 0) > self.replay_bytes:
                self._to_file()
            if not await self._take_in():
                await self._wait()
        assert self._hash is not None
        self._exchange.body_mode = "file" if self._spool is not None else "memory" if self.received_bytes else "none"
        return self._hash.hexdigest()

    def close(self) -> None:
        """Give back the memory and the file; it is of no use any more."""
        # Others may know this body for longer, and what is given back must not be held. Nothing held is given back, too:
        # room that was offered to this body in vain goes to the next one that waits.
        self._forget()
        self.whole = None
        if self._spool is not None:
            self._budget.spools.give_back(self._spool)
            self._spool = None

    async def _wait(self) -> None:
        """Until the caller has sent more."""
        self._source.invite()
        self._exchange.waits_for_caller = True
        try:
            await self._source.moment.wait()
        finally:
            self._exchange.waits_for_caller = False

    async def _take_in(self) -> bool:
        """Hold what arrived, in memory or in the file; false when nothing has."""
        piece = self._receive(hold=True)
        if piece and self._spool is None:
            if self._budget.has_room(len(piece)):
                self._budget.take(len(piece))
            else:
                self._exchange.phase = Phase.HOLDING
                await self._budget.take_soon(len(piece))
                self._exchange.phase = Phase.CREDENTIAL
            self._hold(piece)
        return bool(piece)

    def _receive(self, *, hold: bool = False) -> bytes:
        """Take what arrived and count it; keep it for a second attempt, unless ``_take_in`` is to ``hold`` it."""
        piece = self._source.take()
        if not piece:
            return piece
        self._exchange.moved = True
        self.received_bytes += len(piece)
        self._exchange.request_bytes = self.received_bytes
        if self.limit_bytes is not None and self.received_bytes > self.limit_bytes:
            raise self._too_large()
        if self._hash is not None:
            # Piece by piece as they come: 12 MB hashed at once would hold the loop for 7 ms.
            self._hash.update(piece)
        if self._spool is not None:
            self._write(self._spool, piece)
        elif self._keeping and not hold:
            if self._held_bytes + len(piece) <= self.replay_bytes and self._budget.has_room(len(piece)):
                self._budget.take(len(piece))
                self._hold(piece)
            else:
                self._forget()  # no second attempt then; what was kept has been sent
        return piece

    def _hold(self, piece: bytes) -> None:
        self._held_bytes += len(piece)
        self._kept.append(piece)
        self._keeping = True

    def _forget(self) -> None:
        self._keeping = False
        self._kept.clear()
        self._at = 0
        self._budget.give_back(self._held_bytes)
        self._held_bytes = 0

    def _start_hash(self) -> None:
        self._hash = hashlib.sha256()
        for piece in self._kept:
            self._hash.update(piece)

    def _to_file(self) -> None:
        """Move what is held to a temporary file without a name, which a later body may fill again (``spool``)."""
        if self._spool is not None:
            return
        try:
            self._spool = self._budget.spools.open()
        except OSError as error:
            raise self._no_disk() from error
        for piece in self._kept:
            self._write(self._spool, piece)
        self._forget()

    def _write(self, spool: Spool, piece: bytes) -> None:
        try:
            self._budget.spools.write(spool, piece)
        except OSError as error:
            raise self._no_disk() from error

    def _no_disk(self) -> Overloaded:
        return Overloaded(
            "The gateway has no disk space left to hold this body for its signature. "
            "Make room in the temporary directory (TMPDIR), or set 'payload: unsigned' on the credential.",
            setting="replay",
            retry_after_seconds=5,
        )

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"The request body is over {_size(self.limit_bytes or 0)}, "
            f"the limit of route '{self._setting_route}' (limits.body).",
            setting="limits.body",
        )


def _size(count: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor and count % factor == 0:
            return f"{count // factor} {unit}"
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor and count % factor == 0:
            return f"{count // factor} {unit}"
    return f"{count} bytes"
