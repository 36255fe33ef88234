"""Questions and answers between two processes, both ways over one socketpair: JSON, each with its length in front."""

import asyncio
import contextlib
import json
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

log = logging.getLogger(__name__)

Message = dict[str, Any]  # Any: JSON
Answerer = Callable[[Message], Awaitable[Message]]

_LENGTH = struct.Struct(">I")
# The largest is a snapshot: under a kilobyte for each route.
_LARGEST_BYTES = 64 * 1024 * 1024


class LinkLost(Exception):
    """The other process has gone, does not answer in time, or failed at the question; the message says which."""


class Link:
    """One end. ``answers`` are what the other end may ask, by name; each is given the question's members."""

    def __init__(self, answers: Mapping[str, Answerer]) -> None:
        self._answers = answers
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._asked = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, sock: socket.socket) -> None:
        """Begin to read; the socket is ours from then on."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=sock)
        self.ended: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._read(), name="link")

    async def ask(self, question: str, seconds: float | None, **members: Any) -> Message:
        """The other end's answer.

        Raises:
            LinkLost: there was none within ``seconds``.
        """
        writer = self._writer
        if writer is None or self.ended.done():
            raise LinkLost("it has gone")
        self._asked += 1
        number = self._asked
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._send({"ask": question, "number": number, "members": members})
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            raise LinkLost(f"it did not answer '{question}' within {seconds:g}s") from None
        finally:
            del self._waiting[number]

    async def close(self) -> None:
        self.ended.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self.ended, *self._tasks, return_exceptions=True)
        if self._writer is not None:
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def _send(self, message: Message) -> None:
        assert self._writer is not None
        content = json.dumps(message, separators=(",", ":")).encode()
        self._writer.write(_LENGTH.pack(len(content)) + content)

    async def _read(self) -> None:
        """Until the other end has gone."""
        try:
            while True:
                (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                if length > _LARGEST_BYTES:
                    return
                self._received(json.loads(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(LinkLost("it has gone"))
            if self._writer is not None:
                self._writer.close()

    def _received(self, message: Message) -> None:
        if "ask" in message:
            task = asyncio.get_running_loop().create_task(self._answer(message), name=f"answer {message['ask']}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        answer = self._waiting.get(message["number"])
        if answer is None or answer.done():
            return  # it came too late
        if "answer" in message:
            answer.set_result(message["answer"])
        else:
            answer.set_exception(LinkLost(f"it failed: {message['failed']}"))

    async def _answer(self, message: Message) -> None:
        failed = "cancelled"
        answer: Message | None = None
        try:
            answer = await self._answers[message["ask"]](message["members"])
        except BaseException as error:
            failed = type(error).__name__
            log.error("'%s' could not be answered: %s", message["ask"], failed)  # noqa: TRY400 - texts may quote anything
            raise
        finally:
            if not self.ended.done():
                said = {"failed": failed} if answer is None else {"answer": answer}
                self._send({"number": message["number"], **said})
