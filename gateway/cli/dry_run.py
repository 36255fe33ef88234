"""One request taken through the gateway's own code up to the wire, and stopped there.

Nothing is worked out a second time here: the head is read, the route found, the request prepared, the credential attached
and the bytes written by what does so in `serve`; only the connection is one that writes into memory.
"""

import asyncio
import hashlib
import os
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from gateway import credentials, signing
from gateway.body import Body, Budget
from gateway.cli.waiting import services, until_usable
from gateway.cors import check_origin, is_preflight
from gateway.deadline import Deadline
from gateway.errors import (
    REASONS,
    BadRequest,
    CredentialUnavailable,
    GatewayError,
    HeadersTooLarge,
    RouteNotFound,
    UriTooLong,
)
from gateway.exchange import Exchange
from gateway.outbound import Outbound, Outline
from gateway.routes import Route, RouteTable, check_method
from gateway.story import Moment
from gateway.upstream import Attempt
from gateway.wire.request_head import RequestHead, parse_request

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.upstream.connection import UpstreamConnection

# How long `--curl` waits for a token: one attempt takes at most 10 s.
_TOKEN_SECONDS = 15.0
_REPEATABLE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(frozen=True, slots=True)
class Given:
    """A request as it stands on the command line. ``target`` is a path with its query, or an http URL."""

    method: str
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None

    def head(self) -> bytes:
        """The head a caller would send for it."""
        names = {name.lower() for name, _ in self.fields}
        lines = [self.method.encode() + b" " + self.target + b" HTTP/1.1"]
        if b"host" not in names:
            lines.append(b"Host: localhost")
        lines += [name + b": " + value for name, value in self.fields]
        if self.body is not None and not names & {b"content-length", b"transfer-encoding"}:
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join(lines)


@dataclass(frozen=True, slots=True)
class Considered:
    """A route, whether the request takes it, and why."""

    route: Route
    taken: bool
    reason: str


@dataclass(slots=True)
class DryRun:
    """How far the request came. ``refusal`` is what the gateway would answer by itself; then nothing leaves.

    ``answered_here`` says why the gateway answers by itself without an error. ``fields`` are the header fields that would leave, in order; ``missing`` names those that the credential would
    still add, because it has to obtain something first.
    """

    considered: list[Considered] = field(default_factory=list)
    route: Route | None = None
    refusal: GatewayError | None = None
    answered_here: str = ""
    method: str = ""
    url: str = ""
    path: str = ""
    query: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    why_missing: str = ""
    dropped: list[str] = field(default_factory=list)
    payload_hash: str = ""


class _Source:
    """A body that is already there."""

    def __init__(self, head: RequestHead, data: bytes, moment: Moment) -> None:
        if head.content_length is not None and head.content_length != len(data):
            raise BadRequest(f"Content-Length says {head.content_length}, but the body has {len(data)} bytes.")
        self.content_length = head.content_length
        self.chunked = head.chunked
        self.moment = moment
        self.ended = not data
        self._data = data

    def take(self) -> bytes:
        data, self._data, self.ended = self._data, b"", True
        return data

    def invite(self) -> None:
        """Nobody waits."""


class _Recorder:
    """As much of an upstream connection as writing a request needs."""

    writable = True
    closed = False

    def __init__(self) -> None:
        self.written = b""

    def start(self, moment: Moment, *, head_request: bool, upgrade: bool) -> None:
        """No answer will come."""

    def write(self, data: bytes) -> None:
        self.written += data

    write_whole = write


async def dry_run(config: "Config", given: Given, *, live: bool = False) -> DryRun:
    """Take a request as far as it goes. ``live`` obtains a token where the credential needs one.

    Raises:
        CredentialUnavailable: with ``live``, none could be had.
    """
    run = DryRun()
    try:
        await _run(config, given, run, live=live)
    except CredentialUnavailable:
        raise
    except GatewayError as error:
        run.refusal = error
    return run


async def _run(config: "Config", given: Given, run: DryRun, *, live: bool) -> None:
    loop = asyncio.get_running_loop()
    raw = given.head()
    _check_size(raw, config.process.head_bytes)
    head = parse_request(raw)
    table = RouteTable(config.routes)
    try:
        match = table.match(head.raw_path)
    except RouteNotFound:
        run.considered = [_consider(route, head.raw_path, None) for route in table.routes]
        raise
    route = run.route = match.route
    run.considered = [_consider(other, head.raw_path, route) for other in table.routes]
    origin = head.fields.noted.get(b"origin")
    if origin is not None:
        check_origin(route, origin)
    if is_preflight(head):
        run.answered_here = "a browser's preflight (CORS), answered by the gateway itself and never forwarded"
        return
    check_method(route, head.method)
    outline = Outline(head, match, _via())
    moment = Moment(loop)
    exchange = Exchange(moment, loop.time(), _request_id(head), head.method, head.raw_path)
    body = Body(
        _Source(head, given.body or b"", moment),
        exchange,
        Budget(None),
        route=route.name,
        limit_bytes=route.limits.body_bytes,
        replay_bytes=route.replay_bytes,
    )
    try:
        outbound = Outbound(outline, body, exchange.request_id)
        await _authorize(config, outbound, run, live=live)
        _write(outbound, exchange, run, given.body or b"")
    finally:
        body.close()
    run.dropped = [
        name.decode("latin-1")
        for name, value in given.fields
        if (name.lower().decode("latin-1"), value.decode("latin-1"))
        not in {(sent.lower(), text) for sent, text in run.fields}
    ]


