"""One request's record, and the wake-up it waits on."""

import asyncio

from gateway.errors import Overloaded, RequestTimeout
from gateway.exchange import Exchange, Moment


async def waits(moment: Moment) -> None:
    await moment.wait()


async def test_a_moment_wakes_who_waits() -> None:
    """A wake-up reaches the waiting task; one that nobody waits for is not kept, as conditions are looked at first."""
    moment = Moment(asyncio.get_running_loop())
    moment.wake()
    waiting = asyncio.create_task(waits(moment))
    await asyncio.sleep(0)
    assert not waiting.done()

    moment.wake()
    moment.wake()
    async with asyncio.timeout(1):
        await waiting


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    """After a wait was cancelled the moment can be waited on again."""
    moment = Moment(asyncio.get_running_loop())
    waiting = asyncio.create_task(waits(moment))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    moment.wake()

    again = asyncio.create_task(waits(moment))
    await asyncio.sleep(0)
    moment.wake()
    async with asyncio.timeout(1):
        await again


async def test_the_first_reason_stays() -> None:
    """An exchange that two limits end is reported under the first."""
    exchange = Exchange(Moment(asyncio.get_running_loop()), 0.0, "id", "GET", "/")
    exchange.story = asyncio.create_task(asyncio.sleep(60))
    first, second = RequestTimeout("first."), Overloaded("second.")

    exchange.expire(first)
    exchange.expire(second)
    (ended,) = await asyncio.gather(exchange.story, return_exceptions=True)

    assert exchange.expired is first
    assert isinstance(ended, asyncio.CancelledError)


def test_what_an_exchange_begins_as() -> None:
    """Nothing matched, nothing sent, nothing counted."""
    loop = asyncio.new_event_loop()
    exchange = Exchange(Moment(loop), 5.0, "id", "GET", "/a")
    loop.close()

    assert (exchange.route, exchange.status, exchange.attempts, exchange.head_sent) == ("-", 0, 0, False)
    assert (exchange.first_byte_seconds < 0, exchange.body_mode, exchange.outcome) == (True, "none", "")
    exchange.expire(Overloaded("nobody tells the story."))
    assert exchange.expired is None
