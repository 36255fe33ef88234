"""How an upstream is reached, and what each way of not reaching it is called."""

import asyncio
import contextlib
import datetime
import errno
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from fake_modelarts import FakeModelArts
from raw_caller import CutOff, Reply
from running import StartGateway, document, free_port, route

from gateway.errors import UpstreamUnreachable
from gateway.process import loop_factory
from gateway.routes import Connection, UpstreamUrl
from gateway.story import Moment, Stories, Story
from gateway.upstream import dial as dialling
from gateway.upstream.connection import UpstreamConnection
from gateway.upstream.dial import dial, tls_context
from gateway.upstream.resolve import Address, Resolver

Asked = Callable[..., Any]
LOOPS = [asyncio.new_event_loop, loop_factory()]


@pytest.fixture
def asked(start_gateway: StartGateway) -> Asked:
    """The answer to one request over a route to ``upstream``."""

    async def ask(upstream: str, **more: Any) -> Reply:
        gateway = await start_gateway(document(route("r", upstream, **more)))
        return await gateway.ask("POST", "/r/x", body=b"{}")

    return ask


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


def server_context(authority: trustme.CA, *names: str, **more: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **more).configure_cert(context)
    return context


def here(fake: FakeModelArts) -> dict[str, str]:
    return {"address": f"127.0.0.1:{fake.port}"}


async def test_refused(asked: Asked) -> None:
    """Nobody listens there; it was tried twice, as nothing had been sent."""
    reply = await asked(f"http://127.0.0.1:{free_port()}")

    assert (reply.status, reply.code, reply.proxy_error) == (502, "Gateway.UpstreamUnreachable", "connection_refused")


async def test_names_that_do_not_resolve(asked: Asked) -> None:
    """A name without an address."""
    reply = await asked("http://does-not-exist.invalid")

    assert (reply.status, reply.proxy_error) == (502, "dns_error")


async def test_the_next_address_is_tried(fake: FakeModelArts, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with several addresses works as long as one of them does."""

    async def dead_first(self: Resolver, host: str, port: int) -> list[Address]:
        return [(socket.AF_INET, ("127.0.0.1", free_port())), (socket.AF_INET, ("127.0.0.1", fake.port))]

    monkeypatch.setattr(Resolver, "resolve", dead_first)

    assert (await asked("http://two.example.com")).status == 200


async def test_a_name_that_resolves_slowly_stops_no_other_upstream(
    start_gateway: StartGateway, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many requests wait for one name, or have waited for it, other upstreams are connected to at once."""
    until_the_end = threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, *more: Any, **others: Any) -> Any:
        if host == "slow.example.com":
            until_the_end.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    routes = [
        route("slow", "http://slow.example.com", limits={"connect": "100ms"}, retry={"attempts": 1}),
        route("name", f"http://localhost:{fake.port}", limits={"connect": "2s"}),
        route("address", fake.url, limits={"connect": "2s"}),
    ]
    gateway = await start_gateway(document(*routes))
    try:
        waited = await asyncio.gather(*(gateway.ask("GET", "/slow") for _ in range(40)))

        assert {(reply.status, reply.details) for reply in waited} == {(504, "limits.connect")}
        assert (await gateway.ask("GET", "/name")).status == 200
        assert (await gateway.ask("GET", "/address")).status == 200
    finally:
        until_the_end.set()


async def test_connecting_to_an_address_needs_none_of_the_loops_threads(fake: FakeModelArts) -> None:
    """They may all be waiting for something else."""
    loop = asyncio.get_running_loop()
    until_the_end = threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    occupied = loop.run_in_executor(None, until_the_end.wait)
    try:
        connection = await dial(UpstreamUrl("http", "127.0.0.1", fake.port, "a", ""), Connection(), None)
        connection.abort()
    finally:
        until_the_end.set()
        await occupied


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("listens", [True, False], ids=["accepts", "stops listening"])
def test_an_upstream_that_takes_its_time(new_loop: Callable[[], asyncio.AbstractEventLoop], listens: bool) -> None:
    """Its queue is full, so that the kernel has to knock again, a second later: the connection comes then, or the refusal."""
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    with full, contextlib.ExitStack() as others:
        address = full.getsockname()
        others.enter_context(socket.create_connection(address))

        async def connect() -> None:
            dialling = asyncio.create_task(dial(UpstreamUrl("http", *address, "a", ""), Connection(), None))
            await asyncio.sleep(0.1)
            assert not dialling.done()
            if listens:
                others.enter_context(full.accept()[0])
            else:
                full.close()
            async with asyncio.timeout(10):
                connection = await dialling
            assert connection.alive()
            connection.abort()
            await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            if listens:
                runner.run(connect())
            else:
                with pytest.raises(UpstreamUnreachable) as raised:
                    runner.run(connect())
                assert raised.value.proxy_status == "connection_refused"


