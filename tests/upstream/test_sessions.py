"""TLS sessions are offered again to the same upstream."""

import asyncio
import ssl
from pathlib import Path

import trustme

from gateway.routes import Connection, UpstreamUrl
from gateway.story import Moment
from gateway.upstream.dial import dial, tls_context

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One answer to each head, until the other side has enough."""
    try:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def test_a_second_connection_resumes_the_first_ones_session(tmp_path: Path) -> None:
    """No full handshake is paid twice: the server counts a resumed session."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("models.test").configure_cert(server_context)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context)
    port = server.sockets[0].getsockname()[1]
    url = UpstreamUrl("https", "models.test", port, "models.test", "")
    reached = Connection(address=("127.0.0.1", port), ca=str(tmp_path / "ca.pem"))
    context = tls_context(reached)

    for _ in range(2):
        connection = await dial(url, reached, context)
        moment = Moment(asyncio.get_running_loop())
        connection.start(moment, head_request=False, upgrade=False)
        connection.write(b"GET / HTTP/1.1\r\nHost: models.test\r\n\r\n")
        while not connection.ended:
            await moment.wait()
        context.session = connection.tls_session()
        connection.close()
    server.close()
    await server.wait_closed()

    assert server_context.session_stats()["hits"] == 1
