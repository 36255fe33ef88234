"""Bound sockets, made before anything is served: one, or one for each worker with the kernel spreading connections."""

import errno
import os
import socket
import stat

from gateway.config import Address

# Connections that wait to be accepted; the kernel's own limit (net.core.somaxconn) applies, too.
BACKLOG = 4096


class PortInUse(Exception):
    """A listen address that cannot be had; the message names it."""


def bind(address: Address, key: str, count: int = 1) -> list[socket.socket]:
    """Sockets bound to one address: ``count`` of them, or a single one on a Unix path, where it is shared.

    Several ports share by SO_REUSEPORT (socket(7)). ``key`` is where the address stands in the configuration.

    Raises:
        PortInUse: the address is taken or not ours.
    """
    try:
        if address.unix_path is not None:
            return [_bind_unix(address.unix_path)]
        return _bind_port(address.host, address.port, count)
    except OSError as error:
        raise refused(address, key, error) from None


def refused(address: Address, key: str, error: OSError) -> PortInUse:
    """Why an address cannot be had, in the system's own words, and what to do.

    asyncio puts a sentence around those words that names the address once more.
    """
    return PortInUse(f"cannot listen on {address} ({key}): {_why(error)}{_remedy(error, address, key)}")


def _remedy(error: OSError, address: Address, key: str) -> str:
    if error.errno == errno.EEXIST:
        return f"; it is no socket and stays: give {key} another path"
    if error.errno != errno.EADDRINUSE:
        return ""
    shown_by = "ss -ltnp" if address.unix_path is None else "ss -lxp"
    return f"; stop the program that listens there (`{shown_by}` shows it), or give {key} another address"


def _why(error: OSError) -> str:
    known = not isinstance(error, socket.gaierror) and error.errno in errno.errorcode
    return os.strerror(error.errno or 0) if known else error.strerror or "not available"


def port_of(sock: socket.socket) -> int:
    """The port it is bound to; 0 on a Unix path."""
    return 0 if sock.family == socket.AF_UNIX else int(sock.getsockname()[1])


def _bind_port(host: str, port: int, count: int) -> list[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if family == socket.AF_INET and not host.replace(".", "").isdigit():
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        host = str(found[0])
    # Without SO_REUSEPORT this fails where anybody listens, another gateway of this user included, which a socket
    # that shares would silently join.
    first = _bound(family, host, port, shares=False)
    if count == 1:
        return [first]
    port = port_of(first)
    first.close()
    return [_bound(family, host, port, shares=True) for _ in range(count)]


def _bound(family: int, host: str, port: int, *, shares: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    """Take over a socket file that nobody listens on any more; never one that somebody does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            # connect refuses on a plain file as it does on a socket that nobody listens on.
            if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)
                    sock.bind(path)
                    return sock
            raise
    except OSError:
        sock.close()
        raise
    return sock
