"""Tells a service manager how the start, a reload and the stop are going (sd_notify(3)); silent where there is none."""

import os
import socket
import time


def ready(status: str) -> None:
    """Started, or done with a reload; ``status`` is shown by ``systemctl status``."""
    _notify(f"READY=1\nSTATUS={status}")


def reloading() -> None:
    _notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    _notify("STOPPING=1\nSTATUS=draining")


def _notify(state: str) -> None:
    """One datagram. A manager that does not listen is no reason not to serve."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "@/":
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            # "@" stands for an abstract address, which begins with a NUL.
            sock.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return
