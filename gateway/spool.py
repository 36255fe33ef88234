"""Temporary files for bodies that must be held whole and are too large for memory."""

import os
import tempfile
from typing import IO

# Most of what a file costs is making it grow and giving its pages back: filling one again takes 0.13 s of CPU per GB,
# filling a new one 0.35. So a file that a body is done with is left to the next one, for a moment and within this size.
KEPT_BYTES = 64 * 1024 * 1024
# Counted in sweeps, of which there are ten a second. A file that lay idle so long is closed:
_IDLE_SWEEPS = 10
# and one that was made so long ago is given to no further body. The kernel writes to the disk what has been dirty for half
# a minute (vm.dirty_expire_centisecs), and a body that left is to be gone by then.
_OLD_SWEEPS = 100


class Spool:
    """A temporary file without a name, filled in order by one body and read by it any number of times.

    Raises (making, writing, reading): OSError, most likely a full disk.
    """

    __slots__ = ("_file", "broken", "largest_bytes", "left_at", "made_at", "written_bytes")

    def __init__(self, made_at: int) -> None:
        """``made_at``, as ``left_at``, counts sweeps."""
        # Unbuffered: pieces are large, and a full disk must show at the write that met it.
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="modelarts-gateway-body-", buffering=0)  # noqa: SIM115
        self.made_at = self.left_at = made_at
        self.written_bytes = 0  # by the present body: behind that may be an earlier one's bytes, which are never read
        self.largest_bytes = 0  # what it takes on the disk
        self.broken = False

    def write(self, piece: bytes) -> None:
        """Add to the end."""
        self.broken = True
        written = os.pwrite(self._file.fileno(), piece, self.written_bytes)
        if written != len(piece):
            raise OSError(f"{written} of {len(piece)} bytes were written")
        self.broken = False
        self.written_bytes += written
        self.largest_bytes = max(self.largest_bytes, self.written_bytes)

    def read(self, count: int, at: int) -> bytes:
        """Up to ``count`` bytes from ``at``; none behind what was written."""
        return os.pread(self._file.fileno(), min(count, self.written_bytes - at), at)

    def close(self) -> None:
        self._file.close()


class Spools:
    """The temporary files of a process. Those that lie idle take ``kept_bytes`` of disk at most."""

    def __init__(self, kept_bytes: int = 0) -> None:
        self._kept_bytes = kept_bytes
        self._idle: list[Spool] = []  # in the order in which their bodies left
        self._idle_bytes = 0
        self._sweeps = 0

    def open(self) -> Spool:
        """An empty one. Raises OSError when none can be made."""
        if not self._idle:
            return Spool(self._sweeps)
        spool = self._idle.pop()  # the latest: the others come to their end
        self._idle_bytes -= spool.largest_bytes
        spool.written_bytes = 0
        return spool

    def write(self, spool: Spool, piece: bytes) -> None:
        """Add to a file's end, where the disk is full in the place of those that lie idle. Raises OSError."""
        try:
            spool.write(piece)
        except OSError:
            if not self._idle:
                raise
            self._close_idle()
            spool.write(piece)

    def give_back(self, spool: Spool) -> None:
        """The body is done with it."""
        fits = self._idle_bytes + spool.largest_bytes <= self._kept_bytes
        if not fits or spool.broken or self._sweeps - spool.made_at >= _OLD_SWEEPS:
            spool.close()
            return
        spool.left_at = self._sweeps
        self._idle.append(spool)
        self._idle_bytes += spool.largest_bytes

    def sweep(self) -> None:
        """Ten times a second: close the file that has been idle longest. One is enough: that takes a millisecond."""
        self._sweeps += 1
        if self._idle and self._sweeps - self._idle[0].left_at >= _IDLE_SWEEPS:
            spool = self._idle.pop(0)
            self._idle_bytes -= spool.largest_bytes
            spool.close()

    def close(self) -> None:
        """Close what lies idle, and from now on every file with its body."""
        self._kept_bytes = 0
        self._close_idle()

    def _close_idle(self) -> None:
        for spool in self._idle:
            spool.close()
        self._idle.clear()
        self._idle_bytes = 0
