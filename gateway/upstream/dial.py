"""Opening a connection: names, addresses, a forward proxy, TLS; each failure renamed to what it was."""

import asyncio
import errno
import os
import socket
import ssl
import time

from gateway.errors import Overloaded, UpstreamFailed, UpstreamUnreachable
from gateway.routes import Connection, UpstreamUrl
from gateway.story import Moment
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.resolve import Address, Resolver

# RFC 8305 section 8: the next address is tried when the one before has been silent this long.
_NEXT_ADDRESS_SECONDS = 0.25
_PROXY_HEAD_BYTES = 16 * 1024
_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EINTR})
_CONNECTED = frozenset({0, errno.EISCONN})
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})

# One for the process: what is bounded is its threads, and what is asked for is the same whoever asks.
_resolver = Resolver()


class ResumingContext(ssl.SSLContext):
    """Offers the last session again, so that a further connection to the same upstream needs no full handshake.

    asyncio has no parameter for a session, but asks the context for each connection's TLS object.
    """

    session: ssl.SSLSession | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or self.session)


def tls_context(connection: Connection) -> ResumingContext:
    """Verifies always; TLS 1.2 and newer (API Gateway, "Which TLS Versions Does APIG Support?": 1.2, not 1.3)."""
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the name and requires a certificate
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if connection.ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(connection.ca)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def dial(url: UpstreamUrl, connection: Connection, context: ssl.SSLContext | None) -> UpstreamConnection:
    """Connect, through the proxy if there is one, and shake hands.

    It keeps no time (the event loop ends a TLS handshake after its own 60 s): whoever waits cancels it, as the sweep does
    once ``limits.connect`` has passed, and nothing is left open then.

    Raises:
        UpstreamUnreachable: DNS, refused, lost, TLS; nothing was sent.
        Overloaded: this process has no file descriptors left.
    """
    loop = asyncio.get_running_loop()
    host, port = connection.proxy or connection.address or (url.host, url.port)
    sock = await _connect(host, port)
    protocol = UpstreamConnection()
    try:
        if connection.proxy is not None:
            await _through_proxy(sock, *(connection.address or (url.host, url.port)))
        await loop.create_connection(
            lambda: protocol,
            sock=sock,
            ssl=context,
            server_hostname=url.host if context is not None else None,
        )
    except BaseException as error:
        # Cancelled as the handshake ends, asyncio's TLS says goodbye for up to 30 s, and goes on with the number of a
        # descriptor that is another connection's once the socket is closed.
        protocol.abort()
        sock.close()
        if isinstance(error, OSError):
            raise _lost(error) from error
        raise
    protocol.opened_at = time.monotonic()
    return protocol


async def _connect(host: str, port: int) -> socket.socket:
    """A connected socket to the first address that answers (RFC 8305, without the waiting for AAAA)."""
    try:
        found = await _resolver.resolve(host, port)
    except (OSError, ValueError) as error:
        raise _unreachable("The upstream's name could not be resolved.", "dns_error") from error
    if len(found) == 1:
        try:
            return await _connect_one(*found[0])
        except OSError as error:
            raise _refused(error) from error
    return await _race(_interleave(found))


def _interleave(addresses: list[Address]) -> list[Address]:
    """Families in turn, the resolver's order kept within each (RFC 8305 section 4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    second = [address for address in addresses if address[0] != addresses[0][0]]
    mixed = []
    while first or second:
        if first:
            mixed.append(first.pop(0))
        if second:
            mixed.append(second.pop(0))
    return mixed


async def _connect_one(family: int, address: tuple[object, ...]) -> socket.socket:
    """A socket connected to one address.

    Not ``loop.sock_connect``: uvloop's resolves addresses in the threads that resolve names, and waits for those.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code in _UNDER_WAY:
            code = sock.connect_ex(address)  # to this machine it is done by now; asked once more, connect(2) tells
        if code in _UNDER_WAY:
            await _writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code not in _CONNECTED:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


async def _writable(sock: socket.socket) -> None:
    """Until connecting has succeeded or failed."""
    loop = asyncio.get_running_loop()
    moment = Moment(loop)
    loop.add_writer(sock, moment.wake)
    try:
        await moment.wait()
    finally:
        loop.remove_writer(sock)


async def _race(addresses: list[Address]) -> socket.socket:
    """Try the addresses, each a little after the one before or at once when it failed; the first to connect wins."""
    waiting = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    last: OSError | None = None
    try:
        while waiting or running:
            if waiting:
                family, address = waiting.pop(0)
                running.add(asyncio.create_task(_connect_one(family, address), name="upstream-connect"))
            done, running = await asyncio.wait(
                running,
                timeout=_NEXT_ADDRESS_SECONDS if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            winner = None
            for task in done:
                try:
                    sock = task.result()
                except OSError as error:
                    last = error
                    continue
                if winner is None:
                    winner = sock
                else:
                    sock.close()
            if winner is not None:
                return winner
    finally:
        for task in running:
            task.add_done_callback(_close_late)
            task.cancel()
    assert last is not None
    raise _refused(last) from last


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _through_proxy(sock: socket.socket, host: str, port: int) -> None:
    """Ask the forward proxy for a tunnel (RFC 9110 section 9.3.6)."""
    loop = asyncio.get_running_loop()
    name = f"[{host}]" if ":" in host else host
    await loop.sock_sendall(sock, f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n".encode("ascii"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # Byte by byte at the end, so that nothing of what follows the head is taken from the tunnel.
        data = await loop.sock_recv(sock, 1)
        if not data or len(head) > _PROXY_HEAD_BYTES:
            raise _unreachable("The forward proxy closed the connection (connection.proxy).", "connection_terminated")
        head += data
    status = head.split(b" ", 2)[1:2]
    if not head.startswith(b"HTTP/1.") or status != [b"200"]:
        raise _unreachable("The forward proxy refused the tunnel (connection.proxy).", "connection_refused")


def _refused(error: OSError) -> UpstreamFailed | Overloaded:
    if error.errno in _NO_DESCRIPTORS:
        return Overloaded("The gateway has no file descriptors left (ulimit -n).", retry_after_seconds=1)
    if error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}:
        return _unreachable("There is no network path to the upstream.", "destination_ip_unroutable")
    return _unreachable("The upstream refused the connection.", "connection_refused")


def _lost(error: OSError) -> UpstreamUnreachable:
    """What became of a connection between TCP's handshake and the end of TLS's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _unreachable(
            "The upstream's TLS certificate is not valid for its name or not signed by a known CA (connection.ca).",
            "tls_certificate_error",
        )
    if isinstance(error, ssl.SSLError):
        return _unreachable("The TLS handshake with the upstream failed.", "tls_protocol_error")
    # Closed, reset, timed out by the kernel, or its network gone.
    return _unreachable("The connection to the upstream was lost while it was being opened.", "connection_terminated")


def _unreachable(message: str, proxy_status: str) -> UpstreamUnreachable:
    return UpstreamUnreachable(message, proxy_status=proxy_status, sent=False)
