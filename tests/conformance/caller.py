"""The raw caller: sends exactly the bytes it is given, and reads answers strictly."""

import asyncio
import contextlib
import socket
import time

from tests.conformance.messages import Ended, Malformed, Reply, parse_reply, read_body, read_head
from tests.conformance.wire import Wire

_BODILESS = {204, 304}


class Caller(Wire):
    """One connection to the proxy."""

    said_close = False  # the last answer announced the end of the connection

    @classmethod
    async def connect(cls, host: str, port: int, receive_bytes: int | None = None) -> "Caller":
        """``receive_bytes`` is the kernel's receive buffer, for callers that read slowly."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            await loop.sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        _, caller = await loop.create_connection(cls, sock=sock)
        return caller

    async def reply(self, method: bytes = b"GET", seconds: float = 5.0) -> Reply:
        """The next answer: interim ones, the head and as much of the body as came (``complete`` tells).

        Raises:
            Ended: the connection ended before a whole head. TimeoutError: nothing came. Malformed: it is not HTTP.
        """
        interims: list[Reply] = []
        while True:
            reply = parse_reply(await read_head(self, seconds))
            reply.arrived_at = time.monotonic()
            if reply.status >= 200 or reply.status == 101:
                break
            interims.append(reply)
        reply.interims = interims
        self.said_close = any(b"close" in value.lower() for value in reply.values("connection"))
        if reply.status == 101:
            return reply
        if method == b"HEAD" or reply.status in _BODILESS:
            reply.complete = True
            return reply
        if reply.chunked or reply.length is not None:
            with contextlib.suppress(Ended):
                await read_body(self, reply, seconds)
            return reply
        reply.until_close = True
        if not await self.until(lambda: self.eof, seconds):
            raise TimeoutError("an answer without framing did not end")
        reply.body += self.take(len(self.buffer))
        reply.body_bytes = len(reply.body)
        await self.until(lambda: self.lost, 0.05)
        reply.complete = not self.was_reset
        return reply

    async def closed(self, seconds: float = 3.0) -> bool:
        """Whether the proxy ended the connection, with nothing more on it."""
        await self.until(lambda: self.eof or self.buffer, seconds)
        return self.eof and not self.buffer

    async def replies(self, count: int, seconds: float = 5.0) -> list[Reply]:
        return [await self.reply(seconds=seconds) for _ in range(count)]


__all__ = ["Caller", "Ended", "Malformed", "Reply"]
