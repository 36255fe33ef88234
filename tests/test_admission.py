"""gateway.admission: in-flight limits, rates and breakers, on a clock that a test moves."""

import pytest

from gateway.admission import Admission, Breaker, BreakerState, TokenBucket, verdict
from gateway.config import Caller
from gateway.errors import (
    BodyTooLarge,
    CircuitOpen,
    CredentialUnavailable,
    DeadlineExceeded,
    Overloaded,
    RateLimited,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.routes import Breaker as BreakerSettings
from gateway.routes import Limits, Rate, Route, UpstreamUrl

UPSTREAM = UpstreamUrl("https", "example.com", 443, "example.com", "")


class Clock:
    """Monotonic seconds that stand still until moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def route(name: str = "poetry", *, breaker: BreakerSettings | None = None, **limits: object) -> Route:
    return Route(name, f"/{name}", UPSTREAM, None, limits=Limits(**limits), breaker=breaker)  # type: ignore[arg-type]


def admission(
    clock: Clock, *routes: Route, in_flight: int | None = None, callers: tuple[Caller, ...] = ()
) -> Admission:
    made = Admission(clock)
    made.reconfigure(in_flight, routes, callers)
    return made


def test_bucket_waits_exactly() -> None:
    """A burst passes at once; then take() says to the second when the next token is there, and keeps its word."""
    clock = Clock()
    bucket = TokenBucket(Rate(per_second=3, burst=2), clock)

    assert [bucket.take(), bucket.take()] == [0.0, 0.0]
    for _ in range(1000):
        wait_seconds = bucket.take()
        assert wait_seconds == pytest.approx(1 / 3)
        clock.now += wait_seconds
        assert bucket.take() == 0.0


def test_bucket_saves_no_more_than_its_burst() -> None:
    """A quiet hour is worth one burst."""
    clock = Clock()
    bucket = TokenBucket(Rate(per_second=10, burst=4), clock)
    clock.now += 3600

    assert sum(bucket.take() == 0.0 for _ in range(100)) == 4


def test_without_limits_everything_passes_and_is_counted() -> None:
    """No limit refuses nothing; in flight is known all the same."""
    door = admission(Clock(), route())
    gate = door.routes["poetry"]

    tickets = [door.enter(gate, None) for _ in range(5000)]

    assert (door.in_flight, gate.in_flight, set(tickets)) == (5000, 5000, {0})
    for ticket in tickets:
        door.leave(gate, None, ticket)
    assert (door.in_flight, gate.in_flight) == (0, 0)


@pytest.mark.parametrize(
    ("process", "limits", "caller", "setting"),
    [
        pytest.param(2, {}, Caller("a"), "process.in_flight", id="process"),
        pytest.param(None, {"in_flight": 2}, Caller("a"), "limits.in_flight", id="route"),
        pytest.param(None, {}, Caller("a", in_flight=2), "callers.in_flight", id="caller"),
    ],
)
def test_in_flight(process: int | None, limits: dict[str, object], caller: Caller, setting: str) -> None:
    """At the limit the next is refused with the setting's name, and let in again when one has left."""
    door = admission(Clock(), route(**limits), in_flight=process, callers=(caller,))
    gates = door.routes["poetry"], door.callers["a"]
    door.enter(*gates)
    door.enter(*gates)

    with pytest.raises(Overloaded) as refused:
        door.enter(*gates)

    assert refused.value.setting == setting
    assert setting in refused.value.message
    assert refused.value.retry_after_seconds == 1.0
    assert (door.in_flight, gates[0].in_flight, gates[1].in_flight) == (2, 2, 2)
    door.leave(*gates)
    door.enter(*gates)


@pytest.mark.parametrize(
    ("limits", "caller", "setting"),
    [
        pytest.param({"rate": Rate(2, 1)}, Caller("a"), "limits.rate", id="route"),
        pytest.param({}, Caller("a", rate=Rate(2, 1)), "callers.rate", id="caller"),
    ],
)
def test_rate(limits: dict[str, object], caller: Caller, setting: str) -> None:
    """Over the rate it is 429 with the time to the next token, and nothing is counted in."""
    clock = Clock()
    door = admission(clock, route(**limits), callers=(caller,))
    gates = door.routes["poetry"], door.callers["a"]
    door.leave(*gates, door.enter(*gates))

    with pytest.raises(RateLimited) as refused:
        door.enter(*gates)

    assert (refused.value.setting, refused.value.retry_after_seconds) == (setting, 0.5)
    assert (door.in_flight, gates[0].in_flight, gates[1].in_flight) == (0, 0, 0)
    clock.now += 0.5
    door.enter(*gates)


def test_a_greedy_caller_spends_only_its_own_rate() -> None:
    """What a caller is refused for its own rate costs the route no token."""
    door = admission(
        Clock(), route(rate=Rate(1, 5)), callers=(Caller("greedy", rate=Rate(1, 1)), Caller("modest", rate=Rate(1, 9)))
    )
    gate = door.routes["poetry"]
    door.enter(gate, door.callers["greedy"])
    for _ in range(50):
        with pytest.raises(RateLimited):
            door.enter(gate, door.callers["greedy"])

    for _ in range(4):
        door.enter(gate, door.callers["modest"])
    with pytest.raises(RateLimited, match=r"limits\.rate"):
        door.enter(gate, door.callers["modest"])


def test_what_the_route_refuses_costs_the_caller_nothing() -> None:
    """A caller keeps its token when the route is the one that refuses."""
    clock = Clock()
    door = admission(clock, route(rate=Rate(1, 1)), route("other"), callers=(Caller("a", rate=Rate(0.001, 2)),))
    door.enter(door.routes["poetry"], door.callers["a"])
    for _ in range(10):
        with pytest.raises(RateLimited, match=r"limits\.rate"):
            door.enter(door.routes["poetry"], door.callers["a"])

    door.enter(door.routes["other"], door.callers["a"])


BREAKER = BreakerSettings(failures=3, open_seconds=10.0)


def failing_route(clock: Clock) -> Admission:
    """A route whose breaker has just opened."""
    door = admission(clock, route(breaker=BREAKER))
    gate = door.routes["poetry"]
    for _ in range(3):
        ticket = door.enter(gate, None)
        door.record(gate, ticket, False)
        door.leave(gate, None, ticket)
    return door


def test_breaker_opens_after_failures_in_a_row() -> None:
    """Only failures in a row open it; then requests are refused with the time to the probe."""
    clock = Clock()
    breaker = Breaker(BREAKER, clock)
    for succeeded in (False, False, True, False, None, False):
        breaker.record(breaker.admit(), succeeded)
    assert breaker.state is BreakerState.CLOSED

    breaker.record(breaker.admit(), False)

    assert breaker.state is BreakerState.OPEN
    clock.now += 4
    assert breaker.wait_seconds() == pytest.approx(6.0)


def test_open_breaker_refuses() -> None:
    """While open it is 503 CircuitOpen with Retry-After, and nothing is counted in."""
    clock = Clock()
    door = failing_route(clock)
    clock.now += 2.5

    with pytest.raises(CircuitOpen) as refused:
        door.enter(door.routes["poetry"], None)

    assert (refused.value.setting, refused.value.retry_after_seconds) == ("breaker", 7.5)
    assert door.in_flight == 0


def enter_all(door: Admission, count: int) -> list[int]:
    tickets = []
    for _ in range(count):
        try:
            tickets.append(door.enter(door.routes["poetry"], None))
        except CircuitOpen:
            continue
    return tickets


def test_one_probe() -> None:
    """Of twenty that come when the pause is over, exactly one goes on; its success lets everybody in again."""
    clock = Clock()
    door = failing_route(clock)
    gate = door.routes["poetry"]
    clock.now += 10.0

    (probe,) = enter_all(door, 20)

    assert gate.breaker is not None
    assert gate.breaker.state is BreakerState.HALF_OPEN
    door.record(gate, probe, True)
    assert len(enter_all(door, 20)) == 20
    door.leave(gate, None, probe)
    assert len(enter_all(door, 20)) == 20


def test_failed_probe_opens_again() -> None:
    """A probe that fails costs another whole pause, after which there is one more probe."""
    clock = Clock()
    door = failing_route(clock)
    gate = door.routes["poetry"]
    clock.now += 10.0
    (probe,) = enter_all(door, 20)

    door.record(gate, probe, False)
    door.leave(gate, None, probe)

    clock.now += 9.9
    assert enter_all(door, 20) == []
    clock.now += 0.1
    assert len(enter_all(door, 20)) == 1


def test_probe_without_a_verdict() -> None:
    """When the probe's caller leaves, the next request is the probe; the breaker does not stay shut for ever."""
    clock = Clock()
    door = failing_route(clock)
    gate = door.routes["poetry"]
    clock.now += 10.0
    (probe,) = enter_all(door, 20)

    door.leave(gate, None, probe)

    assert len(enter_all(door, 20)) == 1


def test_verdicts_from_before_do_not_count() -> None:
    """A request that was sent before the breaker opened neither closes it nor ends its probe."""
    clock = Clock()
    door = admission(clock, route(breaker=BREAKER))
    gate = door.routes["poetry"]
    slow = door.enter(gate, None)
    for ticket in enter_all(door, 3):
        door.record(gate, ticket, False)
    assert gate.breaker is not None
    assert gate.breaker.state is BreakerState.OPEN

    door.record(gate, slow, True)
    assert gate.breaker.state is BreakerState.OPEN
    clock.now += 10.0
    enter_all(door, 1)
    door.record(gate, slow, False)
    assert gate.breaker.state is BreakerState.HALF_OPEN


def test_the_probe_is_not_spent_on_a_rate() -> None:
    """A request that the rate refuses is not the probe."""
    clock = Clock()
    door = admission(clock, route(breaker=BREAKER, rate=Rate(0.001, 3)))
    gate = door.routes["poetry"]
    for ticket in enter_all(door, 3):
        door.record(gate, ticket, False)
    clock.now += 10.0

    with pytest.raises(RateLimited):
        door.enter(gate, None)

    assert gate.breaker is not None
    assert gate.breaker.wait_seconds() == 0.0


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        pytest.param(None, 200, True, id="answered"),
        pytest.param(None, 404, True, id="4xx is an answer"),
        pytest.param(None, 503, False, id="5xx"),
        pytest.param(
            UpstreamUnreachable("", proxy_status="connection_refused", sent=False), 0, False, id="no connection"
        ),
        pytest.param(UpstreamTimeout(""), 0, False, id="timeout"),
        pytest.param(DeadlineExceeded("", setting="limits.deadline"), 0, False, id="deadline"),
        pytest.param(DeadlineExceeded("", setting="X-Request-Timeout"), 0, None, id="deadline of the caller's own"),
        pytest.param(CredentialUnavailable(""), 0, None, id="nothing was sent"),
        pytest.param(BodyTooLarge(""), 0, None, id="the caller's fault"),
        pytest.param(None, 0, None, id="the caller left"),
    ],
)
def test_verdict(error: Exception | None, status: int, told: bool | None) -> None:
    """Only what the upstream did says something about it."""
    assert verdict(error, status) is told