def _request_id(head: RequestHead) -> str:
    """The caller's where the gateway repeats it, else one that looks like the gateway's."""
    theirs = head.fields.noted.get(b"x-request-id", b"")
    return theirs.decode("ascii") if _REPEATABLE_ID.fullmatch(theirs) else uuid.uuid4().hex


def _via() -> bytes:
    """One that looks like the gateway's: each has a name of its own, by which it knows a request that comes back."""
    return b"1.1 modelarts-gateway-" + os.urandom(6).hex().encode()


def _check_size(head: bytes, limit_bytes: int | None) -> None:
    """As the listener does while it reads: the line alone is 414, the whole head 431."""
    if limit_bytes is None or len(head) <= limit_bytes:
        return
    if b"\r\n" not in head[:limit_bytes]:
        raise UriTooLong("The request line is over the limit (process.head_bytes).", setting="process.head_bytes")
    raise HeadersTooLarge("The request head is over the limit (process.head_bytes).", setting="process.head_bytes")


def _consider(route: Route, raw_path: str, taken: Route | None) -> Considered:
    prefix = route.prefix
    if route is taken:
        return Considered(route, taken=True, reason="matches" if prefix else "matches: it takes whatever is left")
    if not raw_path.startswith(prefix):
        return Considered(route, taken=False, reason=f"the path does not begin with {prefix}")
    if len(raw_path) > len(prefix) and raw_path[len(prefix)] != "/":
        return Considered(route, taken=False, reason=f"after {prefix} the path goes on within the segment")
    longer = taken.prefix if taken is not None else ""
    return Considered(route, taken=False, reason=f"matches too, but {longer} is longer")


async def _authorize(config: "Config", outbound: Outbound, run: DryRun, *, live: bool) -> None:
    name = outbound.outline.route.credential
    if name is None:
        return
    loop = asyncio.get_running_loop()
    credential = credentials.create(name, config.credentials[name], services())
    try:
        if live:
            credential.start()
            await until_usable(credential, _TOKEN_SECONDS)
        await credential.authorize(outbound, Deadline.after(_TOKEN_SECONDS, loop.time()))
    except CredentialUnavailable as error:
        if live:
            raise
        run.missing = tuple(sorted(credential.owned_headers))
        run.why_missing = error.message
    finally:
        await credential.close()


def _write(outbound: Outbound, exchange: Exchange, run: DryRun, data: bytes) -> None:
    recorder = _Recorder()
    Attempt(cast("UpstreamConnection", recorder), outbound, exchange, asyncio.get_running_loop().time).begin(outbound)
    lines = recorder.written.partition(b"\r\n\r\n")[0].split(b"\r\n")
    outline = outbound.outline
    run.method = outline.method
    run.url = f"{outline.route.upstream.scheme}://{outline.authority}{outline.target}"
    run.path, run.query = outline.path, outline.query or ""
    for line in lines[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        run.fields.append((name, value.strip(" \t")))
    run.payload_hash = hashlib.sha256(data).hexdigest()


def signed_texts(run: DryRun) -> tuple[str, str] | None:
    """Canonical request and string to sign of what would leave; None when it carries no signature."""
    values = {name.lower(): value for name, value in run.fields}
    algorithm, _, parameters = values.get("authorization", "").partition(" ")
    if algorithm not in (signing.ALGORITHM, signing.DERIVED_ALGORITHM):
        return None
    said = dict(part.split("=", 1) for part in parameters.split(", "))
    listed = said["SignedHeaders"].split(";")
    payload_hash = values["x-sdk-content-sha256"] if "x-sdk-content-sha256" in listed else run.payload_hash
    canonical, _ = signing.canonical_request(
        run.method, run.path, run.query, [(name, values[name]) for name in listed], payload_hash
    )
    if algorithm == signing.DERIVED_ALGORITHM:
        info = said["Credential"].partition("/")[2]
        return canonical, signing.derived_string_to_sign(values["x-sdk-date"], info, canonical)
    return canonical, signing.string_to_sign(values["x-sdk-date"], canonical)


def status_line(error: GatewayError) -> str:
    """Status, reason and error_code of the answer that the gateway would give."""
    return f"{error.status} {REASONS[error.status]}, {error.code}"
