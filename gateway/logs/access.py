"""The access log: one JSON object per request, formatted where the request ends and written once a second."""

import json
import logging
import time
from typing import TYPE_CHECKING

from gateway.logs.writer import BATCH_BYTES, CLOSE_SECONDS, PENDING_BYTES, LineWriter

if TYPE_CHECKING:
    from gateway.exchange import Exchange

log = logging.getLogger(__name__)

# With the other members and escapes a line still fits into one write that pipes keep whole (4096 bytes).
_LONGEST_PATH = 2048
_LONGEST_UPSTREAM_ID = 128
_LONGEST_METHOD = 64
_DROP_NOTICE_SECONDS = 60.0


class AccessLog:
    """Takes finished exchanges; whoever owns it calls ``flush`` once a second.

    ``shared`` when several worker processes write to the same ``fd``.
    """

    def __init__(self, fd: int = 1, *, shared: bool = False, pending_bytes: int = PENDING_BYTES) -> None:
        self._writer = LineWriter(fd, "access-log", pending_bytes=pending_bytes, shared=shared)
        self._lines: list[str] = []
        self._size = 0
        self._second = 0
        self._prefix = ""
        self._noticed_lines = 0
        self._noticed_at = float("-inf")

    @property
    def dropped_lines(self) -> int:
        return self._writer.dropped_lines

    def write(self, exchange: "Exchange", ended: float, wall_now: float) -> None:
        """Note a finished exchange. ``ended`` is an instant of the event loop's clock, ``wall_now`` the same in Unix time."""
        second = int(wall_now)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        x = exchange
        # One look at everything that others chose. Printable ASCII without quotes is JSON as it is.
        foreign = f"{x.path}{x.upstream_request_id}{x.method}{x.caller}"
        if (
            not foreign.isascii()
            or not foreign.isprintable()
            or '"' in foreign
            or "\\" in foreign
            or len(foreign) > 2000
        ):
            line = self._careful_line(x, ended, wall_now)
        else:
            upstream_id = f'"{x.upstream_request_id}"' if x.upstream_request_id else "null"
            caller = f'"{x.caller}"' if x.caller else "null"
            error = f'"{x.error}"' if x.error else "null"
            # Tenths of a millisecond by whole numbers: formatting a float takes three times as long.
            tenths = int((ended - x.arrived) * 10000)
            waited = int(x.first_byte_seconds * 10000)
            first_byte = f"{waited // 10}.{waited % 10}" if waited >= 0 else "null"
            line = (
                f'{{"time":"{self._prefix}.{int((wall_now - second) * 1000):03d}Z","request_id":"{x.request_id}",'
                f'"upstream_request_id":{upstream_id},"caller":{caller},"route":"{x.route}","method":"{x.method}",'
                f'"path":"{x.path}","code":{x.status or 499},"outcome":"{x.outcome}","error":{error},'
                f'"upstream_code":{x.upstream_status or "null"},"attempts":{x.attempts},'
                f'"duration_ms":{tenths // 10}.{tenths % 10},"first_byte_ms":{first_byte},'
                f'"request_bytes":{x.request_bytes},"response_bytes":{x.response_bytes},"body_mode":"{x.body_mode}"}}\n'
            )
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BATCH_BYTES:
            self.flush()

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

    def _careful_line(self, exchange: "Exchange", ended: float, wall_now: float) -> str:
        """The same line for any text, everything outside ASCII escaped and overlong members cut."""
        second = int(wall_now)
        first_byte = exchange.first_byte_seconds
        record = {
            "time": f"{self._prefix}.{int((wall_now - second) * 1000):03d}Z",
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


def _cut(text: str, most: int) -> str:
    """``text``, cut with ``...`` where its JSON would take more than ``most`` characters."""
    if len(json.dumps(text)) - 2 <= most:
        return text
    kept = text[: most - 3]
    while len(json.dumps(kept)) + 1 > most:
        kept = kept[: len(kept) * 3 // 4]
    return kept + "..."
