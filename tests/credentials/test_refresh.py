"""The life of a token, on a clock that is moved by hand."""

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.credentials import refresh
from gateway.credentials.refresh import Refresher
from gateway.credentials.token import Cause, FetchFailed, Token
from gateway.deadline import Deadline
from gateway.errors import CredentialUnavailable
from gateway.secret import Secret

from .fakes import NO_DEADLINE, START, Clock, services, settle

DAY = 86400.0


class Issuer:
    """Hands out tokens t1, t2 … of one life, or fails as told; can be made to hang until ``release``."""

    def __init__(self, clock: Clock, life_seconds: float = DAY) -> None:
        self.clock = clock
        self.life_seconds = life_seconds
        self.failure: Exception | None = None
        self.asked_at: list[float] = []
        self.refused: list[bytes | None] = []
        self.gate: asyncio.Event | None = None

    async def fetch(self, refused: bytes | None) -> Token:
        self.asked_at.append(self.clock.monotonic())
        self.refused.append(refused)
        number, failure = len(self.asked_at), self.failure
        if self.gate is not None:
            await self.gate.wait()
        if failure is not None:
            raise failure
        return Token(b"t%d" % number, self.clock.wall() + self.life_seconds)

    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.asked_at, self.asked_at[1:], strict=False)]


class House:
    """A refresher with all that it needs."""

    def __init__(self, life_seconds: float = DAY, renew_at: float = 0.8, jitter: float = 0.0) -> None:
        self.clock = Clock()
        self.issuer = Issuer(self.clock, life_seconds)
        self.refreshed: list[tuple[str, str]] = []
        self.secret = Secret("first")
        self.refresher = Refresher(
            "account",
            self.issuer.fetch,
            services(self.clock, self.refreshed),
            attempt_seconds=10.0,
            renew_at=renew_at,
            secrets=(self.secret,),
            jitter=lambda: jitter,
        )

    async def started(self) -> "House":
        self.refresher.start()
        await settle()
        return self

    def value(self) -> bytes | None:
        token = self.refresher.token()
        return None if token is None else token.value


@pytest.fixture
async def house():
    made: list[House] = []

    def make(*arguments: float, **more: float) -> House:
        made.append(House(*arguments, **more))
        return made[-1]

    yield make
    for each in made:
        await each.refresher.close()


Make = Callable[..., House]


async def test_fetched_at_start_and_renewed_at_its_share(house: Make) -> None:
    """A token of 24 hours is fetched at once and renewed after 80 % of its life, once."""
    h = await house().started()

    await h.clock.advance(0.8 * DAY - 1)
    before = len(h.issuer.asked_at)
    await h.clock.advance(2)

    assert before == 1
    assert h.issuer.gaps() == [pytest.approx(0.8 * DAY, abs=1)]
    assert h.value() == b"t2"
    assert h.refreshed == [("account", "ok")] * 2
    assert h.refresher.state().summary == "fresh"


@pytest.mark.parametrize(
    ("life", "renewed_after"),
    [
        pytest.param(7200, 5760, id="2 h: 80 %"),
        pytest.param(1000, 700, id="17 min: 5 min are left"),
        pytest.param(400, 320, id="under 10 min: 80 %"),
        pytest.param(4, 3.2, id="4 s: 80 %"),
        pytest.param(0.1, 1, id="a tenth of a second: never more than once a second"),
    ],
)
async def test_when_short_lives_are_renewed(house: Make, life: float, renewed_after: float) -> None:
    """At least 5 minutes are left where the life allows it; a short life never leads to a busy loop."""
    h = await house(life).started()

    await h.clock.advance(3.5 * renewed_after)

    assert h.issuer.gaps() == [pytest.approx(renewed_after, rel=0.01)] * 3


@given(st.floats(0.001, 1e9), st.floats(0.1, 0.95))
def test_waits_are_never_negative(life: float, renew_at: float) -> None:
    """Whatever the life and the share are, the next wait is at least a second, and ends before the token does."""

    async def run() -> None:
        h = House(life, renew_at)
        refresher = await h.started()
        pause = refresher.refresher._pause_seconds()
        usable_seconds = refresher.refresher._usable_until - START
        await refresher.refresher.close()
        assert pause >= 1.0
        assert 0 < usable_seconds <= life
        assert life < 2 or pause < usable_seconds
        assert all(seconds >= 0 for seconds in h.clock.slept)

    asyncio.run(run())


