"""Writes lines from a thread, so that whoever reads them slowly, or not at all, holds up no request."""

import os
import select
import threading
from queue import SimpleQueue

# What may wait for a slow reader; beyond it lines are dropped and counted. Some 20 seconds of 1000 requests a second.
PENDING_BYTES = 8 * 1024 * 1024
# One write at most; also what the access log gathers before it hands over.
BATCH_BYTES = 256 * 1024
# Pipes keep writes up to this size apart from those of other processes (PIPE_BUF of pipe(7)).
_ATOMIC_BYTES = 4096
# How long a process that ends waits for the reader of its logs.
CLOSE_SECONDS = 2.0


class LineWriter:
    """Writes whole lines to a file descriptor from one thread, in order.

    ``put`` never waits: while more than ``pending_bytes`` are on their way it drops instead. Make it after forking.
    With ``shared`` other processes write to the same descriptor, and lines are kept apart from theirs.
    """

    def __init__(self, fd: int, name: str, *, pending_bytes: int = PENDING_BYTES, shared: bool = False) -> None:
        self._fd = fd
        self._pending_bytes = pending_bytes
        self._slice_bytes = _ATOMIC_BYTES if shared else BATCH_BYTES
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        # Each of these has one writing thread: the caller's, then ours.
        self._taken_bytes = 0
        self._dropped_before = 0
        self._done_bytes = 0
        self._dropped_after = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def dropped_lines(self) -> int:
        """Lines lost since the start: no room, or the descriptor refused them."""
        return self._dropped_before + self._dropped_after

    def put(self, lines: bytes) -> None:
        """Write ``lines``, each ending in a newline, soon; or drop all of them."""
        if self._taken_bytes - self._done_bytes + len(lines) > self._pending_bytes:
            self._dropped_before += lines.count(b"\n")
            return
        self._taken_bytes += len(lines)
        self._queue.put(lines)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what is waiting, for at most ``seconds``; the descriptor stays open."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (lines := self._queue.get()) is not None:
            for piece in _slices(lines, self._slice_bytes):
                if not self._write(piece):
                    self._dropped_after += piece.count(b"\n")
            self._done_bytes += len(lines)

    def _write(self, piece: bytes) -> bool:
        view = memoryview(piece)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # somebody else made our terminal or pipe non-blocking
                select.select([], [self._fd], [], 1.0)
            except OSError:  # disk full, reader gone: what follows may fare better
                return False
        return True


def _slices(lines: bytes, size: int) -> list[bytes]:
    """``lines`` cut at ends of lines into pieces of at most ``size`` bytes; a longer line is a piece of its own."""
    pieces = []
    start = 0
    while len(lines) - start > size:
        end = lines.rfind(b"\n", start, start + size) + 1 or lines.find(b"\n", start) + 1
        pieces.append(lines[start:end])
        start = end
    pieces.append(lines[start:])
    return pieces
