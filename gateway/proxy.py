"""What happens to a request, read top to bottom: find the route, attach the credential, send, answer, count."""

import asyncio
import logging
import os
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from gateway import cors, limits, retry
from gateway.admission import Admission, verdict
from gateway.body import Body, Budget
from gateway.deadline import Deadline
from gateway.errors import (
    REASONS,
    GatewayError,
    Internal,
    UpstreamUnreachable,
    error_body,
    error_fields,
)
from gateway.exchange import Exchange, Phase
from gateway.headers import field_line
from gateway.inbound import Answer, Inbound, Lines
from gateway.outbound import Outbound
from gateway.refusals import Refusal
from gateway.site import Place, Plan, Site
from gateway.story import Moment
from gateway.upstream import Attempt
from gateway.wire.request_head import RequestHead
from gateway.wire.response_head import ResponseHead

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class Observer(Protocol):
    """Who is told of exchanges: metrics and the access log."""

    def end(self, exchange: Exchange) -> None: ...

    def retried(self, route: str, reason: str) -> None: ...


class Tracer(Protocol):
    """Who makes spans of exchanges, where somebody wants them."""

    def open(self, moment: Moment, arrived: float, request_id: str, head: RequestHead) -> Exchange: ...

    def attempt(self, exchange: Exchange, outbound: Outbound) -> None: ...


