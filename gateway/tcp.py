"""What the kernel knows and does of TCP connections that event loops do not offer."""

import asyncio
import contextlib
import socket
import struct

# First octet of struct tcp_info (linux/tcp.h).
ESTABLISHED = 1
CLOSE = 7  # reset by the other side
CLOSE_WAIT = 8  # the other side will send no more


def state(transport: asyncio.BaseTransport) -> int | None:
    """The connection's state; None where there is no telling (a Unix socket, another system)."""
    found = transport.get_extra_info("socket")
    if found is None or found.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        return int(found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
    except OSError:
        return CLOSE


def no_delay(listening: socket.socket) -> None:
    """Let those that are accepted send small messages at once: they inherit it, which spares asking for each."""
    if listening.family != socket.AF_UNIX:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset(transport: asyncio.WriteTransport) -> None:
    """Close with a reset: ``abort`` alone ends a connection as politely as a complete message does."""
    found = transport.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
