"""Whether an upstream's answer is a reason to send the request once more, and what else it tells us."""

import asyncio
import logging
import random
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Protocol

from gateway.credentials.base import Credential
from gateway.deadline import Deadline
from gateway.errors import UpstreamUnreachable
from gateway.exchange import Exchange
from gateway.outbound import Outbound
from gateway.refusals import Refusal, Retry, classify, server_time
from gateway.wire.response_head import ResponseHead

log = logging.getLogger(__name__)

# Statuses that the table of refusals lets a second attempt follow.
_AFTER_REFRESH = frozenset({401})
_IDEMPOTENT = frozenset({408, 500, 502, 503})
# An error body is a few hundred bytes; what has not come by then is not waited for.
_PEEK_BYTES = 16 * 1024 + 1  # one more than has a meaning
_CLASSIFIED_BYTES = _PEEK_BYTES
_PEEK_SECONDS = 2.0
_BEFORE_DEADLINE_SECONDS = 0.2
# Spread of the pause before a second attempt: long enough for a restarting instance, short against 40 s.
_PAUSE_SECONDS = (0.05, 0.25)
# A Date this far from ours is the upstream's clock, not the network; APIG refuses at 15 minutes.
_SKEW_SECONDS = 60.0
_LARGEST_SKEW_SECONDS = 24 * 3600.0
# Date counts whole seconds, and an answer takes a moment to arrive.
_SAME_CLOCK_SECONDS = 2.0


class Source(Protocol):
    """The part of an attempt that is looked at."""

    @property
    def ended(self) -> bool: ...

    def take(self) -> bytes: ...

    def pump(self) -> None: ...


class Clock(Protocol):
    """An upstream's clock correction, seconds it is ahead of us, and its name in the log."""

    label: str
    clock_skew_seconds: float


def may_retry(exchange: Exchange, outbound: Outbound) -> bool:
    """Attempts are left, and every byte of the body still is."""
    return exchange.attempts < outbound.outline.route.retry.attempts and outbound.body.replayable


def must_look(exchange: Exchange, outbound: Outbound, response: ResponseHead, credential: Credential) -> bool:
    """Whether the answer's body is worth a look before it is passed on: it could lead to another attempt, or it may be
    a refused signature or token, which has to be heard even if the caller leaves at the answer's head."""
    if response.status in _AFTER_REFRESH:
        return credential.signs or credential.renews
    return may_retry(exchange, outbound) and _may_repeat(exchange, outbound) and response.status in _IDEMPOTENT


def _may_repeat(exchange: Exchange, outbound: Outbound) -> bool:
    """An idempotent route's failed answer may be tried again once."""
    return outbound.outline.route.retry.idempotent and not exchange.repeated


async def peek(source: Source, exchange: Exchange, now: float) -> bytes:
    """The beginning of an error body, as much as is needed to classify it; it is then still to be passed on.

    Ends before the deadline does: an answer that is there beats a message that there is none.
    """
    data = b""
    seconds = min(_PEEK_SECONDS, max(0.0, exchange.deadline - now - _BEFORE_DEADLINE_SECONDS))
    late = False

    def stop() -> None:
        nonlocal late
        late = True
        exchange.moment.wake()

    timer = asyncio.get_running_loop().call_later(seconds, stop)
    try:
        while True:
            data += source.take()
            if source.ended or len(data) >= _PEEK_BYTES or late:
                return data
            source.pump()
            await exchange.moment.wait()
    finally:
        timer.cancel()


class Ear:
    """Listens to an error body that passes by, until there is enough to classify it or it has ended."""

    __slots__ = ("_heard", "_response", "_tell")

    def __init__(self, response: ResponseHead, tell: Callable[[Refusal | None], None]) -> None:
        self._response = response
        self._heard: bytes | None = b""
        self._tell = tell

    def hear(self, data: bytes) -> None:
        if self._heard is not None:
            self._heard += data[:_CLASSIFIED_BYTES]
            if len(self._heard) >= _CLASSIFIED_BYTES:
                self.close()

    def close(self) -> None:
        """Nothing more comes: say what it was, once."""
        if self._heard is not None:
            heard, self._heard = self._heard, None
            self._tell(refusal_of(self._response, heard))


