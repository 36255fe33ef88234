"""Fetching a token over real sockets, from an IAM that is as unkind as the world."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from gateway.config import places
from gateway.credentials.by_password import ByPassword
from gateway.credentials.iam import Iam, Scope
from gateway.credentials.lock_outs import LockOuts
from gateway.credentials.token import Cause, FetchFailed, Token
from gateway.routes import Connection
from gateway.secret import Secret

from .fakes import START

TOKEN = "MIIatAYJ" + "x" * 9112  # as long as documented examples
PASSWORD = "planted-password"


def described(expires_in: float = 86400.0, **changes: Any) -> dict[str, Any]:
    expires_at = datetime.fromtimestamp(START + expires_in, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"
    project = {"id": "p1", "name": "cn-north-4", "domain": {"name": "account"}}
    return {"expires_at": expires_at, "methods": ["password"], "project": project, "catalog": []} | changes


def answering(
    token: dict[str, Any] | str | None = None,
    *,
    status: int = 201,
    fields: list[tuple[str, str]] | None = None,
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        text = token if isinstance(token, str) else json.dumps({"token": token or described()})
        response = web.Response(status=status, text=text, content_type="application/json")
        for name, value in fields if fields is not None else [("X-Subject-Token", TOKEN)]:
            response.headers.add(name, value)
        return response

    return answer


@asynccontextmanager
async def iam(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app, max_field_size=64 * 1024)  # the tokens are long
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_iam(answer: bytes) -> AsyncIterator[int]:
    """Answer every request head with these bytes, and close."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Asking:
    """A user who asks an IAM for tokens of one project; fresh each time, so that no refusal is remembered."""

    def __init__(self, iam: Iam, scope: Scope) -> None:
        self._user = ByPassword(iam, "account", "gateway", Secret(PASSWORD), LockOuts(), lambda: 0.0)
        self._scope = scope

    async def fetch(self) -> Token:
        return await self._user.fetch(self._scope)


def asking(url: str, connection: Connection | None = None, project_id: str | None = None) -> Asking:
    iam = Iam(places.upstream_url(url), connection or Connection(), lambda: START)
    return Asking(iam, Scope(None if project_id else "cn-north-4", project_id))


async def test_the_request_and_the_token() -> None:
    """The documented request, and the token with its expiry."""
    seen: list[tuple[str, str, str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, request.raw_path, request.content_type, await request.json()))
        return await answering()(request)

    async with iam(answer) as port:
        token = await asking(f"http://127.0.0.1:{port}").fetch()
        await asking(f"http://127.0.0.1:{port}/v3", project_id="p1").fetch()
        await asking(f"http://127.0.0.1:{port}/base/v3/auth/tokens").fetch()

    user = {"name": "gateway", "password": PASSWORD, "domain": {"name": "account"}}
    identity = {"methods": ["password"], "password": {"user": user}}
    by_name = {"auth": {"identity": identity, "scope": {"project": {"name": "cn-north-4"}}}}
    assert token.value == TOKEN.encode()
    assert token.expiry == START + 86400
    assert seen[0] == ("POST", "/v3/auth/tokens?nocatalog=true", "application/json", by_name)
    assert seen[1][1] == "/v3/auth/tokens?nocatalog=true"
    assert seen[1][3]["auth"]["scope"] == {"project": {"id": "p1"}}
    assert seen[2][1] == "/base/v3/auth/tokens?nocatalog=true"


