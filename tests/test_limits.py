"""Which limits of time an exchange is near to; that they act is shown where requests run (flows/test_deadlines.py)."""

import asyncio
import math

import pytest

from gateway import limits
from gateway.errors import UpstreamTimeout
from gateway.exchange import Exchange, Phase
from gateway.story import Moment


@pytest.fixture
async def exchange() -> Exchange:
    """An answer under way that has just moved, with a minute to everything."""
    exchange = Exchange(Moment(asyncio.get_running_loop()), 0.0, "id", "GET", "/")
    exchange.phase, exchange.head_sent = Phase.ANSWERING, True
    exchange.idle_since, exchange.idle_seconds, exchange.deadline = 1000.0, 60.0, 1060.0
    return exchange


async def test_connecting_has_a_limit_of_its_own(exchange: Exchange) -> None:
    """It counts from when an attempt began to connect."""
    exchange.phase, exchange.route, exchange.connect_by = Phase.CONNECTING, "r", 1005.0

    assert limits.passed(exchange, 1004.9) is None
    late = limits.passed(exchange, 1005.0)
    assert isinstance(late, UpstreamTimeout)
    assert (late.setting, late.proxy_status) == ("limits.connect", "connection_timeout")


@pytest.mark.parametrize(
    ("connect_by", "setting"),
    [
        pytest.param(1000.04, "limits.connect", id="connect passed first"),
        pytest.param(1000.06, "X-Request-Timeout", id="the deadline passed first"),
    ],
)
async def test_of_two_limits_the_first_to_pass_is_named(exchange: Exchange, connect_by: float, setting: str) -> None:
    """A sweep that finds both passed blames no caller's haste for an upstream that does not connect."""
    exchange.phase, exchange.connect_by = Phase.CONNECTING, connect_by
    exchange.deadline, exchange.deadline_setting = 1000.05, "X-Request-Timeout"

    late = limits.passed(exchange, 1000.1)

    assert late is not None
    assert late.setting == setting


async def test_an_answer_far_from_its_limits(exchange: Exchange) -> None:
    """It need not be looked at within a second; nor need a tunnel."""
    assert limits.far(exchange, 1000.1)
    exchange.phase, exchange.deadline = Phase.TUNNEL, math.inf
    assert limits.far(exchange, 1058.0)


@pytest.mark.parametrize(
    ("changes", "now"),
    [
        pytest.param({"deadline": 1001.5}, 1000.1, id="the deadline is near"),
        pytest.param({}, 1058.9, id="it was silent for long"),
        pytest.param({"idle_seconds": 9.0}, 1000.1, id="little silence is allowed: when it moved has to be known well"),
        pytest.param({"head_sent": False}, 1000.1, id="its answer may yet be dropped, and the request sent again"),
    ],
)
async def test_near_to_one(exchange: Exchange, changes: dict[str, float], now: float) -> None:
    """Whatever may end it soon, or begin to count soon, keeps it under the sweep's eye."""
    for name, value in changes.items():
        setattr(exchange, name, value)

    assert not limits.far(exchange, now)
