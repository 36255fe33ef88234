"""One token fetch from IAM (IAM API Reference, "Obtaining a User Token Through Password Authentication").

Nothing of an answer's body or headers, and no text of a foreign exception, gets out of here: both may quote the token.
"""

import asyncio
import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from yarl import URL

from gateway.credentials.token import Cause, FetchFailed, Token
from gateway.routes import Connection, UpstreamUrl
from gateway.secret import Secret

# The catalogue of endpoints would make the answer's body many times larger; the token is the same without it.
_PATH = "/v3/auth/tokens?nocatalog=true"
_LARGEST_BODY_BYTES = 1024 * 1024
# Tokens of 6 to 9 KB are documented, services state maxima from 5,000 characters up; no gateway takes a header this long.
_LARGEST_TOKEN_BYTES = 64 * 1024
# aiohttp's own limit of 8,190 bytes refuses real tokens. More than the limit above, so that we can say what was wrong.
_LARGEST_FIELD_BYTES = 128 * 1024

_TOKEN = re.compile(rb"[!-~]+")
# IAM's own error codes are safe to repeat; whatever else stands in an error body is not.
_IAM_CODE = re.compile(rb'"(IAM\.[0-9]{4})"')


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, and for which project: a token of any other scope is of no use to inference services."""

    domain: str
    user: str
    password: Secret
    project: str | None
    project_id: str | None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    tokens: list[str] = field(repr=False)
    retry_after: str | None
    body: bytes = field(repr=False)


class Iam:
    """Fetches tokens for one identity, each over a connection of its own: a kept one would have been closed meanwhile."""

    def __init__(self, url: UpstreamUrl, connection: Connection, identity: Identity, wall: Callable[[], float]) -> None:
        self._url = url
        self._connection = connection
        self._identity = identity
        self._wall = wall

    async def fetch(self) -> Token:
        """A new project-scoped token. Time limits are the caller's.

        Raises:
            FetchFailed: with a reason that is safe to show.
        """
        try:
            answer = await self._post()
        except aiohttp.ClientError as error:
            raise FetchFailed(_network_reason(error)) from None
        except (OSError, ssl.SSLError, ValueError) as error:
            raise FetchFailed(f"IAM could not be asked ({type(error).__name__})") from None
        if answer.status not in (200, 201):
            raise _refusal(answer, self._wall())
        return Token(value=_token_value(answer.tokens), expiry=_expiry(answer.body, self._wall()))

    async def _post(self) -> _Answer:
        url, connection = self._url, self._connection
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
            session.post(
                URL(f"{url.scheme}://{dialled}{_base(url.base_path)}{_PATH}", encoded=True),
                data=self._request_body(),
                headers={
                    "Host": url.authority,
                    "Content-Type": "application/json;charset=utf8",
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": "modelarts-gateway",
                },
                allow_redirects=False,
                server_hostname=url.host if secure else None,
                proxy=None if connection.proxy is None else _proxy_url(*connection.proxy),
            ) as response,
        ):
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _LARGEST_BODY_BYTES:
                    raise FetchFailed("IAM's answer is over 1 MiB; is iam_url right?")
            return _Answer(
                status=response.status,
                tokens=response.headers.getall("X-Subject-Token", []),
                retry_after=response.headers.get("Retry-After"),
                body=bytes(body),
            )

    def _request_body(self) -> bytes:
        who = self._identity
        project = {"name": who.project} if who.project_id is None else {"id": who.project_id}
        user = {"name": who.user, "password": who.password.reveal(), "domain": {"name": who.domain}}
        return json.dumps(
            {
                "auth": {
                    "identity": {"methods": ["password"], "password": {"user": user}},
                    "scope": {"project": project},
                }
            }
        ).encode()


def _base(base_path: str) -> str:
    """The path before ``/v3``: people write the address with and without it."""
    return base_path.removesuffix("/auth/tokens").removesuffix("/v3")


def _proxy_url(host: str, port: int) -> URL:
    return URL.build(scheme="http", host=host, port=port)


def _network_reason(error: aiohttp.ClientError) -> str:
    """Which step failed, in our words; from the most particular class to the most general."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "IAM's certificate is not trusted, or is for another name (connection.ca)"
        case aiohttp.ClientConnectorSSLError() | aiohttp.ClientSSLError():
            return "TLS with IAM failed; is it https there?"
        case aiohttp.ClientConnectorDNSError():
            return "IAM's host name cannot be resolved"
        case aiohttp.ClientHttpProxyError():
            return "the proxy refused to connect to IAM (connection.proxy)"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy cannot be reached (connection.proxy)"
        case aiohttp.ClientConnectorError():
            return "no connection to IAM"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "IAM closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "IAM's answer broke off"
        case aiohttp.ClientResponseError():
            return f"IAM's answer is not HTTP, or has a header over {_LARGEST_FIELD_BYTES // 1024} KiB"
    return f"IAM could not be asked ({type(error).__name__})"


