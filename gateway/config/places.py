"""Places on the network and on disk as the file writes them: URLs, host:port, listening addresses, certificates."""

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from gateway import paths
from gateway.config.units import found
from gateway.errors import BadPath
from gateway.routes import UpstreamUrl

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?\Z", re.DOTALL)
_DEFAULT_PORTS = {"http": 80, "https": 443}
# A WebSocket is an HTTP request first (RFC 6455 section 4.1), so the upstream side knows two schemes only.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
# Letters, digits, hyphen, dot; underscore occurs in cluster-internal names.
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host (without brackets) and a port, or a Unix socket's path."""

    host: str = ""
    port: int = 0  # 0: any free port
    unix_path: str | None = None

    @property
    def loopback(self) -> bool:
        return self.unix_path is not None or is_loopback(self.host)

    def __str__(self) -> str:
        if self.unix_path is not None:
            return f"unix:{self.unix_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether a host (without brackets) stays on this machine, as far as its spelling tells."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost")


def split_authority(authority: str) -> tuple[str, int | None]:
    """Host (lower case, without brackets) and port of ``host``, ``host:port`` or ``[IPv6]:port``.

    Raises:
        ValueError: says what would be right.
    """
    if authority.startswith("["):
        inside, bracket, rest = authority[1:].partition("]")
        try:
            host = str(ipaddress.IPv6Address(inside))
        except ValueError:
            host = ""
        if not bracket or not host or "%" in inside or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address is written in brackets, as [2001:db8::8]:443, without a zone")
        return host, _port(rest[1:]) if rest else None
    host, colon, port = authority.partition(":")
    if ":" in port:
        raise ValueError("an IPv6 address is written in brackets, as [2001:db8::8]:443")
    if not host:
        raise ValueError("the host is missing")
    if not host.isascii():
        raise ValueError("the host holds characters outside ASCII; write its xn-- form")
    if not _HOST_NAME.match(host) or len(host) > 253:
        raise ValueError("the host is neither a host name nor an IP address")
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("the host is not an IPv4 address; one is written as 10.0.0.8") from None
    return host.lower(), _port(port) if colon else None


def _port(text: str) -> int:
    if not _PORT.match(text) or not 0 < int(text) < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)


def _text(value: object, right: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{right}; found {found(value)}")  # noqa: TRY004 - pydantic reports ValueErrors alone
    return value


def host_port(value: object) -> tuple[str, int]:
    """``host:port`` taken apart.

    Raises:
        ValueError: says what would be right.
    """
    text = _text(value, "this is written host:port, as 10.0.0.8:443")
    if "@" in text or "/" in text:
        raise ValueError("this is host:port alone, as 10.0.0.8:443")
    host, port = split_authority(text)
    if port is None:
        raise ValueError("the port is missing; write host:port, as 10.0.0.8:443")
    return host, port


def proxy(value: object) -> tuple[str, int]:
    """Host and port of ``http://host:port``.

    Raises:
        ValueError: says what would be right.
    """
    match = _URL.match(value) if isinstance(value, str) else None
    if match is None or match[1].lower() != "http" or match[3] not in {"", "/"} or match[4] or match[5]:
        raise ValueError("a proxy is written http://host:port; only http proxies that understand CONNECT are supported")
    if "@" in match[2]:
        raise ValueError(
            "a user and password in a URL are a secret in this file; proxies with a password are not supported"
        )
    host, port = split_authority(match[2])
    if port is None:
        raise ValueError("the proxy's port is missing; write http://host:port, as http://proxy.example.com:3128")
    return host, port


def upstream_url(value: object) -> UpstreamUrl:
    """An upstream's URL taken apart; a ``/`` at its end is dropped, ``ws`` and ``wss`` become ``http`` and ``https``.

    Raises:
        ValueError: says what would be right, and repeats nothing of the URL, which may hold a password.
    """
    text = _text(value, "this is a URL, as https://host/v1/infers/ID")
    if re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError("a URL holds no spaces and no control characters")
    match = _URL.match(text)
    if match is None or match[1].lower() not in _SCHEMES:
        raise ValueError("a URL begins with https:// or http:// (or wss://, ws://)")
    scheme, authority, path, query, fragment = _SCHEMES[match[1].lower()], match[2], match[3], match[4], match[5]
    if "@" in authority:
        raise ValueError("a user and password in a URL are a secret in this file; name a credential instead")
    if query is not None:
        raise ValueError("an upstream has no query; the caller's query is passed on")
    if fragment is not None:
        raise ValueError("an upstream has no fragment (#…)")
    host, port = split_authority(authority)
    return UpstreamUrl(scheme, host, port or _DEFAULT_PORTS[scheme], authority, plain_path(path))


def plain_path(path: str) -> str:
    """A path that has one reading, without its final ``/``; the root is ``""``.

    Raises:
        ValueError: says what makes it ambiguous.
    """
    if path and not path.startswith("/"):
        raise ValueError("a path begins with /")
    if "//" in path:
        raise ValueError("the path holds an empty segment (//)")
    if re.search(r"[\x00-\x20\x7f\"<>^`{|}]", path):
        raise ValueError("the path holds spaces or characters that need percent-encoding")
    path = path.removesuffix("/")
    if path:
        try:
            paths.refuse_ambiguous_path(path)
        except BadPath as refusal:
            raise ValueError(f"the path is ambiguous: {refusal.message}") from None
    return path


def address(value: object) -> Address:
    """Where to listen: ``host:port`` or ``unix:/path``.

    Raises:
        ValueError: says what would be right.
    """
    text = _text(value, "an address is written 127.0.0.1:8080, '[::1]:8080' or unix:/path")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or path.endswith("/") or "\0" in path:
            raise ValueError("a Unix socket is written with its whole path, as unix:/run/gateway/gateway.sock")
        if len(path.encode()) > 107:  # sun_path of unix(7), with its closing NUL
            raise ValueError("a Unix socket's path has at most 107 bytes")
        return Address(unix_path=path)
    if text.startswith(":") and _PORT.match(text[1:]):
        raise ValueError(f"say which interface: 127.0.0.1{text} for this machine, 0.0.0.0{text} for all")
    head, colon, port = text.rpartition(":")
    if colon and port == "0":
        return Address(split_authority(head)[0], 0)
    host, number = split_authority(text)
    if number is None:
        raise ValueError(f"the port is missing; write {found(text + ':8080')}")
    return Address(host, number)


def certificates(path: Path) -> str:
    """The path of a PEM file that was seen to hold certificates.

    Raises:
        ValueError: it cannot be read, or holds none.
    """
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ValueError(f"file {path} holds no PEM certificates") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"file {path} cannot be read: {getattr(error, 'strerror', None) or 'not a path'}") from None
    return str(path)


def key_pair(certificate: str, key: str) -> None:
    """Check that a PEM certificate and a private key can be read and belong together.

    Raises:
        ValueError: they cannot, or do not.
    """
    for path in (certificate, key):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise ValueError(f"file {path} cannot be read: {error.strerror}") from None
    try:
        # A password is never asked for on a terminal: an encrypted key is a wrong one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError("tls.key is not the key of tls.certificate") from None
        raise ValueError("tls.certificate and tls.key are not a PEM certificate and its unencrypted key") from None
