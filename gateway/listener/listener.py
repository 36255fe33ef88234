"""All callers' connections of this process."""

import asyncio
import contextlib
import socket
import ssl
from typing import Any

from gateway import tcp
from gateway.listener.bounds import Bounds
from gateway.listener.connection import CallerConnection, Refused, Telling
from gateway.story import Stories

# Connections that wait in the kernel to be accepted (its own limit, net.core.somaxconn, applies too), and how many of
# them are accepted before anything else gets a turn.
_BACKLOG = 4096
_AT_ONCE = 100


class Listener:
    """All callers' connections of this process."""

    def __init__(self, answer: Telling, refused: Refused, bounds: Bounds, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.stories = Stories(loop)
        self.answer = answer
        self.refused = refused
        self.bounds = bounds
        self.connections: set[CallerConnection] = set()
        self.draining = False  # answers say Connection: close
        self.refusing = False  # new requests on kept connections get 503
        self._servers: dict[asyncio.AbstractServer, tuple[socket.socket, ssl.SSLContext | None]] = {}
        self._arriving: set[asyncio.Task[Any]] = set()

    def connection(self) -> CallerConnection:
        return CallerConnection(self)

    @property
    def busy(self) -> bool:
        """There are connections, or some about to be."""
        return bool(self.connections or self._arriving)

    async def serve(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> asyncio.AbstractServer:
        """Accept connections on a bound socket, until ``stop``."""
        tcp.no_delay(sock)
        own = sock.dup()
        # asyncio takes its backlog for the number of connections to accept in one go as well, and goes through all of
        # it, an error logged each time, when no file descriptor is left. So it gets a small one, the kernel a large one.
        handshake_seconds = None if tls is None else self.bounds.head_seconds
        server = await self.loop.create_server(
            self.connection, sock=sock, ssl=tls, backlog=_AT_ONCE, ssl_handshake_timeout=handshake_seconds
        )
        own.listen(_BACKLOG)
        self._servers[server] = (own, tls)
        return server

    def stop(self, server: asyncio.AbstractServer) -> None:
        """Accept no more on this socket, after those that have connected already: closing alone would reset them."""
        own, tls = self._servers.pop(server)
        with own:
            own.setblocking(False)
            arrived = []
            # Resources can run out; then the kernel resets the rest.
            with contextlib.suppress(OSError):
                while True:
                    arrived.append(own.accept()[0])
        server.close()
        for sock in arrived:
            sock.setblocking(False)
            task = self.loop.create_task(self.loop.connect_accepted_socket(self.connection, sock, ssl=tls))
            self._arriving.add(task)
            task.add_done_callback(self._arrived)

    def _arrived(self, task: asyncio.Task[Any]) -> None:
        self._arriving.discard(task)
        if not task.cancelled():
            task.exception()  # a handshake that failed is its caller's affair

    def sweep(self, now: float) -> None:
        for connection in tuple(self.connections):
            connection.sweep(now)

    def stop_listening(self) -> None:
        for server in tuple(self._servers):
            self.stop(server)
        self.draining = self.refusing = True
        for connection in tuple(self.connections):
            connection.close_idle()

    def abort(self) -> int:
        """Cut what is left; how many connections that were."""
        for task in self._arriving:
            task.cancel()
        left = tuple(self.connections)
        for connection in left:
            connection.abort()
        return len(left)
