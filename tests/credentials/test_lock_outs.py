"""What a process knows about refused secrets."""

import asyncio

import pytest

from gateway.credentials.lock_outs import LockOuts
from gateway.credentials.token import Cause, FetchFailed

WHO = ("iam.example.com", "account", "gateway", "planted-password")


class Door:
    """Tries to get in, on a clock that is moved by hand."""

    def __init__(self) -> None:
        self.lock_outs = LockOuts()
        self.now = 0.0
        self.knocked = 0

    async def knock(self, *who: str, cause: Cause | None = None) -> None:
        async with self.lock_outs.trying(*who, now=lambda: self.now):
            self.knocked += 1
            await asyncio.sleep(0)
            if cause is not None:
                raise FetchFailed("refused", cause)


async def test_a_refused_secret_rests() -> None:
    """15 minutes, however often and by whomever it is tried, and the wait that is left is told."""
    door = Door()
    with pytest.raises(FetchFailed):
        await door.knock(*WHO, cause=Cause.LOCK_OUT)
    door.now = 100.0
    for _ in range(10):
        with pytest.raises(FetchFailed, match="refused") as caught:
            await door.knock(*WHO)

    assert door.knocked == 1
    assert caught.value.cause is Cause.LOCK_OUT
    assert caught.value.retry_after_seconds == 800.0
    door.now = 900.0
    await door.knock(*WHO)
    assert door.knocked == 2


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((*WHO[:3], "another"), id="password"),
        pytest.param((*WHO[:2], "other", WHO[3]), id="user"),
        pytest.param(("iam.example.com", "accountgateway", "", WHO[3]), id="run together"),
    ],
)
async def test_others_are_not_concerned(other: tuple[str, ...]) -> None:
    """Another secret, or another user, is tried at once."""
    door = Door()
    with pytest.raises(FetchFailed):
        await door.knock(*WHO, cause=Cause.LOCK_OUT)

    await door.knock(*other)

    assert door.knocked == 2


@pytest.mark.parametrize(("cause", "knocked"), [(Cause.LOCK_OUT, 1), (Cause.TRANSIENT, 5), (None, 5)])
async def test_together(cause: Cause | None, knocked: int) -> None:
    """Several that begin at once learn from the first one's refusal."""
    door = Door()

    await asyncio.gather(*(door.knock(*WHO, cause=cause) for _ in range(5)), return_exceptions=True)

    assert door.knocked == knocked


async def test_a_proven_secret_that_is_refused_later() -> None:
    """It was right once; from its refusal on it rests like any other."""
    door = Door()
    await door.knock(*WHO)
    with pytest.raises(FetchFailed):
        await door.knock(*WHO, cause=Cause.LOCK_OUT)
    with pytest.raises(FetchFailed):
        await door.knock(*WHO)

    assert door.knocked == 2


async def test_it_holds_no_secret_and_has_an_end() -> None:
    """Years of rotations do not fill the memory, and no password can be read out of it."""
    door = Door()
    for number in range(3000):
        with pytest.raises(FetchFailed):
            await door.knock(*WHO[:3], f"planted-{number}", cause=Cause.LOCK_OUT)

    held = vars(door.lock_outs)
    assert "planted" not in str(held)
    assert all(len(value) <= 1024 for value in held.values() if isinstance(value, dict | set))
