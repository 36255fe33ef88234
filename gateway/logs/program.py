"""The program's own log: JSON lines on stderr, or text where a person watches; no exception's text in either."""

import asyncio
import atexit
import errno
import json
import logging
import os
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.logs.writer import LineWriter

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)

_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}
_TELL_AGAIN_SECONDS = 10.0
_told_at = float("-inf")  # loop time


def setup_logging(level: str = "INFO", fd: int = 2, *, shared: bool = False, worker: int | None = None) -> LineWriter:
    """Send the program's log to ``fd``: JSON lines, or text where a person watches. Call it once per process, after forking.

    Our own modules log from ``level`` up, everybody else's warnings and worse. With ``shared`` other processes write to
    the same ``fd``; ``worker`` is this one's number, which each of its lines then bears. Returns the writer, which is closed at exit.
    """
    writer = LineWriter(fd, "program-log", shared=shared)
    atexit.register(writer.close)
    handler = _WriterHandler(writer)
    handler.setFormatter(_TextFormatter(worker) if os.isatty(fd) else _JsonFormatter(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("gateway").setLevel(level.upper())
    # logging prints its own trouble, arguments included, to stderr.
    logging.raiseExceptions = False
    return writer


def log_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """For ``loop.set_exception_handler``: the default one prints the arguments of callbacks, which may be anything."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR:
        _log_no_descriptor(loop.time())
        return
    what = str(context.get("message", "unhandled exception")).partition(" in callback")[0].partition("\n")[0]
    name = getattr(context.get("task") or context.get("future"), "get_name", lambda: "-")()
    exc_info = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    log.error("event loop: %s, task %s", what, name, exc_info=exc_info)


def _log_no_descriptor(now: float) -> None:
    """An event loop tells this for each connection that it cannot accept, thousands in a second."""
    global _told_at
    if now - _told_at >= _TELL_AGAIN_SECONDS:
        _told_at = now
        log.error("no file descriptor is left, connections have to wait (ulimit -n, LimitNOFILE of the unit)")


class _WriterHandler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.put((self.format(record) + "\n").encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


class _JsonFormatter(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, object] = {
            "time": when,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        line |= self._worker
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _exception_names(record.exc_info[1])
            line["at"] = _frames(record.exc_info[2])
        return json.dumps(line, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = "" if worker is None else f" [worker {worker}]"

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        line = f"{when} {record.levelname:<7} {record.name}{self._worker}: {_message(record)}"
        if record.exc_info and record.exc_info[1] is not None:
            line += f" [{_exception_names(record.exc_info[1])} at {_frames(record.exc_info[2])}]"
        return line


def _message(record: logging.LogRecord) -> str:
    """The record's text in one line. Of foreign loggers its first line: what follows quotes data and exceptions."""
    message = record.getMessage()
    if record.name.partition(".")[0] != "gateway":
        message = message.partition("\n")[0][:200]
    return message.replace("\r", " ").replace("\n", " | ")


def _exception_names(error: BaseException) -> str:
    """The types of an exception and its causes, outermost first. Never their text, which may quote anything."""
    names: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(names) < 8:
        names.append(type(cause).__name__)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return " < ".join(names)


def _frames(where: "TracebackType | None") -> str:
    """The innermost places of a traceback, outermost first, without their source lines."""
    frames = traceback.extract_tb(where, limit=-12)
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
    return " > ".join(f"{frame.filename.removeprefix(root)}:{frame.lineno}" for frame in frames)