async def test_an_expired_token_never_leaves(house: Make) -> None:
    """While renewal fails the token serves to just before its expiry, and not a second longer."""
    h = await house().started()
    h.issuer.failure = FetchFailed("down")

    await h.clock.advance(DAY - 6)
    assert h.value() == b"t1"
    assert h.refresher.state().summary.startswith("stale")
    assert h.refresher.state().last_error == "down"
    await h.clock.advance(2)

    assert h.value() is None
    assert h.refresher.state().summary == "expired"
    with pytest.raises(CredentialUnavailable, match="down"):
        await h.refresher.usable(NO_DEADLINE)


async def test_a_clock_that_jumps(house: Make) -> None:
    """After the machine slept, an expired token is not sent and a new one is fetched without waiting for the old plan."""
    h = await house().started()
    await h.clock.advance(10)

    h.clock.wall_now += 2 * DAY
    assert h.value() is None
    token = await h.refresher.usable(NO_DEADLINE)

    assert token.value == b"t2"


async def test_backoff(house: Make) -> None:
    """Failures are retried for ever, from half a second doubling to half a minute."""
    h = house()
    h.issuer.failure = FetchFailed("down")
    await h.started()

    await h.clock.advance(200)

    assert h.issuer.gaps()[:8] == [pytest.approx(gap) for gap in (0.5, 1, 2, 4, 8, 16, 30, 30)]
    h.issuer.failure = None
    await h.clock.advance(31)
    assert h.value() is not None
    assert h.refresher.state().last_error is None


async def test_jitter(house: Make) -> None:
    """Gateways that fail together do not try again together."""
    h = house(jitter=1.0)
    h.issuer.failure = FetchFailed("down")
    await h.started()

    await h.clock.advance(3)

    assert h.issuer.gaps()[:2] == [pytest.approx(0.375), pytest.approx(0.75)]


@pytest.mark.parametrize(
    ("failure", "gaps"),
    [
        pytest.param(FetchFailed("no", Cause.REFUSED), [60, 120, 240, 480, 900, 900], id="refused: 1 to 15 minutes"),
        pytest.param(FetchFailed("no", Cause.LOCK_OUT), [900, 900], id="wrong password: 15 minutes"),
        pytest.param(FetchFailed("no", retry_after_seconds=77), [77, 77, 77], id="Retry-After"),
        pytest.param(FetchFailed("no", retry_after_seconds=1e9), [3600], id="Retry-After without end"),
        pytest.param(FetchFailed("no", Cause.REFUSED, retry_after_seconds=1), [60], id="Retry-After does not shorten"),
    ],
)
async def test_waits_after_failures(house: Make, failure: FetchFailed, gaps: list[float]) -> None:
    """How long to wait depends on why it failed."""
    h = house()
    h.issuer.failure = failure
    await h.started()

    await h.clock.advance(sum(gaps) + 1)

    assert h.issuer.gaps() == [pytest.approx(gap, abs=0.01) for gap in gaps]


async def test_a_wrong_password_is_not_tried_again(house: Make) -> None:
    """Requests do not bring on another attempt; a changed secret does, at once."""
    h = house()
    h.issuer.failure = FetchFailed("wrong password", Cause.LOCK_OUT)
    await h.started()
    for _ in range(10):
        with pytest.raises(CredentialUnavailable, match="wrong password") as caught:
            await h.refresher.usable(NO_DEADLINE)
    await h.clock.advance(600)
    assert len(h.issuer.asked_at) == 1
    assert caught.value.retry_after_seconds == pytest.approx(900)
    assert h.refresher.state().summary.startswith("held")

    h.issuer.failure = None
    h.secret.replace("second")
    await settle()

    assert h.value() == b"t2"


async def test_a_rotated_secret_is_tried_at_once(house: Make) -> None:
    """The old token serves until the new secret has brought a new one, and on when it does not."""
    h = await house().started()
    h.issuer.gate = asyncio.Event()
    h.secret.replace("second")
    await settle()
    assert (h.value(), len(h.issuer.asked_at)) == (b"t1", 1), "two fetches are a second apart"
    await h.clock.advance(1)
    assert (h.value(), len(h.issuer.asked_at)) == (b"t1", 2)
    h.issuer.gate.set()
    await settle()
    assert h.value() == b"t2"

    h.issuer.failure = FetchFailed("wrong password", Cause.LOCK_OUT)
    h.secret.replace("wrong")
    await h.clock.advance(60)

    assert (h.value(), len(h.issuer.asked_at)) == (b"t2", 3)
    assert h.refresher.state().usable
    assert h.refresher.state().last_error == "wrong password"