@pytest.mark.parametrize(
    ("failure", "proxy_error"),
    [
        pytest.param(ConnectionResetError(), "connection_terminated", id="reset"),
        pytest.param(OSError(errno.EHOSTUNREACH, "x"), "connection_terminated", id="the network is gone"),
        pytest.param(OSError(errno.ETIMEDOUT, "x"), "connection_terminated", id="timed out by the kernel"),
        pytest.param(ssl.SSLError(1, "x"), "tls_protocol_error", id="not TLS"),
        pytest.param(ssl.SSLCertVerificationError(1, "x"), "tls_certificate_error", id="certificate"),
    ],
)
async def test_a_connection_that_fails_while_it_is_opened(
    fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch, failure: OSError, proxy_error: str
) -> None:
    """Whatever the system says, it is the upstream that was not reached, and the socket is closed."""
    sockets: list[socket.socket] = []

    async def fails(_: object, *, sock: socket.socket, **more: object) -> None:
        sockets.append(sock)
        raise failure

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fails)

    with pytest.raises(UpstreamUnreachable) as raised:
        await dial(UpstreamUrl("http", "127.0.0.1", fake.port, "a", ""), Connection(), None)

    assert raised.value.proxy_status == proxy_error
    assert [sock.fileno() for sock in sockets] == [-1]


class Cut:
    """A TLS server that answers one request with a body of unannounced length, and ends with or without saying so."""

    def __init__(self, authority: trustme.CA, *, close_notify: bool) -> None:
        self._context = server_context(authority, "up.example.com")
        self._close_notify = close_notify
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]

    def serve(self) -> None:
        accepted, _ = self._listening.accept()
        secured = self._context.wrap_socket(accepted, server_side=True)
        with self._listening:
            secured.recv(65536)
            secured.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        if self._close_notify:
            secured.unwrap().close()
        else:
            socket.socket(fileno=secured.detach()).close()


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("close_notify", [True, False], ids=["close_notify", "no close_notify"])
def test_a_tls_stream_that_somebody_else_may_have_ended(
    authority: trustme.CA, tmp_path: Path, close_notify: bool, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """A body that ends with the connection is whole only if the upstream itself says that this is the end."""

    async def ask(cut: Cut) -> UpstreamConnection:
        reached = Connection(address=("127.0.0.1", cut.port), ca=str(tmp_path / "ca.pem"))
        url = UpstreamUrl("https", "up.example.com", 443, "up.example.com", "")
        connection = await dial(url, reached, tls_context(reached))
        moment = Moment(asyncio.get_running_loop())
        connection.start(moment, head_request=False, upgrade=False)
        connection.write(b"GET / HTTP/1.1\r\nHost: up.example.com\r\n\r\n")
        while not connection.closed:
            await moment.wait()
        return connection

    cut = Cut(authority, close_notify=close_notify)
    server = threading.Thread(target=cut.serve)
    server.start()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        connection = runner.run(ask(cut))
    server.join()

    assert connection.take() == b"half"
    assert connection.ended is close_notify
    assert (connection.fault is None) is close_notify


async def test_a_cut_tls_stream_is_a_cut_answer(asked: Asked, authority: trustme.CA, tmp_path: Path) -> None:
    """The caller sees that something is missing."""
    cut = Cut(authority, close_notify=False)
    serving = asyncio.get_running_loop().run_in_executor(None, cut.serve)
    settings = {"address": f"127.0.0.1:{cut.port}", "ca": str(tmp_path / "ca.pem")}

    with pytest.raises(CutOff):
        await asked("https://up.example.com", connection=settings)
    await serving


@pytest.mark.parametrize(
    ("names", "expired", "known", "proxy_error"),
    [
        pytest.param(("up.example.com",), False, True, None, id="right"),
        pytest.param(("*.example.com",), False, True, None, id="wildcard"),
        pytest.param(("up.example.com",), False, False, "tls_certificate_error", id="unknown CA"),
        pytest.param(("up.example.com",), True, True, "tls_certificate_error", id="expired"),
        pytest.param(("other.example.com",), False, True, "tls_certificate_error", id="another name"),
        pytest.param(("127.0.0.1",), False, True, "tls_certificate_error", id="the address dialled is not the name"),
    ],
)
async def test_certificates(
    asked: Asked,
    authority: trustme.CA,
    tmp_path: Path,
    names: tuple[str, ...],
    expired: bool,
    known: bool,
    proxy_error: str | None,
) -> None:
    """Verified always, for the name of the URL, against the CA of the route; nothing is sent otherwise."""
    signer = authority if known else trustme.CA()
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) if expired else None
    async with FakeModelArts(tls=server_context(signer, *names, not_after=past)) as fake:
        settings = here(fake) | {"ca": str(tmp_path / "ca.pem")}

        reply = await asked("https://up.example.com/v1", connection=settings)

        assert reply.proxy_error == proxy_error
        assert reply.status == (200 if proxy_error is None else 502)
        assert len(fake.received) == (1 if proxy_error is None else 0)