class Proxy:
    """The story of every request of this process."""

    def __init__(
        self,
        site: Site,
        admission: Admission,
        observer: Observer,
        budget: Budget,
        tracer: Tracer | None = None,
    ) -> None:
        self.site = site
        self._admission = admission
        self._observer = observer
        self._budget = budget
        self._tracer = tracer
        self._live: set[Exchange] = set()
        self._far: set[Exchange] = set()  # from all their limits, when last looked at; some may have ended since
        self._far_since = 0.0  # when all were last looked at
        self._background: set[asyncio.Task[bool]] = set()
        self._now: Callable[[], float] = time.monotonic
        self._id_prefix = os.urandom(10).hex()
        self._id_count = 0

    @property
    def in_flight(self) -> int:
        return len(self._live)

    def in_flight_by_route(self) -> Mapping[str, int]:
        return Counter(exchange.route for exchange in self._live)

    async def handle(self, inbound: Inbound, answer: Answer) -> None:
        """Answer one request, whatever happens."""
        exchange = self._open(inbound)
        error: GatewayError | None = None
        try:
            await self._forward(inbound, answer, exchange)
            exchange.outcome = exchange.outcome or "complete"
        except GatewayError as reason:
            error = reason
        except asyncio.CancelledError:
            error = exchange.expired
            if error is None:  # the caller left, and nobody needs an answer
                exchange.outcome = "caller_left"
                raise
        except Exception as fault:  # the one place: what no one foresaw is a 500, and its text stays here
            log.error("request %s failed: %s at %s", exchange.request_id, type(fault).__name__, _place_of(fault))  # noqa: TRY400
            error = Internal("The gateway failed at this request; its log names the place under the request id.")
        finally:
            try:
                if error is not None:
                    self._refuse(error, inbound, answer, exchange)
            finally:
                self._close(exchange)

    async def _forward(self, inbound: Inbound, answer: Answer, exchange: Exchange) -> None:
        site, head = self.site, inbound.head
        if inbound.refusal is not None:
            raise inbound.refusal  # 503
        if head.method == "OPTIONS" and cors.is_preflight(head):
            self._answer_preflight(site, head, answer, exchange)  # 400, 403, 404
            return
        caller = caller_gate = None
        if site.callers:
            caller = site.callers.identify(head.fields.noted.items(), inbound.peer)  # 401
            exchange.caller = caller.name
            caller_gate = self._admission.callers.get(caller.name)
        plan = site.plan(head, caller, exchange)  # 400, 403, 404, 405, 508
        route, place = plan.route, plan.place
        exchange.deadline = instant = inbound.arrived + plan.deadline_seconds
        exchange.deadline_setting = plan.deadline_setting
        exchange.idle_seconds = plan.idle_seconds
        exchange.first_byte_limit_seconds = plan.first_byte_seconds
        deadline = Deadline(instant, plan.deadline_setting)
        ticket = self._admission.enter(place.gate, caller_gate)  # 429, 503
        body: Body | None = None
        failed: GatewayError | None = None
        try:
            body = Body(  # 413
                inbound, exchange, self._budget, route.name, route.limits.body_bytes, route.replay_bytes
            )
            attempt, response, beginning = await self._send(  # 502, 503, 504, 413, 408
                plan, answer, exchange, body, deadline
            )
            if ticket:
                self._admission.heard(place.gate, ticket, verdict(None, response.status))
            try:
                lines = self._answer_lines(plan, response, exchange)
                if attempt.connection.tunnel:
                    await self._tunnel(attempt, response, lines, answer, exchange)
                else:
                    await self._relay(attempt, response, beginning, lines, answer, exchange)
            finally:
                place.upstream.release(attempt)
        except GatewayError as error:
            failed = error
            raise
        finally:
            if exchange.ear is not None:
                exchange.ear.close()
            if body is not None:
                body.close()
            if ticket:
                self._admission.record(
                    place.gate, ticket, verdict(failed or exchange.expired, exchange.upstream_status)
                )
            self._admission.leave(place.gate, caller_gate, ticket)

    async def _send(
        self, plan: Plan, answer: Answer, exchange: Exchange, body: Body, deadline: Deadline
    ) -> tuple[Attempt, ResponseHead, bytes]:
        """Send, as often as may be: the attempt whose answer is passed on, and what was already read of its body."""
        place = plan.place
        upstream, credential = place.upstream, place.credential
        while True:
            exchange.attempts += 1
            exchange.waits_for_caller = False
            outbound = Outbound(plan.outline, body, exchange.request_id, upstream.clock_skew_seconds)
            if self._tracer is not None:
                self._tracer.attempt(exchange, outbound)
            exchange.phase = Phase.CREDENTIAL
            await credential.authorize(outbound, deadline)  # 503, 413, 408
            attempt: Attempt | None = None
            passed_on = failed = False
            beginning, reason = b"", None
            try:
                connection = upstream.take_idle() or await upstream.connect(plan.route, exchange)  # 502, 503, 504
                attempt = upstream.send(connection, outbound, exchange)  # 413, 400
                response = await attempt.headed(answer)  # 502, 413, 400
                if response.status < 400:
                    if credential.signs:
                        place.clock.heard(response)
                    credential.accepted(outbound)
                else:
                    beginning, reason = await self._refused(attempt, response, outbound, exchange, place, deadline)
                passed_on = reason is None
                if passed_on:
                    return attempt, response, beginning
            except UpstreamUnreachable as error:
                if not (retry.may_send_again(error, exchange, outbound, self._now()) and place.gate.take_retry()):
                    raise
                failed, reason = True, "reset" if error.sent else "connect"
            finally:
                if attempt is not None and not passed_on:
                    upstream.release(attempt)
            if failed:
                await retry.pause()
            body.rewind()
            self._observer.retried(exchange.route, reason or "")

    async def _refused(
        self,
        attempt: Attempt,
        response: ResponseHead,
        outbound: Outbound,
        exchange: Exchange,
        place: Place,
        deadline: Deadline,
    ) -> tuple[bytes, str | None]:
        """An answer from 400 up: what was read of its body, and why to send the request once more, if at all."""
        credential = place.credential
        exchange.upstream_status = response.status
        if not retry.must_look(exchange, outbound, response, credential):
            exchange.ear = retry.Ear(  # listens as the body passes by
                response, lambda refusal: self._hear(refusal, outbound, exchange, place, deadline)
            )
            return attempt.take(), None
        beginning = await retry.peek(attempt, exchange, self._now())
        refusal = retry.refusal_of(response, beginning)
        if refusal is None:
            return beginning, None
        if not retry.may_retry(exchange, outbound):  # looking on may have cost the body its beginning
            self._hear(refusal, outbound, exchange, place, deadline)
            return beginning, None
        exchange.upstream_class = refusal.label
        corrected = credential.signs and place.clock.corrected(outbound, refusal, response, beginning)
        return beginning, await retry.reason_to_retry(
            credential,
            outbound,
            refusal,
            deadline,
            exchange,
            clock_corrected=corrected,
            take_retry=place.gate.take_retry,
        )

    def _hear(
        self, refusal: Refusal | None, outbound: Outbound, exchange: Exchange, place: Place, deadline: Deadline
    ) -> None:
        """Let metrics and the credential know of a refusal that is passed on."""
        if refusal is not None:
            exchange.upstream_class = refusal.label
            self._tell(place.credential.refused(outbound, refusal, deadline))

    async def _relay(
        self,
        attempt: Attempt,
        response: ResponseHead,
        beginning: bytes,
        lines: Lines,
        answer: Answer,
        exchange: Exchange,
    ) -> None:
        """Pass the answer on as it arrives; the upload may still be going on meanwhile."""
        answer.head(response.status, response.reason, lines, response.content_length, bodiless=response.bodiless)
        exchange.status = response.status
        connection, ear = attempt.connection, exchange.ear
        data = beginning or connection.take()
        if ear is None and not connection.ended:
            # Most pieces of a stream need no more than that. They come while this waits, below, and so behind the flush.
            connection.pass_to(answer.passage(exchange))
        while True:
            if data:
                answer.chunk(data)
                if ear is not None:
                    ear.hear(data)
                exchange.moved = True
                exchange.response_bytes += len(data)
            if connection.drained:
                break
            if not data or not answer.writable:
                answer.flush()
                exchange.head_sent = True
                exchange.waits_for_reader = not answer.writable
                attempt.pump()
                await exchange.moment.wait()
            data = connection.take() if answer.writable else b""  # broken off: cut
        exchange.head_sent = True
        answer.end()

    async def _tunnel(
        self, attempt: Attempt, response: ResponseHead, lines: Lines, answer: Answer, exchange: Exchange
    ) -> None:
        """A WebSocket: frames pass untouched both ways until one side closes."""
        upstream, tunnel = attempt.connection, answer.tunnel(response.reason, lines)
        exchange.status, exchange.head_sent, exchange.phase = 101, True, Phase.TUNNEL
        exchange.deadline = float("inf")  # from here on silence counts, not duration
        while True:
            inward = upstream.take() if answer.writable else b""
            if inward:
                exchange.response_bytes += len(inward)
                tunnel.write(inward)
            outward = tunnel.take() if upstream.writable else b""
            if outward:
                exchange.request_bytes += len(outward)
                upstream.write(outward)
            if inward or outward:
                exchange.moved = True
            if upstream.drained or tunnel.ended:
                break
            exchange.waits_for_reader = not answer.writable
            await exchange.moment.wait()
        answer.end()

    # The steps

    def _answer_preflight(self, site: Site, head: RequestHead, answer: Answer, exchange: Exchange) -> None:
        """Answered here, without asking who the caller is: a browser sends no credential with it."""
        match = site.table.match(head.raw_path)
        exchange.route = match.route.name
        cors.check_origin(match.route, head.fields.noted[b"origin"])
        lines = cors.preflight_lines(match.route, head)
        request_id = exchange.request_id.encode()
        lines += [b"X-Gateway-Request-Id: " + request_id, b"X-Request-Id: " + request_id]
        answer.head(204, b"No Content", lines, None, bodiless=True)
        exchange.status, exchange.head_sent = 204, True
        answer.end()

    def _answer_lines(self, plan: Plan, response: ResponseHead, exchange: Exchange) -> Lines:
        """The upstream's fields, and ours."""
        block = response.fields
        exchange.upstream_status = response.status
        request_id = exchange.request_id.encode()
        lines = [
            *block.lines,
            *(block.forwarded if plan.cors_lines is None else plan.cors_lines),
            b"X-Gateway-Request-Id: " + request_id,
        ]
        theirs = block.noted.get(b"x-request-id")
        if theirs is None:
            lines.append(b"X-Request-Id: " + request_id)
        else:
            exchange.upstream_request_id = theirs.decode("latin-1")
        return lines

    def _tell(self, hearing: Coroutine[Any, Any, bool]) -> None:
        """Let a credential act on a refusal while the answer passes on."""
        task = asyncio.get_running_loop().create_task(hearing, name="credential-refused")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # Beginning and end

    def _open(self, inbound: Inbound) -> Exchange:
        head = inbound.head
        story, request_id = inbound.moment, self.request_id(head.fields.noted)
        if self._tracer is None:
            exchange = Exchange(story, inbound.arrived, request_id, head.method, head.raw_path)
        else:
            exchange = self._tracer.open(story, inbound.arrived, request_id, head)
        exchange.story = story
        self._live.add(exchange)
        return exchange

    def request_id(self, noted: Mapping[bytes, bytes]) -> str:
        """The caller's X-Request-Id where it is safe to repeat, else one of ours."""
        theirs = noted.get(b"x-request-id")
        if theirs is not None and _REQUEST_ID.fullmatch(theirs) is not None:
            return theirs.decode("ascii")
        self._id_count += 1
        return f"{self._id_prefix}{self._id_count:012x}"

    def _refuse(self, error: GatewayError, inbound: Inbound, answer: Answer, exchange: Exchange) -> None:
        """Say what went wrong; where the head of an answer is out, cut it instead."""
        exchange.error = error.code
        if exchange.head_sent:
            exchange.outcome = "cut"
            answer.cut()
            return
        exchange.outcome = "complete"
        exchange.status = error.status
        body = error_body(error, exchange.request_id)
        lines = [field_line(*field) for field in error_fields(error, exchange.request_id)]
        lines += self._cors_lines(inbound.head)
        answer.head(
            error.status, REASONS[error.status].encode(), lines, len(body), bodiless=inbound.head.method == "HEAD"
        )
        answer.chunk(body)
        answer.end()

    def _cors_lines(self, head: RequestHead) -> Lines:
        """What lets a page read our error: only where its origin may use the route; what keeps caches apart, always."""
        try:
            route = self.site.table.match(head.raw_path).route
        except GatewayError:
            return []
        origin = head.fields.noted.get(b"origin")
        if origin is not None and not cors.names(route, origin):
            origin = None
        return cors.answer_lines(route, origin)

    def _close(self, exchange: Exchange) -> None:
        self._live.discard(exchange)
        if exchange.outcome == "caller_left" and not exchange.head_sent:
            exchange.status = 499
        self._observer.end(exchange)

    def cut(self, error: GatewayError) -> None:
        """End every request of this process, those that have no answer yet with ``error``."""
        for exchange in tuple(self._live):
            exchange.expire(error)

    # Time

    def sweep(self, now: float) -> None:
        """Ten times a second: end what has passed a limit. One sweep costs less than a timer for each request.

        Of thousands of streams few are near a limit; the others are looked at once a second.
        """
        if now - self._far_since >= limits.LOOK_AGAIN_SECONDS:  # no count of sweeps, which come late in a busy process
            self._far_since = now
            self._far.clear()
        for exchange in self._live - self._far:
            error = limits.passed(exchange, now)
            if error is not None:
                exchange.expire(error)
            elif limits.far(exchange, now):
                self._far.add(exchange)


def _place_of(error: BaseException) -> str:
    """Where an exception came from, as ``module.py:12 in function``; its text may quote anything, so it is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{os.path.basename(f.filename)}:{f.lineno} in {f.name}" for f in reversed(frames[-3:]))