async def test_a_secret_that_changes_while_it_is_tried(house: Make) -> None:
    """The attempt under way ends with the old one; then the new one is tried."""
    h = house()
    h.issuer.gate = asyncio.Event()
    h.issuer.failure = FetchFailed("wrong password", Cause.LOCK_OUT)
    await h.started()
    h.secret.replace("second")
    h.issuer.failure = None
    h.issuer.gate.set()
    await settle()

    assert h.value() == b"t2"
    assert len(h.issuer.asked_at) == 2


async def test_nothing_brings_about_a_storm(house: Make) -> None:
    """Rotations, refusals and requests without end: never more than 8 attempts in 10 seconds."""
    h = await house().started()
    for number in range(400):
        h.secret.replace(f"secret {number}")
        h.issuer.failure = FetchFailed("no") if number % 3 else None
        token = h.value()
        if token is not None:
            await h.refresher.replace(token, Deadline(h.clock.monotonic()), drop=True)
        await h.clock.advance(0.1)

    asked = h.issuer.asked_at
    assert max(sum(1 for other in asked if 0 <= other - each < 10) for each in asked) <= 8
    assert len(asked) > 16, "and it goes on"


async def test_how_long_a_lock_out_still_counts(house: Make) -> None:
    """Where somebody else was refused earlier, the rest of that wait is enough."""
    h = house()
    h.issuer.failure = FetchFailed("wrong password", Cause.LOCK_OUT, retry_after_seconds=100)
    await h.started()
    assert h.refresher.state().summary == "held until the secret changes or 2 minutes have passed"
    h.issuer.failure = None

    await h.clock.advance(101)

    assert h.value() == b"t2"


async def test_one_fetch_for_everybody(house: Make) -> None:
    """However many wait, one fetch is made, and a caller who leaves does not cancel it for the others."""
    h = house()
    h.issuer.gate = asyncio.Event()
    await h.started()
    waiting = [asyncio.create_task(h.refresher.usable(NO_DEADLINE)) for _ in range(50)]
    await settle()
    for task in waiting[:25]:
        task.cancel()
    await settle()

    h.issuer.gate.set()
    tokens = await asyncio.gather(*waiting[25:])

    assert {token.value for token in tokens} == {b"t1"}
    assert len(h.issuer.asked_at) == 1


