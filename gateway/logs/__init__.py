"""The program's log on stderr and the access log on stdout: one JSON object a line, and never a reason to wait."""

from gateway.logs.access import AccessLog
from gateway.logs.program import log_loop_exception, setup_logging
from gateway.logs.writer import LineWriter

__all__ = ["AccessLog", "LineWriter", "log_loop_exception", "setup_logging"]
