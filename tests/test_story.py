"""Coroutines that are resumed by hand, once a turn of the event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.story import Moment, Stories, Story

Telling = Callable[[Story], Awaitable[None]]


def begun(stories: Stories, tell: Telling, failed: Callable[[], None] = lambda: None) -> Story:
    story = Story(stories)

    async def run() -> None:
        await tell(story)

    story.begin(run(), failed)
    return story


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def stories() -> Stories:
    return Stories(asyncio.get_running_loop())


async def waits(moment: Moment) -> None:
    await moment.wait()


async def test_a_moment_wakes_a_task_too() -> None:
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


async def test_stories_of_one_turn_go_on_together(stories: Stories) -> None:
    """All that became ready runs in one callback of the loop, in the order in which it became ready."""
    seen: list[str] = []

    async def tell(story: Story) -> None:
        seen.append("begun")
        await story.wait()
        seen.append("woken")

    several = [begun(stories, tell) for _ in range(3)]
    assert seen == []
    await asyncio.sleep(0)
    assert seen == ["begun"] * 3

    for story in several:
        story.wake()
        story.wake()
    asyncio.get_running_loop().call_soon(seen.append, "another callback")
    await asyncio.sleep(0)
    assert seen == ["begun"] * 3 + ["woken"] * 3 + ["another callback"]


async def test_a_wake_up_that_nobody_waits_for_is_not_kept(stories: Stories) -> None:
    """Conditions are looked at before each wait."""
    seen: list[str] = []

    async def tell(story: Story) -> None:
        story.wake()
        await story.wait()
        seen.append("woken")

    story = begun(stories, tell)
    await turns()
    assert seen == []
    story.wake()
    await turns()
    assert seen == ["woken"]


async def test_a_story_awaits_what_coroutines_await(stories: Stories) -> None:
    """Futures, tasks, sleeping, threads, and waiting for several with a time-out."""
    seen: list[Any] = []
    ended = asyncio.Event()

    async def tell(story: Story) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        seen.append(await asyncio.create_task(asyncio.sleep(0, "task")))
        seen.append(await asyncio.to_thread(lambda: "thread"))
        done, _ = await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.001)
        seen.append(done)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        ended.set()

    begun(stories, tell)
    async with asyncio.timeout(5):
        await ended.wait()
    assert seen == ["task", "thread", set()]


async def on_moment(story: Story) -> None:
    await story.wait()


async def on_future(story: Story) -> None:
    await asyncio.get_running_loop().create_future()


async def on_task(story: Story) -> None:
    await asyncio.create_task(asyncio.sleep(60))


@pytest.mark.parametrize("wait", [on_moment, on_future, on_task])
async def test_cancelling_ends_a_wait(stories: Stories, wait: Telling) -> None:
    """CancelledError is raised where the story waits; what it does about it still runs, and once is enough."""
    seen: list[str] = []

    async def tell(story: Story) -> None:
        try:
            await wait(story)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned")
            raise

    story = begun(stories, tell)
    await turns()
    story.cancel()
    await turns(10)
    assert seen == ["cancelled", "cleaned"]
    story.cancel()
    story.wake()
    await turns()
    assert seen == ["cancelled", "cleaned"]


async def test_cancelling_before_the_first_line(stories: Stories) -> None:
    """A story that has not begun never does, as a task."""
    seen: list[str] = []

    async def tell(story: Story) -> None:
        seen.append("begun")

    begun(stories, tell).cancel()
    await turns()
    assert seen == []


async def test_cancelling_when_what_it_awaits_has_just_ended(stories: Stories) -> None:
    """The result comes too late: the story hears of the cancellation, and who made the result may look at it."""
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    seen: list[str] = []

    async def tell(story: Story) -> None:
        try:
            seen.append(await future)
        except asyncio.CancelledError:
            seen.append(f"cancelled beside {future.result()}")

    story = begun(stories, tell)
    await turns()
    future.set_result("result")
    story.cancel()
    await turns()
    assert seen == ["cancelled beside result"]


@pytest.mark.parametrize("wait", [on_moment, on_future])
async def test_a_story_that_cancels_itself(stories: Stories, wait: Telling) -> None:
    """Writing may find out that the caller has gone: the next wait ends at once."""
    seen: list[str] = []

    async def tell(story: Story) -> None:
        story.cancel()
        seen.append("still running")
        try:
            await wait(story)
        except asyncio.CancelledError:
            seen.append("cancelled")

    begun(stories, tell)
    await turns()
    assert seen == ["still running", "cancelled"]


async def test_a_fault_ends_one_story_alone(stories: Stories) -> None:
    """It is reported to the loop and to who began it, and the others of the same turn go on."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    seen: list[str] = []

    async def fails(story: Story) -> None:
        raise ValueError("a fault")

    async def tell(story: Story) -> None:
        seen.append("told")

    begun(stories, fails, lambda: seen.append("failed"))
    begun(stories, tell)
    await turns()
    assert seen == ["failed", "told"]
    (context,) = reported
    assert isinstance(context["exception"], ValueError)


async def test_what_is_put_off_comes_behind_all_stories_of_the_turn(stories: Stories) -> None:
    """Writes go out together, in order; one that fails is reported and holds up no other; outside of a turn nothing is put off."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    seen: list[str] = []

    def breaks() -> None:
        raise ValueError("a fault")

    async def tell(story: Story) -> None:
        seen.append("story")
        story.at_end(breaks)
        story.at_end(lambda: seen.append("written"))

    begun(stories, tell)
    begun(stories, tell)
    await turns()
    assert seen == ["story", "story", "written", "written"]
    assert [type(context["exception"]) for context in reported] == [ValueError, ValueError]
    stories.at_end(lambda: seen.append("at once"))
    Moment(asyncio.get_running_loop()).at_end(lambda: seen.append("at once, too"))
    assert seen[4:] == ["at once", "at once, too"]
