"""A caller that speaks over a bare socket, so that a test decides every byte and sees every byte."""

import asyncio
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self


class CutOff(Exception):
    """The connection ended before the answer was whole; ``got`` is what had come of it, head included."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"cut after {len(got)} bytes")
        self.got = got


@dataclass
class Reply:
    """One whole answer."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    interims: list[int] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        found = self.all(name)
        return found[0] if found else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def json(self) -> Any:  # Any: JSON
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The ``error_code`` of an error."""
        return str(self.json()["error_code"])

    @property
    def details(self) -> str | None:
        """The setting that Proxy-Status names."""
        _, mark, rest = (self.get("Proxy-Status") or "").partition('details="')
        return rest.rstrip('"') if mark else None

    @property
    def proxy_error(self) -> str | None:
        """The error type of Proxy-Status, None on answers of the upstream."""
        value = self.get("Proxy-Status")
        return None if value is None else value.partition("error=")[2].split(";")[0]


class Caller:
    """One connection to the gateway, inside ``async with``."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._tls = tls
        self._buffer = b""

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> bytes:
        """The next bytes, b"" at the end."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return await self.reader.read(65536)

    async def head(self) -> Reply:
        """The next response head, informational ones included."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = await self.receive()
            if not piece:
                raise CutOff(data)
            data += piece
        head, _, self._buffer = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        _, status, reason = line.split(" ", 2)
        fields = [(name, value.strip()) for name, _, value in (each.partition(":") for each in lines)]
        return Reply(int(status), reason, fields)

    async def reply(self, *, to_head: bool = False) -> Reply:
        """The next whole answer.

        Raises:
            CutOff: it was not whole.
        """
        interims = []
        while (reply := await self.head()).status < 200 and reply.status != 101:
            interims.append(reply.status)
        reply.interims = interims
        if to_head or reply.status in {101, 204, 304}:
            return reply
        if reply.get("Transfer-Encoding") == "chunked":
            await self._chunked(reply)
        elif (length := reply.get("Content-Length")) is not None:
            reply.body = bytes(await self._exactly(int(length), bytearray()))
        else:
            while piece := await self.receive():
                reply.body += piece
        return reply

    async def closed(self) -> bool:
        """The gateway has ended the connection, and sent nothing more."""
        try:
            return await self.receive() == b""
        except ConnectionError:
            return True

    async def _chunked(self, reply: Reply) -> None:
        body = bytearray()
        try:
            while True:
                size = int(await self._line(body), 16)
                body += await self._exactly(size, body)
                await self._line(body)
                if not size:
                    return
        finally:
            reply.body = bytes(body)

    async def _line(self, got: bytearray) -> bytes:
        data = b""
        while b"\r\n" not in data:
            piece = await self._piece()
            if not piece:
                raise CutOff(bytes(got + data))
            data += piece
        line, _, self._buffer = data.partition(b"\r\n")
        return line

    async def _exactly(self, count: int, got: bytearray) -> bytearray:
        pieces = bytearray()
        while len(pieces) < count:
            piece = await self._piece()
            if not piece:
                raise CutOff(bytes(got + pieces))
            pieces += piece
        self._buffer = bytes(pieces[count:]) + self._buffer
        return pieces[:count]

    async def _piece(self) -> bytes:
        try:
            return await self.receive()
        except ConnectionError:
            return b""


def request_bytes(
    method: str = "GET",
    target: str = "/",
    fields: dict[str, str] | None = None,
    body: bytes | None = None,
    *,
    chunk_bytes: int = 0,
) -> bytes:
    """A request; with ``chunk_bytes`` the body goes out in chunks of that size."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway.example", *(f"{k}: {v}" for k, v in (fields or {}).items())]
    payload = b""
    if body is not None and chunk_bytes:
        lines.append("Transfer-Encoding: chunked")
        payload = b"".join(chunks(body, chunk_bytes))
    elif body is not None:
        lines.append(f"Content-Length: {len(body)}")
        payload = body
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload


def chunks(body: bytes, size: int) -> Iterator[bytes]:
    """The body in chunked transfer coding, its last chunk included."""
    for at in range(0, len(body), size):
        piece = body[at : at + size]
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


async def ask(
    port: int,
    method: str = "GET",
    target: str = "/",
    fields: dict[str, str] | None = None,
    body: bytes | None = None,
    *,
    chunk_bytes: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Reply:
    """One request on a connection of its own, sent while the answer is already read."""
    async with Caller(port, tls=tls) as caller:
        sending = asyncio.create_task(caller.send(request_bytes(method, target, fields, body, chunk_bytes=chunk_bytes)))
        try:
            return await caller.reply(to_head=method == "HEAD")
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
