"""HTTPS for callers: the listener's TLS context, whose files are read again when they change."""

import hashlib
import logging
import ssl
from pathlib import Path

from gateway.config import Tls

log = logging.getLogger(__name__)


class CallerTls:
    """A TLS context that outlives its certificate: a new one goes into the same context, for handshakes from then on."""

    def __init__(self, tls: Tls) -> None:
        """Raises OSError or ssl.SSLError when a file cannot be used."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._seen = digest(*_files(tls))
        self._load(tls)

    def read_again(self, tls: Tls) -> None:
        """Take the files as they are now, if they changed; what cannot be used leaves the old in place. Blocks."""
        seen = digest(*_files(tls))
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._load(tls)
            log.info("the TLS certificate was read again")
        except (OSError, ssl.SSLError):
            log.warning("the new TLS certificate or key cannot be used; the old one stays (tls)")

    def _load(self, tls: Tls) -> None:
        self.context.load_cert_chain(tls.certificate, tls.key)
        if tls.client_ca is not None:
            self.context.load_verify_locations(tls.client_ca)
            self.context.verify_mode = ssl.CERT_REQUIRED


def digest(*paths: str) -> bytes:
    """Of the files' contents. A mounted Secret or ConfigMap changes by a symlink that no watch of the file itself sees twice."""
    found = hashlib.sha256()
    for path in paths:
        try:
            found.update(Path(path).read_bytes())
        except OSError:
            found.update(b"?")
    return found.digest()


def _files(tls: Tls) -> list[str]:
    return [tls.certificate, tls.key, *([tls.client_ca] if tls.client_ca else [])]
