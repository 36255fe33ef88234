"""What a case works with: a lane to the proxy, callers, the upstream, and the oracles that hold for every case."""

import asyncio
import itertools
import json
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tests.conformance.caller import Caller
from tests.conformance.case import Failed, NotApplicable
from tests.conformance.messages import Ended, Malformed, Reply, Request
from tests.conformance.upstream import Behaviour, Link, Upstream, answer, echo, own_answer

_COUNT = itertools.count(1)
SMUGGLED = b"smuggled"


@dataclass
class Lane:
    """One way through the proxy with an upstream of its own, so that cases do not share pooled connections."""

    host: str
    port: int
    prefixes: dict[str, bytes]  # variant -> path prefix
    base: bytes  # the upstream path that stands for the prefix
    credential: tuple[bytes, bytes] | None
    upstream: Upstream
    pid: int | None
    ours: bool
    admin_port: int = 0
    ports: dict[str, int] = field(default_factory=dict)  # where a variant listens, if elsewhere


class Bench:
    """One run of one case."""

    def __init__(self, lane: Lane, variants: tuple[str, ...]) -> None:
        for variant in variants:
            if variant not in lane.prefixes:
                raise NotApplicable(f"no route of kind {variant!r}")
        self.lane = lane
        self.ours = lane.ours
        self.upstream = lane.upstream
        self.variant = variants[0]
        self.callers: list[Caller] = []
        self.tag = b"t%d" % next(_COUNT)
        self.check_credential = True
        self.check_upstream = True

    # Building

    def prefix(self, variant: str | None = None) -> bytes:
        return self.lane.prefixes[variant or self.variant]

    def raw(
        self,
        method: bytes = b"GET",
        path: bytes = b"/x",
        *lines: bytes,
        body: bytes = b"",
        version: bytes = b"HTTP/1.1",
        host: bytes | None = b"Host: gateway.test",
        variant: str | None = None,
        tag: bytes | None = None,
    ) -> bytes:
        """A request as bytes: nothing is added but Host and X-Tag, no length is worked out."""
        head = [method + b" " + self.prefix(variant) + path + b" " + version]
        if host is not None:
            head.append(host)
        head.append(b"X-Tag: " + (tag or self.tag))
        head += lines
        return b"\r\n".join(head) + b"\r\n\r\n" + body

    def new_tag(self) -> bytes:
        return b"t%d" % next(_COUNT)

    # Doing

    async def caller(self, receive_bytes: int | None = None) -> Caller:
        port = self.lane.ports.get(self.variant, self.lane.port)
        caller = await Caller.connect(self.lane.host, port, receive_bytes)
        self.callers.append(caller)
        return caller

    async def ask(self, raw: bytes, method: bytes = b"GET", seconds: float = 5.0) -> Reply:
        """One request on a connection of its own; any answer will do, but it must be one.

        Raises:
            Failed: no answer, or one that is not HTTP.
        """
        caller = await self.caller()
        caller.send(raw)
        return await self.reply(caller, method, seconds)

    async def reply(self, caller: Caller, method: bytes = b"GET", seconds: float = 5.0) -> Reply:
        try:
            return await caller.reply(method, seconds)
        except Ended as error:
            raise Failed(f"no answer: the connection {error}") from error
        except TimeoutError as error:
            raise Failed(f"no answer in time: {error}") from error
        except Malformed as error:
            raise Failed(f"the answer is not HTTP: {error}") from error

    def answers(self, raw: bytes, *, end: str = "", times: int = 1, wait_seconds: float = 0.0) -> None:
        """Let the upstream say these bytes to the first request(s), then be sane. ``end``: close, reset, half."""
        left = times

        async def behaviour(link: Link, request: Request) -> None:
            nonlocal left
            await link.body(request)
            if left <= 0 or request.value("x-tag") != self.tag:
                link.send(own_answer(request))
                return
            left -= 1
            link.send(raw)
            if end:
                await asyncio.sleep(0.02 + wait_seconds)
                {"close": link.close, "reset": link.reset, "half": link.half_close}[end]()

        self.upstream.behaviour = behaviour

    def behave(self, behaviour: Behaviour) -> None:
        self.upstream.behaviour = behaviour

    async def request(self, number: int = 0, seconds: float = 5.0) -> Request:
        try:
            return await self.upstream.request(number, seconds)
        except TimeoutError:
            raise Failed(f"request {number + 1} did not reach the upstream within {seconds} s") from None

    def path_of(self, request: Request) -> bytes:
        """Path and query that left; others may send the absolute form on (RFC 9112 section 3.2.2)."""
        head, mark, rest = request.target.partition(b"://")
        return request.target if self.ours or not mark or b"/" in head else b"/" + rest.partition(b"/")[2]

    async def gone(self, link: Link, seconds: float) -> None:
        """The proxy must end this upstream connection within so many seconds."""
        if not await link.until(lambda: link.eof, seconds):
            self.fail(f"the upstream connection is still open after {seconds} s")

    # Judging

    def fail(self, message: str) -> NoReturn:
        raise Failed(message)

    def expect(self, condition: object, message: str) -> None:
        if not condition:
            raise Failed(message)

    def expect_error(self, reply: Reply, status: int, code: str, proxy_error: str | None = None) -> None:
        """Our own refusal to the letter; another proxy needs the status only."""
        self.expect(reply.status == status, f"status {reply.status}, not {status}: {reply.text[:200]!r}")
        if not self.ours:
            return
        proxy_status = reply.value("proxy-status") or b""
        self.expect(proxy_status.startswith(b"modelarts-gateway; error="), f"Proxy-Status is {proxy_status!r}")
        if proxy_error is not None:
            self.expect(
                b"; error=" + proxy_error.encode() in proxy_status, f"Proxy-Status {proxy_status!r}, not {proxy_error}"
            )
        if not reply.body:
            return
        document = json.loads(reply.text)
        self.expect(document["error_code"] == code, f"error_code {document['error_code']}, not {code}")
        self.expect(
            document["request_id"].encode() == reply.value("x-request-id"), "request_id and X-Request-Id differ"
        )
        self.expect(document["error"]["code"] == code, "the OpenAI member says another code")
        self.expect(reply.value("x-gateway-request-id") == reply.value("x-request-id"), "no X-Gateway-Request-Id")
        credential = self.lane.credential
        self.expect(
            credential is None or credential[1] not in bytes(reply.body) + reply.head_bytes,
            "the answer holds the credential",
        )

    async def over(self, caller: Caller) -> None:
        """After a refusal: closed by ours; by others at least silent, whatever follows."""
        if self.ours:
            self.expect(
                await caller.closed(), f"the connection stayed open (or more came: {bytes(caller.buffer[:100])!r})"
            )
        else:
            await caller.until(lambda: caller.eof or caller.buffer, 0.7)
            self.expect(
                not caller.buffer, f"the bytes behind the refused message were answered: {bytes(caller.buffer[:100])!r}"
            )

    async def refused(
        self,
        raw: bytes,
        statuses: Collection[int],
        ours: tuple[int, str] | None = None,
        *,
        closes: bool = True,
        silent: bool = True,
        method: bytes = b"GET",
        upstream_may_see_cut: bool = False,
    ) -> Reply | None:
        """Send bytes that must be refused: one of these statuses (or a bare close, for others), closed, nothing sent on."""
        caller = await self.caller()
        caller.send(raw)
        try:
            reply = await caller.reply(method, 4.0)
        except Ended as error:
            if not silent or self.ours:
                raise Failed(f"closed without an answer ({error})") from error
            reply = None
        except TimeoutError as error:
            raise Failed(f"neither refused nor closed: {error}") from error
        except Malformed as error:
            if b"HTTP/" not in caller.record and not self.ours:
                reply = None  # HTTP/0.9 style page of an error
            else:
                raise Failed(f"the answer is not HTTP: {error}") from error
        if reply is not None:
            self.expect(reply.status in statuses, f"status {reply.status}, not one of {sorted(statuses)}")
            if self.ours and ours is not None:
                self.expect_error(reply, *ours)
        # Others may go on after a refusal that left no doubt where the request ended.
        if closes and (self.ours or reply is None or reply.status == 400):
            await self.over(caller)
        await self.nothing_upstream(cut=upstream_may_see_cut)
        return reply

    async def refused_or_cleaned(self, raw: bytes, statuses: Collection[int]) -> None:
        """Refused, or forwarded as exactly one request (that it is a clean one is seen by the upstream)."""
        caller = await self.caller()
        caller.send(raw)
        try:
            reply = await caller.reply(seconds=4.0)
        except (Ended, Malformed):
            return
        except TimeoutError as error:
            raise Failed(f"neither refused nor closed: {error}") from error
        if reply.status == 200:
            self.expect(
                len(self.upstream.requests) == 1, f"{len(self.upstream.requests)} requests reached the upstream"
            )
        else:
            self.expect(reply.status in statuses, f"status {reply.status}, not one of {sorted(statuses)}")

    async def nothing_upstream(self, *, cut: bool = False) -> None:
        """No request reached the upstream; with ``cut``, none that looks complete."""
        await asyncio.sleep(0.03)
        seen = [request for request in self.upstream.requests if request.complete or not cut]
        self.expect(not seen, f"the upstream got {[request.start for request in seen]!r}")

    async def sound(self, caller: Caller | None = None, times: int = 2) -> None:
        """The next requests, on this connection or new ones, get their own answers."""
        for _ in range(times):
            tag = self.new_tag()
            raw = self.raw(b"GET", b"/next", tag=tag)
            if caller is not None and not caller.eof and not caller.said_close:
                caller.send(raw)
                reply = await self.reply(caller)
            else:
                reply = await self.ask(raw)
            if reply.status != 200 or reply.text != b"tag=" + tag:
                self.fail(f"the next request got {reply.start!r} {reply.text[:120]!r}, which is not its own answer")

    async def visible(self, raw: bytes, method: bytes = b"GET", statuses: Collection[int] = (502,)) -> Reply | None:
        """An upstream's broken answer must show: an error status, or a body that is cut."""
        caller = await self.caller()
        caller.send(raw)
        try:
            reply = await caller.reply(method, 4.0)
        except Ended:
            if self.ours:
                raise Failed("closed without an answer") from None
            return None
        except TimeoutError as error:
            raise Failed(f"the caller waits for ever: {error}") from error
        except Malformed as error:
            raise Failed(f"what reached the caller is not HTTP: {error}") from error
        if reply.status not in statuses and reply.complete:
            self.fail(f"passed on as a whole answer: {reply.start!r} {reply.text[:100]!r}")
        return reply

    def memory_bytes(self) -> int:
        """Resident memory of the proxy's processes."""
        return sum(_status_kib(pid, "VmRSS") * 1024 for pid in self.pids())

    def descriptors(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.pids())

    def pids(self) -> list[int]:
        if self.lane.pid is None:
            raise NotApplicable("the process is not known")
        found, seen = [self.lane.pid], []
        while found:
            pid = found.pop()
            seen.append(pid)
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(word) for word in (task / "children").read_text().split()]
        return seen

    def conclude(self) -> None:
        """What holds after every case, whatever it was about."""
        if not self.check_upstream:
            return
        if self.upstream.violations:
            self.fail(f"what left is not strict HTTP: {self.upstream.violations[0]}")
        for request in self.upstream.requests:
            if SMUGGLED in request.target or SMUGGLED in request.method:
                self.fail(f"a smuggled request reached the upstream: {request.start!r}")
            if self.check_credential and self.lane.credential is not None:
                name, value = self.lane.credential
                wanted = name.lower().replace(b"_", b"-")
                found = [v for n, v in request.fields if n.lower().replace(b"_", b"-") == wanted]
                if found != [value]:
                    self.fail(f"the credential reached the upstream as {found!r}")

    async def close(self) -> None:
        for caller in self.callers:
            caller.reset()  # whatever it has not sent yet must not reach the next case
        await self.upstream.clear()


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


now = time.monotonic

__all__ = ["Bench", "Lane", "answer", "echo", "now", "own_answer"]
