"""What time does to a request: how long its caller wants to wait, and which limit it has passed, by whose fault."""

import re
from collections.abc import Mapping

from gateway.errors import (
    BadRequest,
    CredentialUnavailable,
    DeadlineExceeded,
    GatewayError,
    Overloaded,
    RequestTimeout,
    UpstreamTimeout,
)
from gateway.exchange import Exchange, Phase

# Exchanges far from their limits are looked at again after so long.
LOOK_AGAIN_SECONDS = 1.0
_FAR_SECONDS = LOOK_AGAIN_SECONDS + 0.5  # until the next sweep, which a busy machine makes late
_LONG_IDLE_SECONDS = 10.0  # a second of which is little
_SECONDS = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")


def wished_seconds(noted: Mapping[bytes, bytes]) -> float | None:
    """How long the caller wants to wait: ``X-Request-Timeout`` in seconds, or Envoy's field in milliseconds.

    Raises:
        BadRequest: it is there and is no number.
    """
    wished = noted.get(b"x-request-timeout")
    if wished is not None:
        if _SECONDS.fullmatch(wished) is None:
            raise BadRequest("X-Request-Timeout is a number of seconds, as 2.5.", setting="X-Request-Timeout")
        return float(wished)
    wished = noted.get(b"x-envoy-expected-rq-timeout-ms")
    if wished is not None:
        if _SECONDS.fullmatch(wished) is None:
            raise BadRequest("x-envoy-expected-rq-timeout-ms is a number of milliseconds.", setting="X-Request-Timeout")
        return float(wished) / 1000
    return None


def passed(exchange: Exchange, now: float) -> GatewayError | None:
    """The limit that a live exchange has passed; also notes whether anything moved since the last look."""
    if exchange.connect_by <= min(now, exchange.deadline):
        return unconnected(exchange.route)
    if now >= exchange.deadline:
        return _late(exchange)
    if exchange.phase == Phase.WAITING:  # the upstream thinks: silence is no fault, only its first byte may be late
        exchange.idle_since = now
        if now - exchange.sent_at >= exchange.first_byte_limit_seconds:
            return UpstreamTimeout(
                f"The upstream did not begin its answer in time (limits.first_byte of route '{exchange.route}').",
                setting="limits.first_byte",
            )
    elif exchange.moved or not _flows(exchange):
        exchange.moved = False
        exchange.idle_since = now
    elif now - exchange.idle_since >= exchange.idle_seconds:
        return _silent(exchange)
    return None


def unconnected(route: str) -> UpstreamTimeout:
    """``limits.connect`` has passed."""
    return UpstreamTimeout(
        f"The upstream of route '{route}' did not accept a connection in time (limits.connect).",
        setting="limits.connect",
        proxy_status="connection_timeout",
    )


def far(exchange: Exchange, now: float) -> bool:
    """No limit of this exchange can pass within ``LOOK_AGAIN_SECONDS``, so that it need not be looked at before.

    Said only once an answer's head is out: until then each step has a limit of its own, and an answer that has begun may
    be dropped for another attempt, which starts at the first step again. What moves meanwhile is noted up to a second
    late, so it is not said where silence is limited to less than ten.
    """
    return (
        exchange.head_sent
        and exchange.idle_seconds >= _LONG_IDLE_SECONDS
        and min(exchange.deadline, exchange.idle_since + exchange.idle_seconds) - now > _FAR_SECONDS
    )


def _flows(exchange: Exchange) -> bool:
    """A body is under way, so that silence counts."""
    return exchange.waits_for_caller or exchange.phase >= Phase.SENDING


def _late(exchange: Exchange) -> GatewayError:
    """Whose fault it is that the deadline passed."""
    setting = exchange.deadline_setting
    where = f"({setting} of route '{exchange.route}')"
    if exchange.waits_for_caller:
        return RequestTimeout(f"The request body was still arriving when the deadline passed {where}.", setting=setting)
    if exchange.waits_for_reader:
        return RequestTimeout(f"The caller had not read its answer when the deadline passed {where}.", setting=setting)
    if exchange.phase == Phase.HOLDING:
        return Overloaded(
            f"No memory to hold the request body became free before the deadline {where} (process.body_memory).",
            setting="process.body_memory",
            retry_after_seconds=1,
        )
    if exchange.phase == Phase.CREDENTIAL:
        return CredentialUnavailable(
            f"No usable credential before the deadline {where}.", setting=setting, retry_after_seconds=1
        )
    return DeadlineExceeded(
        f"The deadline passed before the answer was complete {where}.",
        setting=setting,
        proxy_status="connection_timeout" if exchange.phase == Phase.CONNECTING else None,
    )


def _silent(exchange: Exchange) -> GatewayError:
    where = f"(limits.idle of route '{exchange.route}')"
    if exchange.waits_for_caller:
        return RequestTimeout(f"The request body stopped arriving {where}.", setting="limits.idle")
    if exchange.waits_for_reader:
        return RequestTimeout(f"The caller stopped reading its answer {where}.", setting="limits.idle")
    return UpstreamTimeout(f"The body stopped flowing {where}.", setting="limits.idle")
