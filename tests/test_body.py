"""A request body: counted always, kept where it must be, never more than it may."""

import asyncio
import contextlib
import hashlib
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.body import Body, Budget
from gateway.errors import BodyTooLarge, Overloaded
from gateway.exchange import Exchange
from gateway.spool import Spools
from gateway.story import Moment


class Source:
    """A caller's body whose pieces arrive when a test lets them; afterwards it has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pieces: list[bytes], *, declared: bool) -> None:
        self.moment = Moment(loop)
        self.pieces = [piece for piece in pieces if piece]
        self.arrived: list[bytes] = []
        self.chunked = not declared
        self.content_length = sum(map(len, pieces)) if declared else None
        self.ended = not any(pieces) and declared
        self.invited = 0
        self.taken = 0

    def arrive(self, count: int | None = None) -> None:
        """Let the next pieces arrive, all of them without a count."""
        count = len(self.pieces) if count is None else count
        self.arrived += self.pieces[:count]
        del self.pieces[:count]
        if not self.arrived and not self.pieces:
            self.ended = True
        self.moment.wake()

    def take(self) -> bytes:
        data = b"".join(self.arrived)
        self.arrived.clear()
        self.taken += len(data)
        if not self.pieces:
            self.ended = True
        return data

    def invite(self) -> None:
        self.invited += 1


@contextlib.contextmanager
def opened(
    pieces: list[bytes],
    *,
    declared: bool = True,
    limit: int | None = 1000,
    replay: int = 100,
    budget: Budget | None = None,
    arrived: bool = True,
) -> Iterator[tuple[Body, Source, Exchange]]:
    """A body from these pieces, closed at the end."""
    try:
        loop = asyncio.get_running_loop()
        made = None
    except RuntimeError:
        loop = made = asyncio.new_event_loop()
    with contextlib.ExitStack() as stack:
        if made is not None:
            stack.callback(made.close)
        source = Source(loop, pieces, declared=declared)
        exchange = Exchange(source.moment, 0.0, "id", "POST", "/")
        body = Body(source, exchange, budget or Budget(None), route="r", limit_bytes=limit, replay_bytes=replay)
        stack.callback(body.close)
        if arrived:
            source.arrive()
        yield body, source, exchange


def streamed(body: Body) -> bytes:
    """Everything that ``take`` gives until the end."""
    data = b""
    while not body.ended:
        data += body.take()
    return data


FRAMINGS = pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])


@FRAMINGS
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000])
def test_streaming(declared: bool, size: int) -> None:
    """What comes goes, counted; a second time only what fits into ``replay``."""
    content = bytes(range(250)) * 4
    with opened([content[:size]], declared=declared) as (body, _, exchange):
        assert streamed(body) == content[:size]
        assert (body.received_bytes, exchange.request_bytes, body.length) == (size, size, size)
        assert body.replayable is (size <= 100)
        if body.replayable:
            body.rewind()
            assert streamed(body) == content[:size]
        assert exchange.body_mode == ("none" if size == 0 and declared else "streamed")


def test_over_the_limit_declared() -> None:
    """A declared length over the limit is refused before a byte is taken, and the message names limit and route."""
    with pytest.raises(BodyTooLarge) as caught, opened([b"x" * 1001]):
        raise AssertionError("it was opened")

    assert caught.value.setting == "limits.body"
    assert "1 kB" in caught.value.message
    assert "'r'" in caught.value.message


@pytest.mark.parametrize("how", ["take", "fits", "sha256"])
async def test_over_the_limit_on_the_way(how: str) -> None:
    """The byte that passes the limit ends the body, however it is being read."""
    with opened([b"x" * 1000, b"y"], declared=False, replay=5000) as (body, _, _), pytest.raises(BodyTooLarge):
        await {"take": take_all, "fits": lambda body: body.fits(5000), "sha256": Body.sha256}[how](body)


async def take_all(body: Body) -> None:
    streamed(body)


def test_no_limit() -> None:
    """``none`` counts and lets pass."""
    with opened([b"x" * 100_000], limit=None) as (body, _, _):
        assert len(streamed(body)) == 100_000


@FRAMINGS
@pytest.mark.parametrize("size", [0, 1, 100, 101, 900])
async def test_hashing(declared: bool, size: int) -> None:
    """The hash is of every byte; afterwards length and content are known and can be sent any number of times."""
    content = bytes(range(250)) * 4
    pieces = [content[at : at + 7] for at in range(0, size, 7)]
    pieces[-1:] = [pieces[-1][: size - 7 * (len(pieces) - 1)]] if pieces else []
    with opened(pieces, declared=declared, arrived=False) as (body, source, exchange):
        hashing = asyncio.create_task(body.sha256())
        while not hashing.done():
            await asyncio.sleep(0)
            source.arrive(1)
            await asyncio.sleep(0)

        assert hashing.result() == hashlib.sha256(content[:size]).hexdigest()
        assert body.length == size
        assert body.replayable
        for _ in range(2):
            assert streamed(body) == content[:size]
            body.rewind()
        # A body that ends with the very read that passes the mark needs no file any more.
        modes = (
            {"none"}
            if not size
            else {"memory"}
            if size <= 100
            else {"file"}
            if declared or size > 107
            else {"memory", "file"}
        )
        assert exchange.body_mode in modes


@FRAMINGS
@pytest.mark.parametrize(("size", "fits"), [(0, True), (100, True), (101, False), (500, False)])
async def test_fitting(declared: bool, size: int, fits: bool) -> None:
    """Whether a body fits is found without losing any of it: what does not is streamed on from its first byte."""
    pieces = [b"a" * min(size, 60), b"b" * max(0, size - 60)]
    with opened(pieces, declared=declared) as (body, _, exchange):
        assert await body.fits(100) is fits
        assert streamed(body) == b"".join(pieces)
        if fits and size:
            assert exchange.body_mode == "memory"


async def test_a_waiting_caller_is_invited() -> None:
    """A body that must be received whole invites a caller that waits for 100 Continue, and says whom it waits for."""
    with opened([b"abc"], arrived=False) as (body, source, exchange):
        hashing = asyncio.create_task(body.sha256())
        await asyncio.sleep(0)
        waiting = (source.invited, exchange.waits_for_caller)
        source.arrive()
        await hashing

        assert waiting == (1, True)
        assert exchange.waits_for_caller is False


async def test_declared_too_large_for_memory_is_not_collected() -> None:
    """A length known to be over the mark needs no waiting."""
    with opened([b"x" * 101], arrived=False) as (body, source, _):
        assert await body.fits(100) is False
        assert source.taken == 0


async def test_the_budget_is_shared_and_given_back() -> None:
    """Bodies held for their signature come out of one budget; the one that does not fit is told so; closing gives back."""
    budget = Budget(150)
    with opened([b"x" * 100], budget=budget) as (first, _, _):
        await first.sha256()
        assert budget.used_bytes == 100
        with opened([b"y" * 100], budget=budget) as (second, _, _), pytest.raises(Overloaded) as caught:
            await second.sha256()
        assert (caught.value.setting, caught.value.retry_after_seconds) == ("process.body_memory", 1)
        assert budget.used_bytes == 100
    assert budget.used_bytes == 0


async def test_a_body_waits_a_moment_for_room() -> None:
    """What another body gives back within a second is enough; one that fits nowhere is told so at once."""
    budget = Budget(150)
    with opened([b"x" * 100], budget=budget) as (first, _, _):
        await first.sha256()
        with opened([b"y" * 100], budget=budget) as (second, _, _):
            waiting = asyncio.create_task(second.sha256())
            await asyncio.sleep(0.05)
            assert not waiting.done()
            first.close()
            await waiting
            assert budget.used_bytes == 100
    with opened([b"z" * 151], replay=200, budget=budget) as (third, _, _), pytest.raises(Overloaded):
        async with asyncio.timeout(0.5):
            await third.sha256()
    assert budget.used_bytes == 0


async def test_who_waits_for_room_is_woken_by_room_alone() -> None:
    """Requests that end and held nothing, of which there are thousands a second, cost those who wait nothing."""
    budget = Budget(100)
    budget.take(100)
    waiting = [asyncio.create_task(budget.take_soon(count)) for count in (60, 50, 40)]
    await asyncio.sleep(0)
    woken = []
    for future in budget._waiting:
        future.add_done_callback(woken.append)

    budget.give_back(0)
    budget.give_back(30)
    await asyncio.sleep(0)
    assert woken == []

    budget.give_back(70)  # for the first and the third
    await asyncio.wait(waiting[::2], timeout=0.5)
    assert [task.done() for task in waiting] == [True, False, True]
    assert (len(woken), budget.used_bytes) == (2, 100)

    budget.give_back(60)
    await asyncio.wait_for(waiting[1], 0.5)
    assert budget.used_bytes == 90


async def test_room_that_nobody_took_goes_to_the_next() -> None:
    """A request that ends just as it was given room held nothing yet; who waits behind it gets the room at once."""
    budget = Budget(100)
    budget.take(100)
    with opened([b"y" * 60], budget=budget) as (second, _, _):
        with opened([b"x" * 60], budget=budget) as (first, _, _):
            leaving = asyncio.create_task(first.sha256())
            staying = asyncio.create_task(second.sha256())
            await asyncio.sleep(0)
            budget.give_back(60)  # for the first alone
            leaving.cancel()
            await asyncio.wait({leaving})
        await asyncio.wait_for(staying, 0.5)
        assert budget.used_bytes == 100
    assert budget.used_bytes == 40


@pytest.mark.parametrize("whole", [True, False], ids=["came with its head", "came later"])
def test_a_closed_body_holds_nothing(whole: bool) -> None:
    """Whoever still knows the request, as a credential that acts on its refusal does, keeps none of the bytes that were
    given back to the budget; and a body without them never goes out again."""
    budget = Budget(None)
    loop = asyncio.new_event_loop()
    source = Source(loop, [b"x" * 80], declared=True)
    if whole:
        source.arrive()
    body = Body(source, Exchange(source.moment, 0.0, "id", "POST", "/"), budget, "r", 1000, 100)
    source.arrive()
    body.take()
    assert (body.whole is not None, budget.used_bytes) == (whole, 80)

    body.close()
    loop.close()
    assert (body._kept, body.whole, budget.used_bytes) == ([], None, 0)
    assert not body.replayable


def test_without_budget_streams_go_on() -> None:
    """A body that is only kept for a second attempt gives that up when there is no room, and passes."""
    budget = Budget(50)
    with opened([b"x" * 80], budget=budget) as (body, _, _):
        assert streamed(body) == b"x" * 80
        assert body.replayable is False
    assert budget.used_bytes == 0


async def test_files_leave_the_budget_alone() -> None:
    """What goes to a file is not held in memory."""
    budget = Budget(200)
    with opened([b"x" * 90, b"y" * 90, b"z" * 90], declared=False, budget=budget, arrived=False) as (body, source, _):
        hashing = asyncio.create_task(body.sha256())
        for _ in range(4):
            await asyncio.sleep(0)
            source.arrive(1)
            await asyncio.sleep(0)
        await hashing

        assert budget.used_bytes == 0
        assert streamed(body) == b"x" * 90 + b"y" * 90 + b"z" * 90
        assert body.replayable


async def test_files_pass_from_body_to_body() -> None:
    """A body that takes an earlier one's file has its own bytes alone, again at a second attempt, and its own hash."""
    spools = Spools(10_000)
    for content in (b"long" * 200, b"short" * 30, b"longest" * 140):
        with opened([content[:150], content[150:]], budget=Budget(None, spools)) as (body, _, exchange):
            assert await body.sha256() == hashlib.sha256(content).hexdigest()
            assert exchange.body_mode == "file"
            for _ in range(2):
                assert streamed(body) == content
                body.rewind()
    spools.close()


