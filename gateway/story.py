"""Stories: the coroutines of requests, resumed together once a turn of the event loop.

An ordinary Task for each request costs more than what most requests do: its own callback for every step, a context, an
entry in the loop's registry. Reads, stories and writes of one turn stay together this way, too.
"""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final


class Moment:
    """The single wake-up of an exchange: whoever changes something it may be waiting for calls ``wake()``.

    The exchange re-checks its conditions in a loop (``while not ready: await moment.wait()``), so one wait
    serves the upload, an early answer, back-pressure and a caller that left. Nothing is lost between a check
    and the wait, because nothing else runs in between.
    """

    __slots__ = ("_future", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        future = self._future
        if future is not None:
            self._future = None
            if not future.done():
                future.set_result(None)

    def wait(self) -> Awaitable[None]:
        """To be awaited at once, by one coroutine."""
        self._future = future = self._loop.create_future()
        return future

    def at_end(self, do: Callable[[], None]) -> None:
        """At once: only a story has others beside it, to come behind (``Stories.at_end``)."""
        do()


class Stories:
    """All stories of an event loop; those that became ready in one of its turns go on together in the next."""

    __slots__ = ("_at_end", "_ready", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ready: list[Story] = []
        self._at_end: list[Callable[[], None]] | None = None

    def soon(self, story: "Story") -> None:
        if not self._ready:
            self.loop.call_soon(self._resume)
        self._ready.append(story)

    def at_end(self, do: Callable[[], None]) -> None:
        """Do it once the stories of this turn have run, or at once where none is running.

        For writing: one write behind the other wakes their readers once, where they are on this machine; between two
        stories each write wakes them anew, which costs more than the write.
        """
        if self._at_end is None:
            do()
        else:
            self._at_end.append(do)

    def _resume(self) -> None:
        ready, self._ready = self._ready, []
        at_end = self._at_end = []
        try:
            for story in ready:
                story.resume()
        finally:
            self._at_end = None
        for do in at_end:
            try:
                do()
            except Exception as fault:
                self.report(fault)

    def report(self, fault: Exception) -> None:
        self.loop.call_exception_handler({"message": "a request ended with an exception", "exception": fault})


# What a story yields that waits for its own moment; anything else it yields is asyncio's.
_MOMENT: Final = object()


class Story(Moment):
    """One coroutine that is resumed by hand, and the moment it waits on.

    It may await futures and tasks as any coroutine. To asyncio it is no task, though: what asks for the current one, as
    ``asyncio.timeout`` does, has to run in a task of its own.
    """

    __slots__ = ("_awaited", "_cancelled", "_coroutine", "_failed", "_stories", "_waits")

    def __init__(self, stories: Stories) -> None:
        self._stories = stories
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._waits = False  # for its moment
        self._awaited: asyncio.Future[Any] | None = None
        self._cancelled = False

    def begin(self, coroutine: Coroutine[Any, Any, None], failed: Callable[[], None]) -> None:
        """Run it from the next turn on; ``failed`` is told when it ends with an exception, which is a fault of ours."""
        self._coroutine = coroutine
        self._failed = failed
        self._stories.soon(self)

    def wake(self) -> None:
        if self._waits:
            self._waits = False
            self._stories.soon(self)

    @types.coroutine
    def wait(self) -> Generator[Any, None, None]:
        yield _MOMENT

    def at_end(self, do: Callable[[], None]) -> None:
        self._stories.at_end(do)

    def cancel(self) -> None:
        """End it: ``CancelledError`` is raised where it waits; nothing happens once it has ended."""
        if self._coroutine is None or (self._awaited is not None and self._awaited.cancel()):
            return  # what it awaits comes back as cancelled
        self._cancelled = True
        self.wake()

    def resume(self) -> None:
        """Run it to where it waits next. For ``Stories`` alone."""
        coroutine = self._coroutine
        assert coroutine is not None
        try:
            if self._cancelled:
                self._cancelled = False
                awaited = coroutine.throw(asyncio.CancelledError())
            else:
                awaited = coroutine.send(None)
        except (StopIteration, asyncio.CancelledError):
            self._coroutine = None
        except Exception as fault:
            self._coroutine = None
            self._stories.report(fault)
            self._failed()
        else:
            if awaited is _MOMENT:
                self._waits = True
                if self._cancelled:  # by what it did itself
                    self.wake()
            else:
                self._await(awaited)

    def _await(self, awaited: "asyncio.Future[Any] | None") -> None:
        if awaited is None:  # asyncio.sleep(0)
            self._stories.soon(self)
            return
        # The protocol between asyncio's futures and whoever drives a coroutine (asyncio.Future.__await__).
        awaited._asyncio_future_blocking = False
        self._awaited = awaited
        awaited.add_done_callback(self._done)
        if self._cancelled and awaited.cancel():
            self._cancelled = False

    def _done(self, awaited: "asyncio.Future[Any]") -> None:
        self._awaited = None
        self._stories.soon(self)
