"""One question over HTTP to whoever issues credentials: IAM, a server's metadata service, a pod's agent.

Nothing of an answer, and no text of a foreign exception, gets into a reason: both may quote what was issued.
"""

import asyncio
import errno
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from gateway.credentials.token import FetchFailed
from gateway.routes import Connection, UpstreamUrl

_LARGEST_BODY_BYTES = 1024 * 1024
# aiohttp's own limit of 8,190 bytes refuses real tokens, which are up to 64 KiB here. More than that, so that we can say
# what was wrong.
_LARGEST_FIELD_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, fields by lower-case name (all values of each, in order) and body."""

    status: int
    fields: Mapping[str, list[str]] = field(repr=False)
    body: bytes = field(repr=False)

    def get(self, name: str) -> str | None:
        """The first value of a field."""
        values = self.fields.get(name.lower())
        return values[0] if values else None

    def retry_after_seconds(self, now: float) -> float | None:
        """Retry-After from either of its forms (RFC 9110 section 10.2.3); None where it is neither."""
        value = self.get("Retry-After")
        if value is None:
            return None
        if value.isascii() and value.isdigit():
            return float(value[:9])
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - now)
        except (ValueError, OverflowError):
            return None


async def ask(
    method: str,
    url: UpstreamUrl,
    path: str,
    *,
    who: str,
    fields: Mapping[str, str] | None = None,
    body: bytes | None = None,
    connection: Connection | None = None,
) -> Answer:
    """Send one request over a connection of its own: a kept one would have been closed meanwhile. Time limits are the caller's.

    ``who`` is asked, as it stands in reasons.

    Raises:
        FetchFailed: no answer, with a reason that is safe to show.
    """
    try:
        return await _ask(method, url, path, who, fields or {}, body, connection or Connection())
    except aiohttp.ClientError as error:
        raise FetchFailed(_network_reason(error, who)) from None
    except (OSError, ssl.SSLError, ValueError) as error:
        raise FetchFailed(f"{who} could not be asked ({type(error).__name__})") from None


async def _ask(
    method: str,
    url: UpstreamUrl,
    path: str,
    who: str,
    fields: Mapping[str, str],
    body: bytes | None,
    connection: Connection,
) -> Answer:
    secure = url.scheme == "https"
    dialled = url.authority
    if connection.address is not None:
        host, port = connection.address
        dialled = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    tls: ssl.SSLContext | bool = True
    if secure and connection.ca is not None:
        # Read at each fetch, so that a replaced file counts; in a thread, as it blocks.
        tls = await asyncio.to_thread(ssl.create_default_context, cafile=connection.ca)
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            max_field_size=_LARGEST_FIELD_BYTES,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as session,
        session.request(
            method,
            URL(f"{url.scheme}://{dialled}{path}", encoded=True),
            data=body,
            headers={
                "Host": url.authority,
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "modelarts-gateway",
                **fields,
            },
            allow_redirects=False,
            server_hostname=url.host if secure else None,
            proxy=None if connection.proxy is None else _proxy_url(*connection.proxy),
        ) as response,
    ):
        content = bytearray()
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > _LARGEST_BODY_BYTES:
                raise FetchFailed(f"the answer of {who} is over 1 MiB; is its address right?")
        names = {name.lower() for name in response.headers}
        return Answer(response.status, {name: response.headers.getall(name) for name in names}, bytes(content))


def instant(text: object) -> float | None:
    """A time as the platform writes it (ISO 8601; without an offset it is UTC) as Unix time; None where it is none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _proxy_url(host: str, port: int) -> URL:
    return URL.build(scheme="http", host=host, port=port)


def _network_reason(error: aiohttp.ClientError, who: str) -> str:
    """Which step failed, in our words; from the most particular class to the most general."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {who} is not trusted, or is for another name (connection.ca)"
        case aiohttp.ClientConnectorSSLError() | aiohttp.ClientSSLError():
            return f"TLS with {who} failed; is it https there?"
        case aiohttp.ClientConnectorDNSError():
            return f"the host name of {who} cannot be resolved ({error.host})"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy refused to connect to {who} (connection.proxy)"
        case aiohttp.ClientProxyConnectionError():
            return f"the proxy cannot be reached (connection.proxy), {_where(error)}"
        case aiohttp.ClientConnectorError():
            return f"no connection to {who}, {_where(error)}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return f"{who} closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return f"the answer of {who} broke off"
        case aiohttp.ClientResponseError():
            return f"the answer of {who} is not HTTP, or has a header over {_LARGEST_FIELD_BYTES // 1024} KiB"
    return f"{who} could not be asked ({type(error).__name__})"


def _where(error: aiohttp.ClientConnectorError) -> str:
    """The address that did not answer and the system's word for why: "iam.example:443: Connection refused"."""
    host = f"[{error.host}]" if ":" in error.host else error.host
    number = error.errno or 0
    why = os.strerror(number) if number in errno.errorcode else "no answer"
    return f"{host}:{error.port}: {why}"