def cannot_be_made(*_: Any, **__: Any) -> IO[bytes]:
    raise OSError(28, "No space left on device")


def takes_nothing(*_: Any, **__: Any) -> IO[bytes]:
    return open("/dev/full", "w+b", buffering=0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("temporary_file", [cannot_be_made, takes_nothing], ids=lambda made: made.__name__)
async def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, temporary_file: Any) -> None:
    """A temporary file that cannot hold the body: 503 that tells the operator what to do."""
    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    with opened([b"x" * 500]) as (body, _, _), pytest.raises(Overloaded) as caught:
        await body.sha256()

    assert caught.value.setting == "replay"
    assert "TMPDIR" in caught.value.message


async def test_a_disk_that_takes_only_a_part() -> None:
    """A write that ends early is a failure, never a shorter body."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened([b"x" * 500]) as (body, _, _):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        try:
            with pytest.raises(Overloaded):
                await body.sha256()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_temporary_files_have_no_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A held body leaves nothing behind, whatever becomes of the process."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with opened([b"x" * 500]) as (body, _, exchange):
        await body.sha256()

        assert exchange.body_mode == "file"
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (12 * 1024 * 1024, "12 MiB"),
        (12_000_000, "12 MB"),
        (64 * 1024, "64 KiB"),
        (1001, "1001 bytes"),
        (1 << 30, "1 GiB"),
    ],
)
def test_limits_are_said_as_they_were_written(limit: int, said: str) -> None:
    """The message has the limit in the unit in which it is a whole number."""
    loop = asyncio.new_event_loop()
    source = Source(loop, [], declared=True)
    source.content_length = limit + 1
    exchange = Exchange(source.moment, 0.0, "id", "POST", "/")
    loop.close()

    with pytest.raises(BodyTooLarge, match=f"over {said},"):
        Body(source, exchange, Budget(None), route="r", limit_bytes=limit, replay_bytes=0)


def test_nothing_is_kept_without_replay() -> None:
    """``replay: none`` keeps nothing; a body of which nothing was received can still be sent."""
    with opened([b"abc"], replay=0) as (body, _, _):
        assert body.replayable
        streamed(body)
        assert not body.replayable


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(0, 200), st.booleans(), st.integers(0, 400))
def test_any_pieces_come_out_whole_or_not_at_all(pieces: list[bytes], replay: int, declared: bool, limit: int) -> None:
    """However a body is cut: over the limit it is an error, else every byte comes out in order, twice where it can."""
    content = b"".join(pieces)
    expected = pytest.raises(BodyTooLarge) if len(content) > limit else contextlib.nullcontext()
    with expected, opened(pieces, declared=declared, limit=limit, replay=replay) as (body, _, _):
        assert streamed(body) == content
        if body.replayable:
            body.rewind()
            assert streamed(body) == content