async def test_a_private_ca_replaces_the_systems(asked: Asked, authority: trustme.CA) -> None:
    """Without ``ca`` only the system's roots count."""
    async with FakeModelArts(tls=server_context(authority, "127.0.0.1")) as fake:
        assert (await asked(fake.url)).proxy_error == "tls_certificate_error"


async def test_name_and_host_stay_when_another_address_is_dialled(
    asked: Asked, authority: trustme.CA, tmp_path: Path
) -> None:
    """``address`` changes where the connection goes, not who is asked for: SNI and Host are the URL's."""
    context = server_context(authority, "up.example.com")
    asked_for = []
    context.sni_callback = lambda _, name, __: asked_for.append(name)
    async with FakeModelArts(tls=context) as fake:
        settings = here(fake) | {"ca": str(tmp_path / "ca.pem")}

        await asked("https://up.example.com:8443/v1", connection=settings)

        assert asked_for == ["up.example.com"]
        assert fake.last.get("Host") == "up.example.com:8443"


async def test_old_tls_is_refused(asked: Asked, authority: trustme.CA, tmp_path: Path) -> None:
    """TLS 1.2 is the oldest that is spoken, and enough."""
    context = server_context(authority, "127.0.0.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with FakeModelArts(tls=context) as fake:
        assert (await asked(fake.url, connection={"ca": str(tmp_path / "ca.pem")})).status == 200


class ForwardProxy:
    """A proxy that answers CONNECT with ``answer`` and then passes bytes on to ``target``."""

    def __init__(self, target: int, answer: bytes = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n") -> None:
        self.target = target
        self.answer = answer
        self.heads: list[bytes] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "ForwardProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        if b" 200 " not in self.answer:
            writer.close()
            return
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.append(upstream_writer)
        await asyncio.gather(pass_on(reader, upstream_writer), pass_on(upstream_reader, writer))


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, deaf: bool = False) -> None:
    try:
        while data := await reader.read(65536):
            if not deaf:
                writer.write(data)
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[FakeModelArts]:
    async with FakeModelArts(tls=server_context(authority, "up.example.com")) as fake:
        yield fake


async def test_through_a_forward_proxy(asked: Asked, secure: FakeModelArts, tmp_path: Path) -> None:
    """CONNECT to the URL's name and port, without any credential; TLS ends at the upstream, not at the proxy."""
    async with ForwardProxy(secure.port) as proxy:
        settings = {"proxy": proxy.url, "ca": str(tmp_path / "ca.pem")}

        reply = await asked("https://up.example.com/v1", connection=settings)

        assert reply.status == 200
        assert proxy.heads == [b"CONNECT up.example.com:443 HTTP/1.1\r\nHost: up.example.com:443\r\n\r\n"]
        assert secure.last.get("Host") == "up.example.com"


@pytest.mark.parametrize(
    ("answer", "proxy_error"),
    [
        pytest.param(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "connection_refused", id="refused"),
        pytest.param(
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "connection_refused", id="wants a password"
        ),
        pytest.param(b"", "connection_terminated", id="hangs up"),
        pytest.param(b"220 smtp ready\r\n\r\n", "connection_refused", id="is something else"),
    ],
)
async def test_a_proxy_that_does_not(asked: Asked, answer: bytes, proxy_error: str) -> None:
    """What the proxy says against it is told with the setting that names it."""
    async with ForwardProxy(0, answer) as proxy:
        reply = await asked("https://up.example.com", connection={"proxy": proxy.url}, retry={"attempts": 1})

        assert (reply.status, reply.proxy_error) == (502, proxy_error)
        assert "connection.proxy" in reply.json()["error_msg"]


async def test_the_environment_has_no_say(asked: Asked, fake: FakeModelArts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables are ignored: how an upstream is reached stands in the file alone."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")

    assert (await asked(fake.url)).status == 200


async def test_connecting_has_one_limit(asked: Asked) -> None:
    """A proxy that does not answer CONNECT uses up ``connect`` like anything else on the way."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await pass_on(reader, writer, deaf=True)

    async with await asyncio.start_server(deaf, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]

        reply = await asked(
            "https://up.example.com",
            connection={"proxy": f"http://127.0.0.1:{port}"},
            limits={"connect": "200ms"},
            retry={"attempts": 1},
        )

        assert (reply.status, reply.details, reply.proxy_error) == (504, "limits.connect", "connection_timeout")


async def test_no_redirect_is_followed(asked: Asked, fake: FakeModelArts) -> None:
    """Where an upstream points to is the caller's to decide."""
    from fake_modelarts import says

    fake.behaviour = says("302 Found", b"", "Location: http://127.0.0.1:9/elsewhere")

    reply = await asked(fake.url)

    assert (reply.status, reply.get("Location"), len(fake.received)) == (302, "http://127.0.0.1:9/elsewhere", 1)


async def test_a_story_that_ends_while_dialling_leaves_no_connection() -> None:
    """Whichever turn of the loop its caller leaves in: also in the one in which the connection was just made."""
    still_open: set[asyncio.StreamWriter] = set()
    accepted = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        still_open.add(writer)
        await reader.read()
        still_open.discard(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = UpstreamUrl("http", "127.0.0.1", port, f"127.0.0.1:{port}", "")
    stories = Stories(asyncio.get_running_loop())
    dialled: list[UpstreamConnection] = []

    async def tell() -> None:
        dialled.append(await dial(url, Connection(), None))

    for turns in range(24):
        story = Story(stories)
        story.begin(tell(), lambda: None)
        for _ in range(turns):
            await asyncio.sleep(0)
        story.cancel()
        await asyncio.sleep(0.01)
    for connection in dialled:
        connection.close()
    async with asyncio.timeout(5):
        while still_open:
            await asyncio.sleep(0.01)
    assert accepted > len(dialled) > 0
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("says", [b"unasked", b""], ids=["speaks", "closes"])
@pytest.mark.parametrize("resets", [True, False], ids=["reset", "end"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_ends_as_it_is_opened_has_one_owner(
    monkeypatch: pytest.MonkeyPatch,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    says: bytes,
    resets: bool,
    scheme: str,
) -> None:
    """Its first read closes it, and with it the descriptor; whoever closed that once more would close another's."""
    listening = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = []
    real = dialling._connect_one

    async def heard_from_already(*given: Any) -> socket.socket:
        sock = await real(*given)
        sockets.append(sock)
        accepted, _ = listening.accept()
        accepted.sendall(says)
        if resets:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        return sock

    monkeypatch.setattr(dialling, "_connect_one", heard_from_already)
    ended: list[UpstreamConnection | Exception] = []

    url = UpstreamUrl(scheme, *listening.getsockname(), "a", "")
    context = tls_context(Connection()) if scheme == "https" else None

    async def tell() -> None:
        try:
            ended.append(await dial(url, Connection(), context))
        except UpstreamUnreachable as error:
            ended.append(error)

    async def run() -> None:
        stories = Stories(asyncio.get_running_loop())
        for number in range(20):
            Story(stories).begin(tell(), lambda: None)
            async with asyncio.timeout(5):
                while len(ended) <= number:
                    await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)

    with listening, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())

    assert len(sockets) == 20
    assert [sock.fileno() for sock in sockets] == [-1] * 20
    assert all(isinstance(each, Exception) or each.closed for each in ended)


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])
def test_a_caller_that_leaves_as_the_handshake_ends_harms_no_other_connection(
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Nothing goes on with a closed socket, the number of whose descriptor the next connection has."""
    dialling: list[asyncio.Task[UpstreamConnection]] = []
    made = UpstreamConnection.connection_made

    def leaves(connection: UpstreamConnection, transport: asyncio.BaseTransport) -> None:
        made(connection, transport)
        if len(dialling) == 1:
            dialling[0].cancel()

    monkeypatch.setattr(UpstreamConnection, "connection_made", leaves)

    async def run() -> None:
        context = server_context(authority, "up.example.com")
        async with FakeModelArts(tls=context) as fake:
            reached = Connection(address=("127.0.0.1", fake.port), ca=str(tmp_path / "ca.pem"))
            url = UpstreamUrl("https", "up.example.com", 443, "up.example.com", "")
            for _ in range(3):
                dialling.append(asyncio.create_task(dial(url, reached, tls_context(reached))))
                await asyncio.wait(dialling[-1:])
            assert [task.cancelled() for task in dialling] == [True, False, False]
            for task in dialling[1:]:
                task.result().abort()
            await fake.until(lambda: fake.open == 0, seconds=2)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())