@pytest.mark.parametrize(
    ("answer", "reason", "cause"),
    [
        pytest.param(answering(""), "empty or not JSON", Cause.TRANSIENT, id="empty"),
        pytest.param(answering("<html>"), "empty or not JSON", Cause.TRANSIENT, id="HTML"),
        pytest.param(answering("[]"), "does not describe a token", Cause.TRANSIENT, id="a list"),
        pytest.param(answering('{"token": "x"}'), "does not describe a token", Cause.TRANSIENT, id="a string"),
        pytest.param(answering("[" * 100_000), "empty or not JSON", Cause.TRANSIENT, id="brackets without end"),
        pytest.param(answering("x" * (1024 * 1024 + 1)), "over 1 MiB", Cause.TRANSIENT, id="huge body"),
        pytest.param(answering(fields=[]), "without a token", Cause.TRANSIENT, id="no header"),
        pytest.param(answering(fields=[("X-Subject-Token", "")]), "without a token", Cause.TRANSIENT, id="empty header"),
        pytest.param(answering(fields=[("X-Subject-Token", "a"), ("X-Subject-Token", "b")]), "two tokens", Cause.TRANSIENT, id="two"),
        pytest.param(answering(fields=[("X-Subject-Token", "planted-token b")]), "characters", Cause.TRANSIENT, id="a space inside"),
        pytest.param(answering(fields=[("X-Subject-Token", "planted-token\xe9")]), "characters", Cause.TRANSIENT, id="outside ASCII"),
        pytest.param(answering(fields=[("X-Subject-Token", "x" * 70_000)]), "over 64 KiB", Cause.TRANSIENT, id="long token"),
        pytest.param(answering(fields=[("X-Subject-Token", "planted-token" * 20_000)]), "not HTTP, or has a header over", Cause.TRANSIENT, id="longer token"),
        pytest.param(answering(described(expires_in=-1)), "already expired", Cause.TRANSIENT, id="expired"),
        pytest.param(answering(described(expires_at=None)), "when the token expires", Cause.TRANSIENT, id="no expiry"),
        pytest.param(answering(described(expires_at="soon")), "when the token expires", Cause.TRANSIENT, id="odd expiry"),
        pytest.param(answering(described(expires_at="0001-01-01T00:00:00+23:59")), "expire", Cause.TRANSIENT, id="expiry out of range"),
        pytest.param(answering(described(project=None)), "not project-scoped", Cause.TRANSIENT, id="no project"),
        pytest.param(answering(described(project={"name": "x"})), "not project-scoped", Cause.TRANSIENT, id="no project id"),
        pytest.param(answering('{"error":{"code":400,"message":"planted-token"}}', status=400, fields=[]), "project, domain and user", Cause.REFUSED, id="400"),
        pytest.param(answering('{"error_code":"IAM.0061","error_msg":"planted-token"}', status=401, fields=[]), r"401 IAM\.0061", Cause.LOCK_OUT, id="401"),
        pytest.param(answering('{"error_code":"IAM.0081"}', status=403, fields=[]), r"403 IAM\.0081", Cause.REFUSED, id="403"),
        pytest.param(answering("", status=404, fields=[]), "no IAM at this address", Cause.TRANSIENT, id="404"),
        pytest.param(answering("", status=302, fields=[("Location", "/elsewhere")]), "redirects are not followed", Cause.TRANSIENT, id="redirect"),
        pytest.param(answering("", status=503, fields=[]), "IAM answered 503", Cause.TRANSIENT, id="503"),
    ],
)  # fmt: skip
async def test_odd_answers(answer: Callable[[web.Request], Awaitable[web.Response]], reason: str, cause: Cause) -> None:
    """Each is a failure with a reason in our words, which quotes nothing of the answer."""
    async with iam(answer) as port:
        with pytest.raises(FetchFailed, match=reason) as caught:
            await asking(f"http://127.0.0.1:{port}").fetch()

    error: BaseException | None = caught.value
    assert caught.value.cause is cause
    assert "planted" not in caught.value.reason
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("17", 17.0, id="seconds"),
        pytest.param("Tue, 14 Nov 2023 22:14:20 GMT", 60.0, id="a date"),
        pytest.param("Tue, 14 Nov 2022 22:14:20 GMT", 0.0, id="a past date"),
        pytest.param("soon", None, id="neither"),
        pytest.param("9" * 400, 999_999_999.0, id="without end"),
    ],
)
async def test_retry_after(value: str, seconds: float | None) -> None:
    """Retry-After is understood in both of its forms."""
    async with iam(answering("", status=429, fields=[("Retry-After", value)])) as port:
        with pytest.raises(FetchFailed, match="throttling") as caught:
            await asking(f"http://127.0.0.1:{port}").fetch()

    assert caught.value.retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(b"", "closed the connection", id="nothing"),
        pytest.param(b"planted-token\r\n\r\n", "not HTTP", id="not HTTP"),
        pytest.param(
            b"HTTP/1.1 201 Created\r\nX-Subject-Token: planted\x00token\r\n\r\n", "not HTTP|characters", id="NUL"
        ),
        pytest.param(b"HTTP/1.1 201 Created\r\nX-Subject-Token: planted\x7f\r\n\r\n", "not HTTP|characters", id="DEL"),
        pytest.param(b"HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\nhalf", "broke off", id="half a body"),
    ],
)
async def test_broken_answers(answer: bytes, reason: str) -> None:
    """A connection that breaks, at whatever point, is a failure that quotes nothing."""
    async with raw_iam(answer) as port:
        with pytest.raises(FetchFailed, match=reason) as caught:
            await asking(f"http://127.0.0.1:{port}").fetch()

    assert "planted" not in caught.value.reason


async def test_nobody_there() -> None:
    """A refused connection and an unknown name are told apart, with the address and the system's reason."""
    async with raw_iam(b"") as port:
        pass
    with pytest.raises(FetchFailed, match=f"^no connection to IAM, 127.0.0.1:{port}: Connection refused$"):
        await asking(f"http://127.0.0.1:{port}").fetch()
    with pytest.raises(FetchFailed, match=r"the host name of IAM cannot be resolved \(iam.invalid\)"):
        await asking("http://iam.invalid").fetch()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "ca.crt"
    ca.cert_pem.write_to_path(str(path))
    return ca, path


def server_tls(ca: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name).configure_cert(context)
    return context