def test_reload_keeps_what_is_in_flight() -> None:
    """New limits apply to the same gates: what is in flight, an open breaker and spent tokens stay; changed ones start anew."""
    clock = Clock()
    door = admission(clock, route(breaker=BREAKER, rate=Rate(0.001, 1)), route("gone"))
    gate, gone = door.routes["poetry"], door.routes["gone"]
    door.enter(gate, None)
    door.enter(gone, None)

    door.reconfigure(10, [route(breaker=BREAKER, rate=Rate(0.001, 1), in_flight=2)])

    assert (door.routes["poetry"], gate.in_flight, door.in_flight) == (gate, 1, 2)
    with pytest.raises(RateLimited):
        door.enter(gate, None)
    door.reconfigure(10, [route(in_flight=2)])
    door.enter(gate, None)
    with pytest.raises(Overloaded):
        door.enter(gate, None)
    door.leave(gone, None)
    assert door.in_flight == 2


def test_a_ticket_of_a_replaced_breaker_is_void() -> None:
    """A reload that changes a breaker makes a new one, to which verdicts for the old one mean nothing."""
    door = admission(Clock(), route(breaker=BREAKER))
    gate = door.routes["poetry"]
    ticket = door.enter(gate, None)

    door.reconfigure(None, [route(breaker=BreakerSettings(failures=1, open_seconds=1.0))])
    door.record(gate, ticket, False)

    assert gate.breaker is not None
    assert gate.breaker.state is BreakerState.CLOSED


def test_second_attempts_stay_below_a_tenth() -> None:
    """Ten may run ahead; from then on ten requests earn one, and a reload gives nothing away."""
    admitted = admission(Clock(), route())
    gate = admitted.routes["poetry"]

    ahead = [gate.take_retry() for _ in range(12)]
    for _ in range(9):
        admitted.leave(gate, None, admitted.enter(gate, None))
    too_early = gate.take_retry()
    admitted.reconfigure(None, [route()])
    admitted.leave(gate, None, admitted.enter(gate, None))

    assert ahead == [True] * 10 + [False] * 2
    assert not too_early
    assert [admitted.routes["poetry"].take_retry() for _ in range(2)] == [True, False]