def _refusal(answer: _Answer, now: float) -> FetchFailed:
    status = answer.status
    code = _IAM_CODE.search(answer.body)
    said = f"{status} {code.group(1).decode()}" if code is not None else f"{status}"
    wait = _retry_after_seconds(answer.retry_after, now)
    if status == 401:
        return FetchFailed(
            f"IAM refused domain, user or password ({said}); not trying again before the password changes or "
            "15 minutes have passed, as IAM locks a user after 5 failures",
            Cause.LOCK_OUT,
        )
    if status == 403:
        return FetchFailed(
            f"IAM does not let this user obtain a token ({said}): programmatic access, access rules, arrears?",
            Cause.REFUSED,
            retry_after_seconds=wait,
        )
    if status == 400:
        return FetchFailed(
            f"IAM rejected the request ({said}); check project, domain and user",
            Cause.REFUSED,
            retry_after_seconds=wait,
        )
    if 300 <= status < 400:
        return FetchFailed(f"IAM redirected ({said}), and redirects are not followed; is iam_url right?")
    if status == 404:
        return FetchFailed(f"there is no IAM at this address, or no such project or domain ({said})")
    if status == 429:
        return FetchFailed(f"IAM is throttling ({said})", retry_after_seconds=wait)
    return FetchFailed(f"IAM answered {said}", retry_after_seconds=wait)


def _retry_after_seconds(value: str | None, now: float) -> float | None:
    """Retry-After in seconds, from either of its forms (RFC 9110 section 10.2.3); None where it is neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _token_value(values: list[str]) -> bytes:
    if len(set(values)) > 1:
        raise FetchFailed("IAM answered with two tokens")
    value = values[0].encode("utf-8", "surrogateescape") if values else b""
    if not value:
        raise FetchFailed("IAM answered without a token (X-Subject-Token)")
    if len(value) > _LARGEST_TOKEN_BYTES:
        raise FetchFailed(f"IAM's token is over {_LARGEST_TOKEN_BYTES // 1024} KiB")
    if _TOKEN.fullmatch(value) is None:
        raise FetchFailed("IAM's token holds characters that no token has")
    return value


def _expiry(body: bytes, now: float) -> float:
    """The expiry (Unix time) of a project-scoped token, from the answer's body."""
    try:
        answer: Any = json.loads(body)  # whatever IAM, or something in its place, sent
    except (ValueError, RecursionError):
        raise FetchFailed("IAM's answer is empty or not JSON") from None
    token = answer.get("token") if isinstance(answer, dict) else None
    if not isinstance(token, dict):
        raise FetchFailed("IAM's answer does not describe a token")
    project = token.get("project")
    if not isinstance(project, dict) or not isinstance(project.get("id"), str) or not project["id"]:
        raise FetchFailed("the token is not project-scoped, and inference services take no other")
    expires_at = token.get("expires_at")
    if not isinstance(expires_at, str):
        raise FetchFailed("IAM's answer does not say when the token expires (expires_at)")
    try:
        instant = datetime.fromisoformat(expires_at)
        expiry = (instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise FetchFailed("IAM's answer does not say when the token expires in a form we know (expires_at)") from None
    if expiry <= now:
        raise FetchFailed("the token that IAM issued has already expired; is this machine's clock right?")
    return expiry
