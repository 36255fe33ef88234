"""gateway.sockets: addresses that are had, shared, taken over, or not."""

import os
import socket
from pathlib import Path

import pytest

from gateway import sockets
from gateway.config import Address
from gateway.sockets import PortInUse


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_one(host: str) -> None:
    """A single socket of any host, on a port of the system's choice, which it shares with nobody."""
    (sock,) = sockets.bind(Address(host, 0), "listen")

    with sock:
        assert sockets.port_of(sock) > 0
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


def test_several() -> None:
    """All of them have the same port."""
    bound = sockets.bind(Address("127.0.0.1", 0), "listen", 3)

    assert len(bound) == 3
    assert len({sockets.port_of(sock) for sock in bound}) == 1
    for sock in bound:
        sock.close()


@pytest.mark.parametrize("count", [1, 2], ids=["one", "several"])
def test_taken(count: int) -> None:
    """Whoever listens there, another gateway that would share included, is not joined; the message names address and key."""
    taken = sockets.bind(Address("127.0.0.1", 0), "listen", 2)
    for sock in taken:
        sock.listen()
    port = sockets.port_of(taken[0])

    with pytest.raises(PortInUse) as caught:
        sockets.bind(Address("127.0.0.1", port), "listen", count)
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port} (listen): Address already in use;"
        " stop the program that listens there (`ss -ltnp` shows it), or give listen another address"
    )
    for sock in taken:
        sock.close()


def test_not_ours() -> None:
    """An address of another machine is refused in the same words."""
    with pytest.raises(PortInUse, match=r"192\.0\.2\.1:1 \(listen\): [^;]*$"):
        sockets.bind(Address("192.0.2.1", 1), "listen")


def test_unix(tmp_path: Path) -> None:
    """A path is one socket, however many share it; one that nobody listens on is taken over, a live one is not."""
    address = Address(unix_path=str(tmp_path / "gateway.sock"))

    (left,) = sockets.bind(address, "listen", 2)
    left.close()
    (sock,) = sockets.bind(address, "listen", 2)
    sock.listen()

    assert sockets.port_of(sock) == 0
    with pytest.raises(PortInUse, match=r"in use; stop the program that listens there \(`ss -lxp` shows it\)"):
        sockets.bind(address, "listen")
    sock.close()


def test_a_file_that_is_no_socket(tmp_path: Path) -> None:
    """A path that names a file by mistake, a secret's say, is refused, and the file stays."""
    secret = tmp_path / "maas-key"
    secret.write_text("the-key")

    with pytest.raises(PortInUse) as caught:
        sockets.bind(Address(unix_path=str(secret)), "listen")

    assert str(caught.value) == (
        f"cannot listen on unix:{secret} (listen): File exists; it is no socket and stays: give listen another path"
    )
    assert secret.read_text() == "the-key"


def test_a_folder_that_takes_no_socket() -> None:
    """The reason is why nothing can be made there, not that nobody is found there."""
    path = "/sys/gateway.sock"
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError) as plain:  # noqa: PT011 - the system's own reason
        sock.bind(path)

    with pytest.raises(PortInUse) as caught:
        sockets.bind(Address(unix_path=path), "listen")
    assert str(caught.value) == f"cannot listen on unix:{path} (listen): {os.strerror(plain.value.errno or 0)}"