async def test_waiting_has_an_end(house: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request waits for an attempt for so long and no longer, and never past its own deadline."""
    h = house()
    h.issuer.gate = asyncio.Event()
    await h.started()
    loop = asyncio.get_running_loop()

    monkeypatch.setattr(refresh, "_WAIT_SECONDS", 0.05)
    began = loop.time()
    with pytest.raises(CredentialUnavailable, match="under way") as caught:
        await h.refresher.usable(NO_DEADLINE)
    waited = loop.time() - began
    monkeypatch.setattr(refresh, "_WAIT_SECONDS", 60)
    with pytest.raises(CredentialUnavailable):
        await h.refresher.usable(Deadline(h.clock.monotonic() + 0.05))
    with pytest.raises(CredentialUnavailable):
        await h.refresher.usable(Deadline(h.clock.monotonic() - 1))

    assert 0.04 < waited < 2
    assert loop.time() - began < 10
    assert caught.value.retry_after_seconds == 1
    assert len(h.issuer.asked_at) == 1


async def test_an_attempt_has_an_end() -> None:
    """A fetch that hangs is given up, and the next one is made."""
    clock = Clock()
    issuer = Issuer(clock)
    issuer.gate = asyncio.Event()
    refresher = Refresher("a", issuer.fetch, services(clock), attempt_seconds=0.05, renew_at=0.8, jitter=lambda: 0)
    refresher.start()
    with pytest.raises(CredentialUnavailable, match=r"no answer within 0\.05s"):
        await refresher.usable(NO_DEADLINE)
    issuer.gate.set()
    await clock.advance(1)

    assert refresher.token() is not None
    await refresher.close()


async def test_before_start_nothing_is_fetched(house: Make) -> None:
    """A command that only looks does not knock at the issuer's door."""
    h = house()

    with pytest.raises(CredentialUnavailable, match="none was obtained yet"):
        await h.refresher.usable(NO_DEADLINE)

    assert not await h.refresher.replace(b"x", NO_DEADLINE, drop=True)
    assert h.issuer.asked_at == []


async def test_replace(house: Make) -> None:
    """A refused token is dropped and fetched anew once for everybody; who comes late is told that it is done."""
    h = await house().started()

    outcomes = await asyncio.gather(*(h.refresher.replace(b"t1", NO_DEADLINE, drop=True) for _ in range(20)))

    assert outcomes == [True] * 20
    assert h.value() == b"t2"
    assert await h.refresher.replace(b"t1", NO_DEADLINE, drop=True)
    assert h.issuer.refused == [None, b"t1"]


async def test_replace_while_the_issuer_is_down(house: Make) -> None:
    """A dropped token is not sent again; one that is only doubted goes on serving."""
    h = await house().started()
    h.issuer.failure = FetchFailed("down")

    assert not await h.refresher.replace(b"t1", NO_DEADLINE, drop=False)
    assert h.value() == b"t1"
    assert not await h.refresher.replace(b"t1", NO_DEADLINE, drop=True)
    assert h.value() is None
    assert len(h.issuer.asked_at) == 2, "the wait after a failure holds for refusals too"
    h.issuer.failure = None
    await h.clock.advance(1)
    assert h.value() == b"t3"


async def test_the_same_token_again_is_no_cure(house: Make) -> None:
    """An issuer that hands out the refused token once more has not helped."""
    h = await house().started()

    async def same(refused: bytes | None) -> Token:
        return Token(b"t1", h.clock.wall() + DAY)

    h.refresher._fetch = same

    assert not await h.refresher.replace(b"t1", NO_DEADLINE, drop=False)


async def test_a_slow_earlier_fetch_does_not_win(house: Make) -> None:
    """An older attempt's token never replaces a newer one's."""
    h = await house().started()
    assert await h.refresher.replace(b"t1", NO_DEADLINE, drop=True)

    h.refresher._adopt(Token(b"old", h.clock.wall() + 2 * DAY), 1)

    assert h.value() == b"t2"


async def test_an_expired_answer_is_a_failure(house: Make) -> None:
    """What has expired on arrival is not taken, and the token in use stays."""
    h = await house().started()
    h.issuer.life_seconds = 0.0

    assert not await h.refresher.replace(b"t1", NO_DEADLINE, drop=False)

    assert h.value() == b"t1"
    assert "clock" in (h.refresher.state().last_error or "")


async def test_renewal_cannot_end(house: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Neither an unforeseen error nor a cancelled task ends renewal, and no foreign text gets into the log."""
    h = house()
    h.issuer.failure = RuntimeError("X-Subject-Token: planted-token")
    await h.started()
    assert h.value() is None

    h.issuer.failure = None
    await h.clock.advance(1)
    assert h.value() == b"t2"
    assert h.refresher._loop_task is not None
    h.refresher._loop_task.cancel()
    await asyncio.sleep(1.2)
    await h.clock.advance(DAY)

    assert h.value() == b"t3"
    assert "RuntimeError" in caplog.text
    assert "planted-token" not in caplog.text


async def test_a_cancelled_attempt_is_a_failure(house: Make) -> None:
    """Whoever cancels the attempt does not leave the credential without a next one."""
    h = house()
    h.issuer.gate = asyncio.Event()
    await h.started()
    assert h.refresher._attempt is not None

    h.refresher._attempt.cancel()
    await settle()
    h.issuer.gate.set()
    await h.clock.advance(1)

    assert h.value() == b"t2"
    assert h.refreshed == [("account", "failed"), ("account", "ok")]


async def test_closing(house: Make) -> None:
    """Closing ends everything, also in the middle of an attempt, and nothing begins again."""
    h = house()
    h.issuer.gate = asyncio.Event()
    await h.started()

    await h.refresher.close()
    await h.clock.advance(DAY)

    assert len(h.issuer.asked_at) == 1
    assert h.refreshed == []
    with pytest.raises(CredentialUnavailable):
        await h.refresher.usable(NO_DEADLINE)


async def test_other_processes(house: Make) -> None:
    """Workers ask one process: one fetch, however many ask, and again only for a token that was refused."""
    h = await house().started()
    obtain: Callable[[bytes | None], Awaitable[Token]] = h.refresher.obtain

    first = await asyncio.gather(*(obtain(None) for _ in range(4)))
    second = await asyncio.gather(*(obtain(b"t1") for _ in range(4)))

    assert {token.value for token in first} == {b"t1"}
    assert {token.value for token in second} == {b"t2"}
    assert len(h.issuer.asked_at) == 2
    h.issuer.failure = FetchFailed("wrong password", Cause.LOCK_OUT)
    for _ in range(4):
        with pytest.raises(FetchFailed, match="wrong password") as caught:
            await obtain(b"t2")
    assert len(h.issuer.asked_at) == 3
    assert caught.value.retry_after_seconds == pytest.approx(900)


async def test_a_token_shows_nothing() -> None:
    """A token in an exception's local variables or a log line does not show its value."""
    assert "planted" not in repr(Token(b"planted", math.inf))
