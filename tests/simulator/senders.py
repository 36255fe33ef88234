"""How tests send: bytes over a plain socket, and signatures made by the vendor's own package."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer

Fields = Sequence[tuple[str, str]]
JSON = "application/json"


@dataclass(frozen=True)
class Reply:
    """One answer: status, fields by lower-case name, body."""

    status: int
    fields: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wall:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def head_bytes(url: str, method: str, fields: Fields, length: int | None) -> bytes:
    """A request head that ends the connection with its answer; Host is the URL's unless among ``fields``."""
    parts = urlsplit(url)
    target = url.split(parts.netloc, 1)[1] or "/"
    lines = [f"{method} {target} HTTP/1.1", "Connection: close"]
    if "host" not in {name.lower() for name, _ in fields}:
        lines.append(f"Host: {parts.netloc}")
    if length is not None:
        lines.append(f"Content-Length: {length}")
    lines += [f"{name}: {value}" for name, value in fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def send(url: str, method: str = "GET", fields: Fields = (), body: bytes = b"") -> Reply:
    """Send exactly these bytes and read the answer to its end."""
    reader, writer = await connect(url)
    try:
        writer.write(head_bytes(url, method, fields, len(body) if body or method == "POST" else None) + body)
        return reply_of(await reader.read())
    finally:
        writer.close()


def reply_of(data: bytes) -> Reply:
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    return Reply(int(status.split(" ")[1]), {name.lower(): value for name, value in fields.items()}, body)


def sdk_date(unix_seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(unix_seconds))


def signed(
    url: str,
    method: str,
    key: str,
    secret: str,
    now: float,
    *,
    query: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    headers: Fields = (),
) -> tuple[str, Fields]:
    """The URL and the fields of a request as huaweicloudsdkcore signs it; ``url`` is without a query."""
    parts = urlsplit(url)
    request = SdkRequest(
        method,
        parts.scheme,
        parts.netloc,
        parts.path,
        query_params=list(query),
        header_params={**dict(headers), "X-Sdk-Date": sdk_date(now)},
        body=body,
    )
    Signer(BasicCredentials(key, secret, "unused")).sign(request)
    return f"{parts.scheme}://{parts.netloc}{request.uri}", list(request.header_params.items())


def token_request(credentials: dict[str, str], scope: object = "project", password: str | None = None) -> bytes:
    """The body of a token request; ``scope`` is ``project`` by name, or any JSON, or None for none."""
    user = {
        "name": credentials["user"],
        "password": password or credentials["password"],
        "domain": {"name": credentials["domain"]},
    }
    auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": user}}}
    if scope is not None:
        auth["scope"] = {"project": {"name": credentials["project"]}} if scope == "project" else scope
    return json.dumps({"auth": auth}).encode()
