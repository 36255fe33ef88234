"""One request and how it is answered, faults included."""

import asyncio
import contextlib
import re
import socket
import struct
import uuid
from collections.abc import AsyncGenerator, Callable
from email.utils import formatdate
from typing import NoReturn

from aiohttp import WSMsgType, web

from gateway.simulator.answers import Answer, Refused
from gateway.simulator.faults import Faults
from gateway.simulator.places import Family
from gateway.simulator.received import Head

# A cut that comes too close behind the data may overtake it: what a peer has not read yet is lost on a reset.
_SETTLE_SECONDS = 0.05
# What a WebSocket peer sends to have this side close: a code that may be sent (RFC 6455 section 7.4), and a reason.
_CLOSE = re.compile(r"close ([1-4]\d{3})(?: (.*))?")


class Disrupted(Exception):
    """Instead of an answer, ``how``: stall, reset, close or garbage."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Exchange:
    """Sends one answer, or does not. ``now`` is the simulator's Unix time, which the Date field shows."""

    def __init__(self, request: web.BaseRequest, now: Callable[[], float]) -> None:
        self.request = request
        self.head = Head.of(request)
        self.request_id = uuid.uuid4().hex
        self.family: Family | None = None
        self.faults = Faults()
        self.head_sent = False
        self.ended_by_us = False
        self.chunk_sent: Callable[[], None] = lambda: None  # told after each chunk of an answer
        self._now = now

    async def send(self, answer: Answer) -> web.StreamResponse:
        """Send an answer with the fields that every answer carries, paused or cut as the faults say.

        Raises:
            Disrupted: the answer was to be cut here.
        """
        faults = self.faults
        response = web.StreamResponse(status=answer.status, headers=self.fields())
        response.headers["Content-Type"] = answer.content_type
        for name, value in answer.fields:
            response.headers.add(name, value)
        if answer.close:
            response.force_close()
        if isinstance(answer.content, bytes):
            response.content_length = len(answer.content)
            whole = faults.mid_body is None and not faults.pause_seconds
            chunks = _chunks(answer.content, 1 if whole else 2)
        else:
            chunks = answer.content
        await response.prepare(self.request)
        self.head_sent = True
        position = 0
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                if self.request.method != "HEAD":
                    await response.write(chunk)
                self.chunk_sent()
                position += 1
                await asyncio.sleep(faults.pause_seconds)
                if faults.mid_body is not None and position >= (1 if isinstance(answer.content, bytes) else 3):
                    raise Disrupted(faults.mid_body.removesuffix("-mid-body"))
        await response.write_eof()
        return response

    def fields(self) -> dict[str, str]:
        """What every answer carries: who answers, the request's id, and the simulator's own time."""
        return {
            "Server": "ModelArts" if self.family is not None and self.family.is_v2 else "api-gateway",
            "X-Request-Id": self.request_id,
            "Date": formatdate(self._now(), usegmt=True),
        }

    async def disrupt(self, how: str) -> NoReturn:
        """Stall, reset, close or write garbage; ends when the connection is gone and the request with it."""
        transport = self.request.transport
        self.ended_by_us = how != "stall"
        await asyncio.sleep(_SETTLE_SECONDS if self.head_sent else 0)
        if transport is not None and how == "reset":
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        elif transport is not None and how in {"close", "garbage"}:
            if how == "garbage":
                transport.write(b"\x00\x01 this is not HTTP \xff\r\n\r\n")
            transport.close()
        await asyncio.Event().wait()
        raise AssertionError("an event that nobody sets")

    async def websocket(self) -> web.StreamResponse:
        """Echo every message; the text ``close 4001 reason`` closes from this side. The first subprotocol offered is taken.

        Raises:
            Refused: 426, the request is no WebSocket handshake.
        """
        offered = [name.strip() for name in (self.head.get("Sec-WebSocket-Protocol") or "").split(",") if name.strip()]
        conversation = web.WebSocketResponse(protocols=offered, max_msg_size=0)
        if not conversation.can_prepare(self.request):
            raise Refused(
                426, "Simulator.UpgradeRequired", "This path speaks WebSocket only.", (("Upgrade", "websocket"),)
            )
        conversation.headers.update(self.fields())
        await conversation.prepare(self.request)
        self.head_sent = True
        self.chunk_sent()
        async for message in conversation:
            self.chunk_sent()
            if message.type is WSMsgType.BINARY:
                await conversation.send_bytes(message.data)
            elif message.type is WSMsgType.TEXT and (asked := _CLOSE.fullmatch(message.data)) is not None:
                await conversation.close(code=int(asked[1]), message=(asked[2] or "").encode())
            elif message.type is WSMsgType.TEXT:
                await conversation.send_str(message.data)
        return conversation


async def _chunks(content: bytes, parts: int) -> AsyncGenerator[bytes, None]:
    middle = len(content) // 2
    for chunk in [content] if parts == 1 else [content[:middle], content[middle:]]:
        yield chunk