def refusal_of(response: ResponseHead, beginning: bytes) -> Refusal | None:
    """What an error answer says, by its status and the beginning of its body."""
    return classify(response.status, beginning[:_CLASSIFIED_BYTES], response.fields.noted.get(b"server", b""))


async def reason_to_retry(
    credential: Credential,
    outbound: Outbound,
    refusal: Refusal,
    deadline: Deadline,
    exchange: Exchange,
    *,
    clock_corrected: bool,
    take_retry: Callable[[], bool] = lambda: True,
) -> str | None:
    """Why the request should be sent once more, as a metric label; None when the answer is to be passed on.

    The credential hears of the refusal either way. ``take_retry`` has the last word where nothing has changed since the
    first attempt (``Gate.take_retry``). Waits for a new token, or a short while before an idempotent retry.
    """
    renewed = await credential.refused(outbound, refusal, deadline)
    if refusal.retry is Retry.AFTER_REFRESH and renewed:
        return refusal.label
    if refusal.retry is Retry.AFTER_CLOCK and clock_corrected:
        return refusal.label
    if refusal.retry is Retry.IDEMPOTENT and _may_repeat(exchange, outbound) and take_retry():
        exchange.repeated = True
        await pause()
        return refusal.label
    return None


async def pause() -> None:
    """Wait a moment before another attempt, not always the same."""
    await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311 - spreads load, keeps no secret


def may_send_again(error: UpstreamUnreachable, exchange: Exchange, outbound: Outbound, now: float) -> bool:
    """After a connection that never was, or broke: the request is safe to send twice, and attempts, time and every byte
    of the body are left."""
    retry = outbound.outline.route.retry
    return (
        (retry.idempotent or not error.sent)
        and exchange.attempts < retry.attempts
        and outbound.body.replayable
        and now < exchange.deadline
    )


class ClockWatch:
    """Follows an upstream's clock by the Date of its answers; one comparison while the Date stays the same."""

    def __init__(self, clock: Clock, wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        self._seen = b""

    def heard(self, response: ResponseHead) -> bool:
        """Look at an answer's Date; true when the correction changed."""
        date = response.fields.noted.get(b"date")
        if date is None or date == self._seen:
            return False
        self._seen = date
        try:
            instant = parsedate_to_datetime(date.decode("latin-1")).timestamp()
        except (TypeError, ValueError, OverflowError):
            return False
        return self._correct(instant)

    def told(self, body: bytes) -> bool:
        """Look at a refusal's text, which may name the server's time; true when the correction changed."""
        instant = server_time(body)
        return instant is not None and self._correct(instant)

    def corrected(self, outbound: Outbound, refusal: Refusal, response: ResponseHead, beginning: bytes) -> bool:
        """Learn from a refusal; true when ``outbound`` was signed by another clock than the one known now.

        Only a refusal of the signature's date is believed about the time: any other text may quote a caller. Many
        requests may have been refused together: the first one moves the correction, and all of them are behind it.
        """
        if refusal.certain and refusal.refusal_class == "auth_clock" and server_time(beginning) is not None:
            self.told(beginning)
        else:
            self.heard(response)
        return abs(self._clock.clock_skew_seconds - outbound.clock_skew_seconds) > _SAME_CLOCK_SECONDS

    def _correct(self, instant: float) -> bool:
        ahead = instant - self._wall()
        if abs(ahead) > _LARGEST_SKEW_SECONDS:
            return False  # no clock, whatever it is
        correction = ahead if abs(ahead) > _SKEW_SECONDS else 0.0
        if abs(correction - self._clock.clock_skew_seconds) <= _SAME_CLOCK_SECONDS:
            return False
        self._clock.clock_skew_seconds = correction
        if correction:
            log.warning(
                "the clock of %s is %.0fs %s ours, and signatures for it are dated so; is this machine's clock right?",
                self._clock.label,
                abs(correction),
                "ahead of" if correction > 0 else "behind",
            )
        else:
            log.warning("the clock of %s agrees with ours again", self._clock.label)
        return True
