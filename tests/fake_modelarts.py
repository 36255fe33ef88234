"""An upstream that speaks over a bare socket: it records what it gets byte for byte and answers as it is told."""

import asyncio
import contextlib
import hashlib
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Self


class Broken(Exception):
    """The other side ended the connection in the middle of a message."""


class Received:
    """One request as it arrived. ``complete`` only when every byte that its framing promises has come."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        line, *fields = head.split(b"\r\n")
        method, target, self.version = line.split(b" ", 2)
        self.method, self.target = method.decode(), target.decode("latin-1")
        self.fields = [(name, value.strip()) for name, _, value in (field.partition(b":") for field in fields)]
        self.body = b""
        self.body_bytes = 0
        self.framed = b""  # the body as it came, chunk framing included; only where bodies are kept
        self.digest = hashlib.sha256()
        self.complete = False

    def get(self, name: str) -> str | None:
        found = self.all(name)
        return found[0] if found else None

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1") for key, value in self.fields if key.lower() == name.lower().encode()]

    @property
    def names(self) -> set[str]:
        return {name.decode().lower() for name, _ in self.fields}

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str | None:
        _, mark, query = self.target.partition("?")
        return query if mark else None

    @property
    def chunked(self) -> bool:
        return (self.get("Transfer-Encoding") or "").lower() == "chunked"

    @property
    def sha256(self) -> str:
        return self.digest.hexdigest()

    def description(self) -> dict[str, object]:
        return {
            "method": self.method,
            "target": self.target,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.fields],
            "body_bytes": self.body_bytes,
            "sha256": self.sha256,
        }


class Call:
    """A request whose head is there; a behaviour reads the body when it likes and writes what it likes."""

    def __init__(
        self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keep: bool
    ) -> None:
        self.request = request
        self.reader = reader
        self.writer = writer
        self.read = False
        self._keep = keep

    async def body(self) -> bytes:
        """Read the body to its end.

        Raises:
            Broken: the connection ended first; the request stays incomplete.
        """
        request = self.request
        if request.chunked:
            await self._chunks()
        else:
            left = int(request.get("Content-Length") or 0)
            while left:
                piece = await self._some(min(left, 65536))
                left -= len(piece)
                self._take(piece, piece)
        request.complete = True
        self.read = True
        return request.body

    async def _chunks(self) -> None:
        while True:
            line = await self._line()
            size = int(line.split(b";")[0], 16)
            self._take(b"", line + b"\r\n")
            if not size:
                self._take(b"", await self._line() + b"\r\n")
                return
            while size:
                piece = await self._some(min(size, 65536))
                size -= len(piece)
                self._take(piece, piece)
            self._take(b"", await self._line() + b"\r\n")

    def _take(self, piece: bytes, framed: bytes) -> None:
        request = self.request
        request.body_bytes += len(piece)
        request.digest.update(piece)
        if self._keep:
            request.body += piece
            request.framed += framed

    async def _line(self) -> bytes:
        try:
            return (await self.reader.readuntil(b"\r\n"))[:-2]
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Broken from error

    async def _some(self, count: int) -> bytes:
        try:
            piece = await self.reader.read(count)
        except ConnectionError as error:
            raise Broken from error
        if not piece:
            raise Broken
        return piece

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, status: str = "200 OK", body: bytes = b"", *lines: str) -> None:
        """A whole answer of known length."""
        head = [f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""]
        await self.send("\r\n".join(head).encode("latin-1") + body)

    async def gone(self) -> None:
        """Until the other side has ended the connection."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """End the connection so that the peer sees a reset."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Call], Awaitable[None]]


async def describe(call: Call) -> None:
    """The default: read everything and answer with what was received."""
    await call.body()
    await call.reply("200 OK", json.dumps(call.request.description()).encode(), "Content-Type: application/json")


def says(status: str, body: bytes = b"", *lines: str) -> Behaviour:
    """Read everything, then give this answer."""

    async def behaviour(call: Call) -> None:
        await call.body()
        await call.reply(status, body, *lines)

    return behaviour


def refuses(status: str, code: str, message: str) -> Behaviour:
    """Read everything, then refuse in API Gateway's shape."""
    body = json.dumps({"error_code": code, "error_msg": message, "request_id": "upstream-1"}).encode()
    return says(status, body, "Content-Type: application/json")


def raw(data: bytes, *, then: str = "close") -> Behaviour:
    """Read everything, write these bytes, then ``close``, ``reset``, ``stall``, or ``keep`` the connection for more."""

    async def behaviour(call: Call) -> None:
        await call.body()
        await call.send(data)
        if then == "reset":
            await asyncio.sleep(0.05)  # a reset would overtake what the peer has not read yet
            call.reset()
        elif then == "close":
            call.writer.close()
        elif then == "stall":
            await call.gone()

    return behaviour


async def stalls(call: Call) -> None:
    """Read everything and never answer."""
    await call.body()
    await call.gone()


class FakeModelArts:
    """Listens on loopback inside ``async with``. ``plan`` holds behaviours for the next requests, then ``behaviour`` counts."""

    def __init__(
        self, behaviour: Behaviour = describe, *, tls: ssl.SSLContext | None = None, keep_bodies: bool = True
    ) -> None:
        self.behaviour = behaviour
        self.plan: list[Behaviour] = []
        self.received: list[Received] = []
        self.connections = 0
        self.open = 0
        self.changed = asyncio.Event()
        self._keep = keep_bodies
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, limit=256 * 1024)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def last(self) -> Received:
        return self.received[-1]

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Wait for something that a request or the end of a connection brings about."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        self.changed.set()
        try:
            await self._requests(reader, writer)
        except (Broken, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self.changed.set()
            self._tasks.discard(task)
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                writer.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            call = Call(Received(head[:-4]), reader, writer, keep=self._keep)
            self.received.append(call.request)
            self.changed.set()
            behaviour = self.plan.pop(0) if self.plan else self.behaviour
            await behaviour(call)
            self.changed.set()
            if not call.read:
                return
