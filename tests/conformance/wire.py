"""One end of a TCP connection under full control: every byte kept, every way of ending told apart."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from typing import cast

# What is kept of a connection for the record; bodies beyond it are only counted.
_RECORD_BYTES = 1024 * 1024


class Wire(asyncio.Protocol):
    """Bytes as they came, and how it ended: ``eof`` (they finished sending), ``lost`` (closed), ``was_reset``."""

    def __init__(self, on_connected: "Callable[[Wire], None] | None" = None) -> None:
        self._on_connected = on_connected
        self._event = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.record = bytearray()
        self.received_bytes = 0
        self.eof = False
        self.lost = False
        self.was_reset = False
        self.ended_at: float | None = None
        self.last_read_at = 0.0
        self.writable = True

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._on_connected is not None:
            self._on_connected(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.record) < _RECORD_BYTES:
            self.record += data
        self.received_bytes += len(data)
        self.last_read_at = time.monotonic()
        self._event.set()

    def eof_received(self) -> bool:
        self.eof = True
        self.ended_at = self.ended_at or time.monotonic()
        self._event.set()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = self.eof = True
        self.was_reset = isinstance(error, ConnectionError)
        self.ended_at = self.ended_at or time.monotonic()
        self._event.set()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._event.set()

    # For cases

    async def changed(self) -> None:
        self._event.clear()
        await self._event.wait()

    async def until(self, condition: Callable[[], object], seconds: float = 5.0) -> bool:
        """Wait for a condition on this wire; whether it came true within ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await self.changed()
        except TimeoutError:
            return bool(condition())
        return True

    async def holds(self, data: bytes, seconds: float = 5.0) -> bool:
        """Wait for bytes that nobody has taken yet; whether they came before the end."""
        await self.until(lambda: data in self.buffer or self.eof, seconds)
        return data in self.buffer

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(data)

    async def send_all(self, data: bytes, seconds: float = 10.0) -> None:
        """Send, and wait until the peer's side has taken most of it."""
        self.send(data)
        await asyncio.sleep(0)  # so that the end of the connection is noticed
        await self.until(lambda: self.writable or self.lost, seconds)

    async def drip(self, data: bytes, every_seconds: float, step: int = 1) -> None:
        """Send a few bytes at a time, until the other end has gone."""
        for at in range(0, len(data), step):
            if self.lost:
                return
            self.send(data[at : at + step])
            await asyncio.sleep(every_seconds)

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self.lost:
            self._transport.resume_reading()

    def half_close(self) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write_eof()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now; what was not sent is dropped."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Leave with a TCP reset."""
        transport = self._transport
        if transport is not None and not self.lost:
            with contextlib.suppress(OSError):
                transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            transport.abort()

    def take(self, count: int) -> bytes:
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data
