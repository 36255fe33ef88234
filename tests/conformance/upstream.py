"""The raw upstream: records what it reads, answers what a case tells it to."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.conformance.messages import Ended, Malformed, Request, parse_request, read_body, read_head
from tests.conformance.wire import Wire

Behaviour = Callable[["Link", Request], Awaitable[None]]


class Link(Wire):
    """One connection from the proxy."""

    def __init__(self, upstream: "Upstream") -> None:
        super().__init__(upstream.connected)
        self.requests: list[Request] = []
        self._upstream = upstream

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._upstream.forget(self)

    async def body(self, request: Request, seconds: float = 20.0) -> bytes:
        """The rest of a request. Raises as ``read_body``."""
        await read_body(self, request, seconds)
        return bytes(request.body)


def answer(body: bytes = b"ok", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A plain answer with a length."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def own_answer(request: Request) -> bytes:
    """An answer that only this request may get: it repeats the request's X-Tag."""
    tag = request.value("x-tag") or b"-"
    return answer(b"" if request.method == b"HEAD" else b"tag=" + tag, b"X-Tag: " + tag)


async def echo(link: Link, request: Request) -> None:
    """Read the whole request, answer with its tag."""
    await link.body(request)
    link.send(own_answer(request))


class Upstream:
    """A listening upstream. ``behaviour`` is called for each request head; ``on_connect`` takes a whole connection,
    ``greeting`` is said before anybody asked."""

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[Link] = set()
        self.reset()

    def reset(self) -> None:
        """Forget the last case."""
        self.links: list[Link] = []
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self.behaviour: Behaviour = echo
        self.on_connect: Callable[[Link], Awaitable[None]] | None = None
        self.greeting = b""
        self.arrived = asyncio.Event()

    async def start(self, port: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self), "127.0.0.1", port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        await self.clear()
        if self._server is not None:
            self._server.close()

    async def clear(self) -> None:
        """Drop every connection, and wait until the scripts of this case have ended."""
        for link in tuple(self._open):
            link.abort()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def connected(self, link: Wire) -> None:
        assert isinstance(link, Link)
        self.links.append(link)
        self._open.add(link)
        task = asyncio.get_running_loop().create_task(self._serve(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self, link: Link) -> None:
        self._open.discard(link)

    async def request(self, number: int = 0, seconds: float = 5.0) -> Request:
        """The head of the ``number``-th request of this case.

        Raises:
            TimeoutError: it did not come.
        """
        async with asyncio.timeout(seconds):
            while len(self.requests) <= number:
                self.arrived.clear()
                await self.arrived.wait()
        return self.requests[number]

    async def _serve(self, link: Link) -> None:
        try:
            if self.on_connect is not None:
                await self.on_connect(link)
                return
            if self.greeting:
                link.send(self.greeting)
            while True:
                request = parse_request(await read_head(link, 60))
                request.complete = not (request.chunked or request.length)
                link.requests.append(request)
                self.requests.append(request)
                self.arrived.set()
                await self.behaviour(link, request)
                if not request.complete:
                    return  # what comes now is the rest of its body
        except (Ended, ConnectionError, TimeoutError):
            link.close()
        except Malformed as error:
            self.violations.append(f"{error} in {bytes(link.record[:300])!r}")
            link.send(answer(b"bad", status=b"400 Bad Request"))
            link.close()