async def test_another_address_and_ca(authority: tuple[trustme.CA, Path]) -> None:
    """The address is dialled, while name and Host stay those of the URL; the file replaces the system's roots."""
    ca, path = authority
    hosts: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        hosts.append(request.headers["Host"])
        return await answering()(request)

    async with iam(answer, server_tls(ca, "iam.example.com")) as port:
        reached = Connection(address=("127.0.0.1", port), ca=str(path))
        token = await asking("https://iam.example.com", reached).fetch()
        with pytest.raises(FetchFailed, match="not trusted, or is for another name"):
            await asking("https://other.example.com", reached).fetch()
        with pytest.raises(FetchFailed, match="not trusted"):
            await asking("https://iam.example.com", Connection(address=("127.0.0.1", port))).fetch()
        with pytest.raises(FetchFailed, match="FileNotFoundError"):
            await asking("https://iam.example.com", Connection(address=("127.0.0.1", port), ca="/gone")).fetch()

    assert token.value == TOKEN.encode()
    assert hosts == ["iam.example.com"]


async def test_tls_where_there_is_none() -> None:
    """https to a plain port says what is wrong."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(FetchFailed, match="TLS with IAM failed"):
            await asking(f"https://127.0.0.1:{port}").fetch()


@asynccontextmanager
async def tunnel(status: bytes = b"200 OK") -> AsyncIterator[tuple[int, list[str]]]:
    """A forward proxy that knows CONNECT alone, and always connects to loopback."""
    asked: list[str] = []
    pumps: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()
        except OSError:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode()
        asked.append(line)
        writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
        if status.startswith(b"200"):
            there = await asyncio.open_connection("127.0.0.1", int(line.split()[1].rpartition(":")[2]))
            pumps.extend([asyncio.create_task(pump(reader, there[1])), asyncio.create_task(pump(there[0], writer))])
        else:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked
        await asyncio.wait(pumps) if pumps else None


async def test_a_proxy(authority: tuple[trustme.CA, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """IAM is reached through the configured proxy, by CONNECT; the environment's proxy is ignored."""
    ca, path = authority
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    async with iam(answering(), server_tls(ca, "localhost")) as port, tunnel() as (proxy_port, asked):
        through = Connection(ca=str(path), proxy=("127.0.0.1", proxy_port))
        token = await asking(f"https://localhost:{port}", through).fetch()
        direct = await asking(f"https://localhost:{port}", Connection(ca=str(path))).fetch()

    assert token.value == direct.value == TOKEN.encode()
    assert asked == [f"CONNECT localhost:{port} HTTP/1.1"]


async def test_a_proxy_that_refuses(authority: tuple[trustme.CA, Path]) -> None:
    """The reason names the proxy, not IAM."""
    async with tunnel(b"403 Forbidden") as (proxy_port, _):
        with pytest.raises(FetchFailed, match="the proxy refused"):
            await asking("https://iam.example.com", Connection(proxy=("127.0.0.1", proxy_port))).fetch()
    with pytest.raises(FetchFailed, match="the proxy cannot be reached"):
        await asking("https://iam.example.com", Connection(proxy=("127.0.0.1", proxy_port))).fetch()


@pytest.mark.parametrize(
    ("issued", "date", "ahead"),
    [
        pytest.param(0, 0, 0, id="right"),
        pytest.param(59, 59, 0, id="nearly right"),
        pytest.param(7200, 7200, 7200, id="IAM ahead"),
        pytest.param(-200_000, -200_000, -200_000, id="IAM behind, the token looks expired"),
        pytest.param(-7200, 0, 0, id="an old answer from a cache"),
        pytest.param(-7200, None, 0, id="one witness alone"),
    ],
)
async def test_clocks_that_differ(issued: int, date: int | None, ahead: int) -> None:
    """A token's expiry is told on our clock, where IAM's clock is known to be another."""

    def text(seconds: float) -> str:
        return datetime.fromtimestamp(START + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"

    token = described(issued_at=text(issued), expires_at=text(issued + 86400))
    fields = [("X-Subject-Token", TOKEN)]
    fields.append(("Date", "none" if date is None else formatdate(START + date, usegmt=True)))
    async with iam(answering(token, fields=fields)) as port:
        found = await asking(f"http://127.0.0.1:{port}").fetch()

    assert found.clock_ahead_seconds == ahead
    assert found.expiry == START + issued + 86400 - ahead


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        pytest.param(401, '{"error_code":"IAM.0061"}', "locked this user", id="locked, by code"),
        pytest.param(401, '{"error":{"message":"The account is locked."}}', "locked this user", id="locked, by text"),
        pytest.param(401, '{"error_code":"IAM.0062"}', "domain, user or password", id="wrong"),
        pytest.param(401, '{"error_code":"IAM.0066"}', "has expired", id="expired"),
        pytest.param(403, '{"error_code":"IAM.0081"}', "programmatic access", id="no access"),
        pytest.param(404, '{"error":{"message":"Could not find project"}}', "no such project", id="wrong project"),
    ],
)
async def test_refusals_in_words(status: int, body: str, reason: str) -> None:
    """What to do about a refusal is said in words."""
    async with iam(answering(body, status=status, fields=[])) as port:
        with pytest.raises(FetchFailed, match=reason):
            await asking(f"http://127.0.0.1:{port}").fetch()


async def test_domain_scope_in_words() -> None:
    """A token for the whole account is told apart from a token for nothing."""
    async with iam(answering(described(project=None, domain={"name": "d"}))) as port:
        with pytest.raises(FetchFailed, match="whole account"):
            await asking(f"http://127.0.0.1:{port}").fetch()
