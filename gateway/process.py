"""What a process of the gateway needs before anything else: event loop, memory, and signals."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from gateway.logs import log_loop_exception

log = logging.getLogger(__name__)

# Requests make few cycles; the default thresholds collect hundreds of times a second under load.
_GC_THRESHOLD = 50_000
# File descriptors we ask for at most.
_DESCRIPTORS = 1 << 20
# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_HEAP_BYTES = 16 * 1024 * 1024


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a process's main coroutine, on uvloop where the extra ``speed`` is installed, else on asyncio's own loop."""
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.get_loop().set_exception_handler(log_loop_exception)
        return runner.run(main)


def settle() -> None:
    """Call it once everything is loaded: from here on it is requests that come and go."""
    _keep_freed_memory()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)


class Signals:
    """SIGTERM and SIGINT, the first and the second of them, and SIGHUP. Use it inside the running loop."""

    def __init__(self, reload: Callable[[], Awaitable[object]]) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._reload = reload
        self._reloads: set[asyncio.Task[object]] = set()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    async def first_or(self, failed: asyncio.Event) -> None:
        """Until the first signal comes, or ``failed`` is set; the next signal is the second either way."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.first, failed)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        self.first.set()

    async def unless_second(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work``, unless a second signal comes; then it is cancelled."""
        task = asyncio.ensure_future(work)
        hurry = asyncio.ensure_future(self.second.wait())
        await asyncio.wait({task, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for each in (task, hurry):
            if not each.done():
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await each
        if not task.cancelled():
            task.result()

    def _stop(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    def _hang_up(self) -> None:
        task: asyncio.Task[object] = asyncio.ensure_future(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


def _raise_descriptor_limit() -> None:
    """As many file descriptors as the system lets us have: each request may hold two, and the usual soft limit is 1024."""
    with contextlib.suppress(OSError, ValueError):
        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, _DESCRIPTORS)
        if resource.RLIM_INFINITY != now < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _keep_freed_memory() -> None:
    """Tell glibc to keep the end of its heap for the next buffer; other C libraries are left as they are.

    Bodies pass in pieces of 256 KB. By default each freed piece goes back to the kernel at once and the next one is paid
    for again in page faults: that was half of an upload's CPU time (mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD).
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_HEAP_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_HEAP_BYTES)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop: uvloop with one fault mended; None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None

    class Loop(uvloop.Loop):
        """Has the descriptor of a socket that it opens a connection on to itself.

        uvloop closes it as soon as the other side ends the connection. Where that happens before the caller has been told of
        the connection, the socket would close the same number once more when it is forgotten, and by then it is another
        connection's: at best the process aborts (``uv__epoll_ctl_flush``).
        """

        async def create_connection(
            self, *given: Any, sock: socket.socket | None = None, **more: Any
        ) -> tuple[Any, Any]:  # Any: the two of asyncio's own signature, passed on
            try:
                opened: tuple[Any, Any] = await super().create_connection(*given, sock=sock, **more)
                return opened
            finally:
                if sock is not None:
                    sock.detach()

    return Loop
