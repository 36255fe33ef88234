"""Names to addresses, in threads of their own: a name that resolves slowly delays nobody but those who ask for it."""

import asyncio
import ipaddress
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

Address = tuple[int, tuple[object, ...]]  # family, and what ``connect`` takes

# One answer serves a rush of new connections; short, so that an upstream that moves is followed.
_KEPT_SECONDS = 5.0
# Look-ups at a time; each upstream or proxy of the configuration takes one at most, further ones stand in line.
_THREADS = 64


class Resolver:
    """The system's resolver, asked once per name at a time, whoever waits for it and whoever gives up waiting.

    Not the event loop's ``getaddrinfo``: its few threads are shared by all names, and a look-up that nobody waits for
    any more still occupies one, so a handful of requests to one slow name would stop all others. Addresses are kept
    for five seconds, failures not at all: those who ask meanwhile share one, and the next to ask begins anew.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, threads: int = _THREADS) -> None:
        self._clock = clock
        self._most = threads
        self._lock = threading.Lock()  # around what follows; held by the loop and by threads, never for long
        self._running = 0
        self._line: deque[str] = deque()
        self._asked: dict[str, Future[list[Address]]] = {}
        self._kept: dict[str, tuple[float, list[Address]]] = {}  # until when, and what

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of ``host``, at least one, in the resolver's order; of an IP address, itself, asking nobody.

        Raises:
            OSError: the name has no address, or nobody can be asked.
            ValueError: the name cannot be one (IDNA).
        """
        # Cancelling one who waits does not cancel the look-up: it is running, as far as its future knows.
        known = self._known(host)
        found = known if isinstance(known, list) else await asyncio.wrap_future(known)
        return [(family, (address[0], port, *address[2:])) for family, address in found]

    def _known(self, host: str) -> "list[Address] | Future[list[Address]]":
        """What is kept of a name, or its look-up: the one under way, else a new one."""
        with self._lock:
            until, found = self._kept.get(host, (0.0, []))
            if self._clock() < until:
                return found
            look_up = self._asked.get(host)
            if look_up is not None:
                return look_up
            literal = _literal(host)
            if literal is not None:
                self._keep(host, literal)
                return literal
            if self._running < self._most:
                self._add_thread()
            look_up = self._asked[host] = Future()
            look_up.set_running_or_notify_cancel()
            self._line.append(host)
            return look_up

    def _keep(self, host: str, found: list[Address]) -> None:
        now = self._clock()
        self._kept = {name: kept for name, kept in self._kept.items() if now < kept[0]}
        self._kept[host] = (now + _KEPT_SECONDS, found)

    def _add_thread(self) -> None:
        try:
            # A daemon, because a look-up cannot be ended and shutting down does not wait for it.
            threading.Thread(target=self._work, name="look-up", daemon=True).start()
        except RuntimeError as error:  # the system's limit of threads
            if not self._running:
                raise OSError("no thread left to look up a name") from error
        else:
            self._running += 1

    def _work(self) -> None:
        """The life of a thread: one name after the other, as long as any stands in line."""
        while True:
            with self._lock:
                if not self._line:
                    self._running -= 1
                    return
                host = self._line.popleft()
            found, failure = [], None
            try:
                found = _ask(host)
            except (OSError, ValueError) as error:
                failure = error
            with self._lock:
                if found:
                    self._keep(host, found)
                look_up = self._asked.pop(host)
            if failure is None:
                look_up.set_result(found)
            else:
                look_up.set_exception(failure)


def _literal(host: str) -> list[Address] | None:
    """An IP address as the system writes it (a zone becomes a number), which needs no resolver; None for a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return _ask(host, socket.AI_NUMERICHOST)


def _ask(host: str, flags: int = 0) -> list[Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]
