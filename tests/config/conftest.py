"""Files that TLS can load."""

from pathlib import Path

import pytest
import trustme


@pytest.fixture
def tls_files(tmp_path: Path) -> None:
    """``tls.crt``, ``tls.key`` and ``ca.crt`` in ``tmp_path``."""
    ca = trustme.CA()
    issued = ca.issue_cert("gateway.example")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.crt"))
    issued.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
