"""gateway.tls: the listener's certificate, and a new one in its place."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from gateway.config import Tls
from gateway.tls import CallerTls


def issue(folder: Path, name: str) -> trustme.CA:
    """Write a certificate for ``name`` where the gateway looks; its authority is the answer."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", common_name=name)
    certificate.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    certificate.private_key_pem.write_to_path(str(folder / "tls.key"))
    return authority


async def shown(tls: CallerTls, *authorities: trustme.CA) -> str:
    """The name on the certificate that a handshake shows."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=tls.context)
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for authority in authorities:
        authority.configure_trust(trusting)
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost")
        subject = writer.get_extra_info("peercert")["subject"]
        writer.close()
        await writer.wait_closed()
    return next(value for part in subject for key, value in part if key == "commonName")


async def test_a_new_certificate(tmp_path: Path) -> None:
    """Handshakes from then on show the new one; one that cannot be used changes nothing."""
    tls = Tls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))
    authorities = [issue(tmp_path, "first")]
    caller_tls = CallerTls(tls)

    names = [await shown(caller_tls, *authorities)]
    authorities.append(issue(tmp_path, "second"))
    caller_tls.read_again(tls)
    names.append(await shown(caller_tls, *authorities))
    (tmp_path / "tls.crt").write_text("no certificate")
    caller_tls.read_again(tls)
    names.append(await shown(caller_tls, *authorities))

    assert names == ["first", "second", "second"]


def test_what_is_offered(tmp_path: Path) -> None:
    """Nothing older than TLS 1.2; with an authority for callers, each of them has to show a certificate."""
    authority = issue(tmp_path, "first")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    without = CallerTls(Tls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key")))
    with_ca = CallerTls(Tls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"), str(tmp_path / "ca.crt")))

    assert without.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert (without.context.verify_mode, with_ca.context.verify_mode) == (ssl.CERT_NONE, ssl.CERT_REQUIRED)


def test_no_certificate(tmp_path: Path) -> None:
    """At the start a file that cannot be used is an error."""
    with pytest.raises(OSError, match="No such file"):
        CallerTls(Tls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key")))
