"""URLs, addresses and files."""

from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.places import (
    Address,
    address,
    certificates,
    host_port,
    is_loopback,
    key_pair,
    plain_path,
    proxy,
    upstream_url,
)
from gateway.routes import UpstreamUrl


@pytest.mark.parametrize(
    ("text", "url"),
    [
        pytest.param(
            "https://h.example/v1/infers/S",
            UpstreamUrl("https", "h.example", 443, "h.example", "/v1/infers/S"),
            id="https",
        ),
        pytest.param(
            "http://h.example", UpstreamUrl("http", "h.example", 80, "h.example", ""), id="http without a path"
        ),
        pytest.param("wss://h/x", UpstreamUrl("https", "h", 443, "h", "/x"), id="wss"),
        pytest.param("ws://h/x", UpstreamUrl("http", "h", 80, "h", "/x"), id="ws"),
        pytest.param(
            "HTTPS://H.Example:8443/X/",
            UpstreamUrl("https", "h.example", 8443, "H.Example:8443", "/X"),
            id="authority as written",
        ),
        pytest.param("https://h:443/", UpstreamUrl("https", "h", 443, "h:443", ""), id="a default port as written"),
        pytest.param(
            "http://10.0.0.9:8080/v2", UpstreamUrl("http", "10.0.0.9", 8080, "10.0.0.9:8080", "/v2"), id="IPv4"
        ),
        pytest.param(
            "http://[2001:DB8::0:8]:80/a", UpstreamUrl("http", "2001:db8::8", 80, "[2001:DB8::0:8]:80", "/a"), id="IPv6"
        ),
        pytest.param(
            "http://my_service.ns.svc/a%20b",
            UpstreamUrl("http", "my_service.ns.svc", 80, "my_service.ns.svc", "/a%20b"),
            id="escapes stay",
        ),
    ],
)
def test_upstream_url(text: str, url: UpstreamUrl) -> None:
    """A URL is taken apart once; what is sent as Host stays as it was written."""
    assert upstream_url(text) == url


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param("ftp://h/x", "begins with https://", id="scheme"),
        pytest.param("h.example/v1", "begins with https://", id="no scheme"),
        pytest.param("https://u:hunter2@h/x", "are a secret in this file", id="user"),
        pytest.param("https://h/x?key=hunter2", "has no query", id="query"),
        pytest.param("https://h/x?", "has no query", id="empty query"),
        pytest.param("https://h/x#hunter2", "has no fragment", id="fragment"),
        pytest.param("https:///x", "the host is missing", id="no host"),
        pytest.param("https://h:0/", "from 1 to 65535", id="port 0"),
        pytest.param("https://h:65536/", "from 1 to 65535", id="port too high"),
        pytest.param("https://h:/", "from 1 to 65535", id="empty port"),
        pytest.param("https://::1/", "in brackets", id="IPv6 without brackets"),
        pytest.param("https://[::1/", "in brackets", id="half a bracket"),
        pytest.param("https://[fe80::1%eth0]/", "without a zone", id="zone"),
        pytest.param("https://256.1.1.1/", "not an IPv4 address", id="not an IPv4 address"),
        pytest.param("https://bücher.example/", "xn--", id="host outside ASCII"),
        pytest.param("https://h ost/", "no spaces", id="space"),
        pytest.param("https://h\n/x", "no spaces", id="line break"),
        pytest.param("https://h/a/../b", "ambiguous", id="dot segment"),
        pytest.param("https://h/a/%2e%2e/b", "ambiguous", id="encoded dot segment"),
        pytest.param("https://h/a//b", "empty segment", id="empty segment"),
        pytest.param("https://h/a\\b", "ambiguous", id="backslash"),
        pytest.param("https://h/é", "ambiguous", id="path outside ASCII"),
        pytest.param("https://h/a%zz", "ambiguous", id="broken escape"),
        pytest.param("https://h/<id>", "percent-encoding", id="placeholder left in"),
        pytest.param(12, "this is a URL", id="number"),
    ],
)
def test_not_an_upstream_url(value: object, message: str) -> None:
    """What is wrong with a URL is said without repeating it."""
    with pytest.raises(ValueError, match=message) as caught:
        upstream_url(value)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("127.0.0.1:8080", Address("127.0.0.1", 8080), id="IPv4"),
        pytest.param("[::1]:8080", Address("::1", 8080), id="IPv6"),
        pytest.param("localhost:8080", Address("localhost", 8080), id="name"),
        pytest.param("0.0.0.0:0", Address("0.0.0.0", 0), id="any free port"),
        pytest.param("[::]:0", Address("::", 0), id="any free port, IPv6"),
        pytest.param(
            "unix:/run/gateway/gateway.sock", Address(unix_path="/run/gateway/gateway.sock"), id="Unix socket"
        ),
    ],
)
def test_address(text: str, expected: Address) -> None:
    """A listening address is read, and printed as it was written."""
    assert address(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(8080, "an address is written", id="number"),
        pytest.param("8080", "not an IPv4 address", id="port alone"),
        pytest.param(":8080", "say which interface: 127.0.0.1:8080", id="no interface"),
        pytest.param("127.0.0.1", "the port is missing", id="no port"),
        pytest.param("::1:8080", "in brackets", id="IPv6 without brackets"),
        pytest.param("h:99999", "from 1 to 65535", id="port too high"),
        pytest.param("unix:gateway.sock", "whole path", id="relative socket"),
        pytest.param("unix:/" + "x" * 107, "at most 107 bytes", id="socket path too long"),
        pytest.param("http://127.0.0.1:80", "in brackets", id="URL"),
    ],
)
def test_not_an_address(value: object, message: str) -> None:
    """Anything else says what would be right."""
    with pytest.raises(ValueError, match=message):
        address(value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("h.example", False),
        ("localhost.example", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """Loopback is what stays on this machine."""
    assert is_loopback(host) is loopback
    assert Address(host, 1).loopback is loopback


def test_host_port_and_proxy() -> None:
    """Dialled addresses and proxies become host and port."""
    assert host_port("10.0.0.8:443") == ("10.0.0.8", 443)
    assert host_port("[2001:db8::8]:443") == ("2001:db8::8", 443)
    assert proxy("http://proxy.example.com:3128") == ("proxy.example.com", 3128)
    assert proxy("http://[::1]:3128/") == ("::1", 3128)


@pytest.mark.parametrize("value", ["10.0.0.8", "https://h:1", "u:hunter2@h:1", "h:1/x", "::1:1", "", 3, None])
def test_not_host_port(value: object) -> None:
    """host:port is that alone."""
    with pytest.raises(ValueError, match=r"host|brackets") as caught:
        host_port(value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["https://p:1", "p:3128", "http://p", "http://u:hunter2@p:1", "http://p:1/x", "http://p:1?x", "socks5://p:1", 3],
)
def test_not_a_proxy(value: object) -> None:
    """A proxy is http://host:port, without a password."""
    with pytest.raises(ValueError, match=r"proxy|proxies") as caught:
        proxy(value)
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_place_or_a_problem(text: str) -> None:
    """No text brings the readers of places to an end of another kind."""
    for read in (upstream_url, address, host_port, proxy, plain_path):
        for candidate in (text, f"https://{text}", f"https://h/{text}", f"http://[{text}]:1"):
            with suppress(ValueError):
                read(candidate)


def test_certificates(tmp_path: Path) -> None:
    """A file of certificates is one that TLS can load."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "empty.pem").write_text("")

    assert certificates(tmp_path / "ca.pem") == str(tmp_path / "ca.pem")
    with pytest.raises(ValueError, match="holds no PEM certificates"):
        certificates(tmp_path / "empty.pem")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        certificates(tmp_path / "missing.pem")


def test_key_pair(tmp_path: Path) -> None:
    """A certificate and a key are tried together, before the first connection is."""
    ca = trustme.CA()
    for name in ("one", "two"):
        issued = ca.issue_cert(f"{name}.example")
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.crt"))

    key_pair(str(tmp_path / "one.crt"), str(tmp_path / "one.key"))
    with pytest.raises(ValueError, match=r"tls\.key is not the key of tls\.certificate"):
        key_pair(str(tmp_path / "one.crt"), str(tmp_path / "two.key"))
    with pytest.raises(ValueError, match="not a PEM certificate"):
        key_pair(str(tmp_path / "one.key"), str(tmp_path / "one.key"))
    with pytest.raises(ValueError, match="cannot be read"):
        key_pair(str(tmp_path / "one.crt"), str(tmp_path / "none.key"))
