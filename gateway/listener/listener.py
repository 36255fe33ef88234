"""All callers' connections of this process."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.errors import GatewayError
from gateway.inbound import Answer, Inbound
from gateway.listener.bounds import Bounds
from gateway.listener.connection import CallerConnection

Story = Callable[[Inbound, Answer], Coroutine[Any, Any, None]]
Refused = Callable[[GatewayError, str], str]  # told of requests without a story; gives the request id


class Listener:
    """All callers' connections of this process."""

    def __init__(self, story: Story, refused: Refused, bounds: Bounds, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.story = story
        self.refused = refused
        self.bounds = bounds
        self.connections: set[CallerConnection] = set()
        self.draining = False  # answers say Connection: close
        self.refusing = False  # new requests on kept connections get 503
        self._servers: list[asyncio.AbstractServer] = []

    def connection(self) -> CallerConnection:
        return CallerConnection(self)

    async def serve(self, sock: socket.socket, ssl_context: object = None) -> asyncio.AbstractServer:
        """Accept connections on a bound socket; closing the server ends that alone."""
        server: asyncio.AbstractServer = await self.loop.create_server(
            self.connection,
            sock=sock,
            ssl=ssl_context,  # type: ignore[arg-type]
            backlog=4096,
        )
        self._servers.append(server)
        return server

    def sweep(self, now: float) -> None:
        for connection in tuple(self.connections):
            connection.sweep(now)

    def stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.draining = self.refusing = True
        for connection in tuple(self.connections):
            connection.close_idle()

    def abort(self) -> int:
        """Cut what is left; how many connections that were."""
        left = tuple(self.connections)
        for connection in left:
            connection.abort()
        return len(left)
