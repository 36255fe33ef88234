"""The access log: one JSON object per request, formatted where the request ends and written once a second."""

import json
import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from gateway.logs.writer import BATCH_BYTES, CLOSE_SECONDS, PENDING_BYTES, LineWriter

if TYPE_CHECKING:
    from gateway.exchange import Exchange

log = logging.getLogger(__name__)

# With the other members and escapes a line still fits into one write that pipes keep whole (4096 bytes).
_LONGEST_PATH = 2048
_LONGEST_UPSTREAM_ID = 128
_LONGEST_METHOD = 64
_DROP_NOTICE_SECONDS = 60.0
_REMEMBERED = 1024
_REMEMBERED_CHARACTERS = 512


# Durations of up to so many tenths of a millisecond, written out.
_MANY_TENTHS = 1000
_TENTHS = tuple(f"{tenths // 10}.{tenths % 10}" for tenths in range(_MANY_TENTHS))


class _About(NamedTuple):
    """What requests for a path were about, last time."""

    route: str
    method: str
    caller: str
    text: str  # members of their lines; "" where they are to be written with care


class AccessLog:
    """Takes finished exchanges; whoever owns it calls ``flush`` once a second.

    ``shared`` when several worker processes write to the same ``fd``.
    """

    def __init__(self, fd: int = 1, *, shared: bool = False, pending_bytes: int = PENDING_BYTES) -> None:
        self._writer = LineWriter(fd, "access-log", pending_bytes=pending_bytes, shared=shared)
        self._lines: list[str] = []
        self._size = 0
        self._millisecond = self._second = -1
        self._second_text = ""
        self._time = ""
        self._beginning = ""
        self._about: dict[str, _About] = {}  # by path
        self._endings: dict[int, str] = {}  # by status, of requests that went as most do
        self._noticed_lines = 0
        self._noticed_at = float("-inf")

    @property
    def dropped_lines(self) -> int:
        return self._writer.dropped_lines

    def write(self, exchange: "Exchange", ended: float, wall_now: float) -> None:
        """Note a finished exchange. ``ended`` is an instant of the event loop's clock, ``wall_now`` the same in Unix time."""
        millisecond = int(wall_now * 1000)
        if millisecond != self._millisecond:
            self._begin_millisecond(millisecond)
        x = exchange
        about = self._about.get(x.path)
        if about is None or about.route != x.route or about.method != x.method or about.caller != x.caller:
            about = self._learn(x)
        theirs = x.upstream_request_id
        # Letters, digits and hyphens, as ids are, need no look at each character.
        if about.text and (
            not theirs
            or (theirs.isascii() and (theirs.isalnum() or theirs.replace("-", "").isalnum()) and len(theirs) <= 128)
        ):
            upstream_id = f'"{theirs}"' if theirs else "null"
            ending = self._endings.get(x.status) if x.attempts == 1 and x.status == x.upstream_status else None
            if ending is None or x.outcome != "complete" or x.error:
                ending = self._ending(x)
            # Tenths of a millisecond by whole numbers: formatting a float takes three times as long.
            tenths = int((ended - x.arrived) * 10000)
            waited = int(x.first_byte_seconds * 10000)
            duration = _TENTHS[tenths] if 0 <= tenths < _MANY_TENTHS else f"{tenths // 10}.{tenths % 10}"
            first_byte = _TENTHS[waited] if 0 <= waited < _MANY_TENTHS else _first_byte(waited)
            line = (
                f'{self._beginning}{x.request_id}","upstream_request_id":{upstream_id},{about.text},{ending},'
                f'"duration_ms":{duration},"first_byte_ms":{first_byte},'
                f'"request_bytes":{x.request_bytes},"response_bytes":{x.response_bytes},"body_mode":"{x.body_mode}"}}\n'
            )
        else:
            line = self._careful_line(x, ended)
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BATCH_BYTES:
            self.flush()

    def _learn(self, x: "Exchange") -> "_About":
        """What lines about the same have in common; no text where some of it is not JSON as it is."""
        text = ""
        if all(map(_is_plain, (x.path, x.method, x.caller))):
            caller = f'"{x.caller}"' if x.caller else "null"
            text = f'"caller":{caller},"route":"{x.route}","method":"{x.method}","path":"{x.path}"'
        about = _About(x.route, x.method, x.caller, text)
        if len(x.path) <= _REMEMBERED_CHARACTERS:
            if len(self._about) >= _REMEMBERED:
                self._about.clear()
            self._about[x.path] = about
        return about

    def _ending(self, x: "Exchange") -> str:
        """How it went."""
        error = f'"{x.error}"' if x.error else "null"
        text = (
            f'"code":{x.status or 499},"outcome":"{x.outcome}","error":{error},'
            f'"upstream_code":{x.upstream_status or "null"},"attempts":{x.attempts}'
        )
        if x.outcome == "complete" and not x.error and x.attempts == 1 and x.status == x.upstream_status:
            self._endings[x.status] = text  # there are at most 500 of them
        return text

    def _begin_millisecond(self, millisecond: int) -> None:
        second, rest = divmod(millisecond, 1000)
        self._millisecond = millisecond
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        self._time = f"{self._second_text}.{rest:03d}Z"
        self._beginning = f'{{"time":"{self._time}","request_id":"'

    def flush(self, now: float | None = None) -> None:
        """Hand what has gathered to the writer; call it once a second. ``now`` is monotonic time, for tests."""
        if self._lines:
            lines = "".join(self._lines).encode()  # ASCII only
            self._lines = []
            self._size = 0
            self._writer.put(lines)
        dropped = self._writer.dropped_lines
        if dropped != self._noticed_lines:
            self._notice(dropped, time.monotonic() if now is None else now)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what there is, for at most ``seconds``."""
        self.flush()
        self._writer.close(seconds)

    def _notice(self, dropped: int, now: float) -> None:
        if now - self._noticed_at < _DROP_NOTICE_SECONDS:
            return
        lost, self._noticed_lines, self._noticed_at = dropped - self._noticed_lines, dropped, now
        log.warning(
            "access log: %d lines lost, its reader or disk does not keep up (%d since the start)", lost, dropped
        )

    def _careful_line(self, exchange: "Exchange", ended: float) -> str:
        """The same line for any text, everything outside ASCII escaped and overlong members cut."""
        first_byte = exchange.first_byte_seconds
        record = {
            "time": self._time,
            "request_id": exchange.request_id,
            "upstream_request_id": _cut(exchange.upstream_request_id, _LONGEST_UPSTREAM_ID) or None,
            "caller": exchange.caller or None,
            "route": exchange.route,
            "method": _cut(exchange.method, _LONGEST_METHOD),
            "path": _cut(exchange.path, _LONGEST_PATH),
            "code": exchange.status or 499,
            "outcome": exchange.outcome,
            "error": exchange.error or None,
            "upstream_code": exchange.upstream_status or None,
            "attempts": exchange.attempts,
            "duration_ms": round((ended - exchange.arrived) * 1000, 1),
            "first_byte_ms": round(first_byte * 1000, 1) if first_byte >= 0.0 else None,
            "request_bytes": exchange.request_bytes,
            "response_bytes": exchange.response_bytes,
            "body_mode": exchange.body_mode,
        }
        return json.dumps(record, separators=(",", ":")) + "\n"


def _is_plain(text: str) -> bool:
    """Printable ASCII without quotes is JSON as it is."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text and len(text) <= 2000


def _first_byte(tenths: int) -> str:
    return f"{tenths // 10}.{tenths % 10}" if tenths >= 0 else "null"


def _cut(text: str, most: int) -> str:
    """``text``, cut with ``...`` where its JSON would take more than ``most`` characters."""
    if len(json.dumps(text)) - 2 <= most:
        return text
    kept = text[: most - 3]
    while len(json.dumps(kept)) + 1 > most:
        kept = kept[: len(kept) * 3 // 4]
    return kept + "..."
