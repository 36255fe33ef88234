"""One request's record."""

import asyncio

from gateway.errors import Overloaded, RequestTimeout
from gateway.exchange import Exchange
from gateway.story import Moment, Stories, Story


async def test_the_first_reason_stays() -> None:
    """An exchange that two limits end is reported under the first."""
    story = Story(Stories(asyncio.get_running_loop()))
    exchange = Exchange(story, 0.0, "id", "GET", "/")
    exchange.story = story
    ended: list[BaseException] = []

    async def tell() -> None:
        try:
            await story.wait()
        except asyncio.CancelledError as error:
            ended.append(error)

    story.begin(tell(), lambda: None)
    await asyncio.sleep(0)
    first, second = RequestTimeout("first."), Overloaded("second.")

    exchange.expire(first)
    exchange.expire(second)
    await asyncio.sleep(0)

    assert exchange.expired is first
    assert len(ended) == 1


def test_what_an_exchange_begins_as() -> None:
    """Nothing matched, nothing sent, nothing counted."""
    loop = asyncio.new_event_loop()
    exchange = Exchange(Moment(loop), 5.0, "id", "GET", "/a")
    loop.close()

    assert (exchange.route, exchange.status, exchange.attempts, exchange.head_sent) == ("-", 0, 0, False)
    assert (exchange.first_byte_seconds < 0, exchange.body_mode, exchange.outcome) == (True, "none", "")
    exchange.expire(Overloaded("nobody tells the story."))
    assert exchange.expired is None
