"""A worker process: serves callers on the sockets it was given, and does what the supervisor says.

Started as ``python -m gateway.workers.worker NUMBER LINK SOCKET…``, the last ones file descriptors that it inherits. It
takes no orders by signal: what a terminal or a service manager sends to all processes at once is the supervisor's to pass on.
"""

import asyncio
import base64
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from typing import Any

from gateway import credentials, process
from gateway.config import Config, ConfigProblems, load
from gateway.credentials.token import FetchFailed, Token
from gateway.logs import setup_logging
from gateway.serving import Serving
from gateway.workers.link import Link, LinkLost, Message
from gateway.workers.share import share

log = logging.getLogger(__name__)

# Longer than any attempt to obtain a token: the supervisor's own limit comes first.
_TOKEN_SECONDS = 120.0
_TELL_SECONDS = 10.0


class Worker:
    """This process's side of the link."""

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = sockets
        self._link = Link(
            {
                "begin": self._begin,
                "states": self._states,
                "snapshot": self._snapshot,
                "prepare": self._prepare,
                "commit": self._commit,
                "token": self._token,
                "heard": self._heard,
                "listen": self._listen,
                "release": self._release,
                "drain": self._drain,
                "cut": self._cut,
            }
        )
        self._servers: dict[int, asyncio.AbstractServer] = {}
        self._serving: Serving | None = None
        self._whole: Config | None = None  # as written, not this worker's share of it
        self._prepared: Config | None = None
        self._workers = 1
        self._over = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    async def run(self, link: socket.socket) -> int:
        """Serve until the supervisor says that it is over, or has gone."""
        await self._link.open(link)
        over = asyncio.ensure_future(self._over.wait())
        await asyncio.wait({over, self._link.ended}, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if not self._over.is_set() and self._serving is not None:
            log.error("the supervisor has gone; finishing what is running")
            self._let_go()
            await self._serving.finish()
            await self._serving.close()
        await self._link.close()
        return 0

    # What the supervisor asks

    async def _begin(self, asked: Message) -> Message:
        """Load the configuration that serves, and serve."""
        self._workers = int(asked["workers"])
        config, problems = await self._load(asked)
        if config is None:
            return {"problems": problems}
        self._whole = config
        self._serving = Serving(
            share(config, self._workers), name=asked["name"], shared_token=self._shared_token, spread=self._spread
        )
        self._serving.start()
        self._in_passing(self._tell_of_failure(self._serving.failed), "failing")
        await self._listen(asked)
        process.settle()
        return {"problems": []}

    async def _prepare(self, asked: Message) -> Message:
        """Load a configuration, and keep it until ``commit``."""
        self._prepared, problems = await self._load(asked)
        return {"problems": problems}

    async def _commit(self, _: Message) -> Message:
        assert self._serving is not None
        assert self._prepared is not None
        self._whole, self._prepared = self._prepared, None
        self._serving.apply(share(self._whole, self._workers))
        return {}

    async def _listen(self, asked: Message) -> Message:
        """Accept from one more of the sockets, or the first."""
        number = asked["socket"]
        if self._serving is not None and number not in self._servers:
            self._servers[number] = await self._serving.listen(self._sockets[number].dup())
        return {}

    async def _release(self, asked: Message) -> Message:
        """Its own worker is back; what was accepted stays here."""
        server = self._servers.pop(asked["socket"], None)
        if server is not None and self._serving is not None:
            self._serving.listener.stop(server)
        return {}

    async def _token(self, asked: Message) -> Message:
        """There is one now: who waits after a failure need not wait any longer."""
        if self._serving is not None:
            known = self._serving.keyring.get(asked["credential"])
            if known is not None:
                known.wake()
        return {}

    async def _heard(self, asked: Message) -> Message:
        """Another worker was refused with a credential that we use, too."""
        if self._serving is not None:
            known = self._serving.keyring.get(asked["credential"])
            if known is not None:
                known.heard(asked["what"], asked["why"])
        return {}

    async def _states(self, _: Message) -> Message:
        assert self._serving is not None
        return {"credentials": {name: asdict(state) for name, state in self._serving.states().items()}}

    async def _snapshot(self, asked: Message) -> Message:
        assert self._serving is not None
        return {**await self._states(asked), "metrics": self._serving.snapshot()}

    async def _drain(self, asked: Message) -> Message:
        """The whole drain; the answer comes at its end."""
        assert self._serving is not None
        self._serving.begin_drain()
        self._let_go()
        await asyncio.sleep(asked["delay_seconds"])
        left = await self._serving.finish()
        return await self._last_words(left)

    async def _cut(self, _: Message) -> Message:
        return await self._last_words(0 if self._serving is None else self._serving.proxy.in_flight)

    async def _last_words(self, left: int) -> Message:
        assert self._serving is not None
        self._let_go()
        await self._serving.close()
        asyncio.get_running_loop().call_soon(self._over.set)  # once the answer is on its way
        return {"cut": left, "metrics": self._serving.snapshot()}

    def _let_go(self) -> None:
        """Keep those sockets alone that are accepted from: a connection must not wait where nobody looks any more."""
        for sock in self._sockets:
            sock.close()

    # What it asks

    async def _shared_token(self, name: str, refused: bytes | None) -> Token:
        """Raises FetchFailed, always as something that may be gone soon: the supervisor's own waits are the true ones."""
        try:
            answer = await self._link.ask(
                "token", _TOKEN_SECONDS, credential=name, refused=None if refused is None else _text(refused)
            )
        except LinkLost:
            log.warning("credential '%s': the supervisor did not answer", name)  # the only failure that is not its own
            raise FetchFailed("the supervisor did not answer") from None
        if "failed" in answer:
            raise FetchFailed(answer["failed"], retry_after_seconds=answer["retry_after_seconds"])
        return Token(base64.b64decode(answer["token"]), answer["expiry"])

    def _spread(self, credential: str, what: str, why: str) -> None:
        self._in_passing(self._tell(credential, what, why), "spread")

    def _in_passing(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell_of_failure(self, failed: asyncio.Event) -> None:
        """The supervisor then has others accept from our socket, has us drain, and replaces us."""
        await failed.wait()
        with contextlib.suppress(LinkLost):
            await self._link.ask("failing", _TELL_SECONDS)

    async def _tell(self, credential: str, what: str, why: str) -> None:
        with contextlib.suppress(LinkLost):
            await self._link.ask("spread", _TELL_SECONDS, credential=credential, what=what, why=why)

    async def _load(self, asked: Message) -> tuple[Config | None, list[str]]:
        previous = None if self._whole is None else self._whole.secrets
        try:
            config = await asyncio.to_thread(
                load,
                asked["path"],
                credentials.kinds(),
                previous=previous,
                content=base64.b64decode(asked["content"]),
            )
        except ConfigProblems as error:
            return None, [str(problem) for problem in error.problems]
        return config, []


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def main(arguments: Sequence[str]) -> int:
    """Number, link, sockets: see the module's first lines."""
    number, link, *sockets = (int(argument) for argument in arguments)
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    writer = setup_logging(shared=True, worker=number)

    async def serve() -> Any:
        worker = Worker([socket.socket(fileno=descriptor) for descriptor in sockets])
        return await worker.run(socket.socket(fileno=link))

    try:
        return process.run(serve())
    finally:
        writer.close()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
