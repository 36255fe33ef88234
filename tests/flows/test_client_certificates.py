"""Callers of the running program known by the certificate they show: SPIFFE URI, DNS name or common name."""

import datetime
import signal
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_modelarts import FakeModelArts
from raw_caller import Caller, CutOff, request_bytes
from running import Process, StartProcess, document, route

CALLERS = [
    {"name": "mesh", "certificate": "spiffe://example/batch", "routes": ["r"]},
    {"name": "host", "certificate": "batch.example", "routes": ["r"]},
    {"name": "person", "certificate": "Ada", "routes": ["other"]},
]


def client_certificate(
    authority: trustme.CA, folder: Path, common_name: str, alternative: x509.GeneralName | None
) -> Path:
    """A certificate with its key in one PEM file; trustme itself issues none with a URI."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    issuer_key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if alternative is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())  # type: ignore[arg-type] # trustme's keys are EC keys
    path = folder / "client.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def tls_process(start_process: StartProcess, fake: FakeModelArts, authority: trustme.CA, folder: Path) -> Process:
    server = authority.issue_cert("127.0.0.1")
    server.private_key_pem.write_to_path(folder / "tls.key")
    for pem in server.cert_chain_pems:
        pem.write_to_path(folder / "tls.crt", append=True)
    authority.cert_pem.write_to_path(folder / "ca.crt")
    tls = {
        name: str(folder / file)
        for name, file in (("certificate", "tls.crt"), ("key", "tls.key"), ("client_ca", "ca.crt"))
    }
    return await start_process(document(route("r", fake.url), route("other", fake.url), tls=tls, callers=CALLERS))


@pytest.mark.parametrize(
    ("common_name", "alternative", "status", "caller"),
    [
        pytest.param("x", x509.UniformResourceIdentifier("spiffe://example/batch"), 200, "mesh", id="SPIFFE URI"),
        pytest.param("x", x509.DNSName("batch.example"), 200, "host", id="DNS name"),
        pytest.param("Ada", None, 403, None, id="common name, of another route"),
        pytest.param("Eve", x509.DNSName("eve.example"), 401, None, id="nobody we know"),
    ],
)
async def test_who_shows_it(
    start_process: StartProcess,
    fake: FakeModelArts,
    tmp_path: Path,
    common_name: str,
    alternative: x509.GeneralName | None,
    status: int,
    caller: str | None,
) -> None:
    """The name in a verified certificate decides on the caller, and the caller on the routes."""
    authority = trustme.CA()
    process = await tls_process(start_process, fake, authority, tmp_path)
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    context.check_hostname = False
    context.load_cert_chain(client_certificate(authority, tmp_path, common_name, alternative))

    async with Caller(process.port, tls=context) as connection:
        await connection.send(request_bytes("GET", "/r"))
        reply = await connection.reply()

    assert reply.status == status
    assert len(fake.received) == (status == 200)
    if caller is not None:
        process.signal(signal.SIGTERM)
        await process.ended()
        assert process.access_log()[-1]["caller"] == caller


async def test_who_shows_none(start_process: StartProcess, fake: FakeModelArts, tmp_path: Path) -> None:
    """With ``client_ca`` a connection without a certificate is no connection."""
    process = await tls_process(start_process, fake, trustme.CA(), tmp_path)
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    context.check_hostname = False

    async def asks() -> None:
        async with Caller(process.port, tls=context) as connection:
            await connection.send(request_bytes("GET", "/r"))
            await connection.reply()

    with pytest.raises((ssl.SSLError, CutOff, ConnectionError)):
        await asks()
    assert fake.received == []
