"""Whether an answer is a reason to send once more, and what an upstream's clock says."""

import asyncio
from email.utils import formatdate
from typing import Any, cast

import pytest

from gateway import retry
from gateway.body import Body
from gateway.deadline import Deadline
from gateway.errors import UpstreamUnreachable
from gateway.exchange import Exchange
from gateway.outbound import Outbound, Outline
from gateway.refusals import Refusal
from gateway.refusals import Retry as Cure
from gateway.retry import ClockWatch
from gateway.routes import Match, Retry, Route, UpstreamUrl
from gateway.story import Moment
from gateway.wire.fields import split_lines
from gateway.wire.request_head import parse_request
from gateway.wire.response_head import ResponseHead, read_response

NOW = 1_700_000_000.0
NO_DEADLINE = Deadline(float("inf"))


class FakeBody:
    """Only says whether it could be sent again."""

    def __init__(self, *, replayable: bool = True) -> None:
        self.replayable = replayable


def outbound(*, replayable: bool = True, attempts: int = 2, idempotent: bool = False) -> Outbound:
    route = Route("r", "/r", UpstreamUrl("http", "h", 80, "h", ""), None, retry=Retry(attempts, idempotent))
    outline = Outline(parse_request(b"POST / HTTP/1.1\r\nHost: h"), Match(route, "/"), b"1.1 gateway")
    return Outbound(outline, cast(Body, FakeBody(replayable=replayable)), "id")


def exchange(attempts: int = 1, deadline: float = float("inf")) -> Exchange:
    loop = asyncio.new_event_loop()
    record = Exchange(Moment(loop), 0.0, "id", "POST", "/")
    loop.close()
    record.attempts, record.deadline = attempts, deadline
    return record


def answer(status: int, *fields: str) -> ResponseHead:
    return read_response(split_lines("\r\n".join([f"HTTP/1.1 {status} X", *fields]).encode()), to_head_request=False)


@pytest.mark.parametrize(
    ("status", "settings", "attempts", "looked_at"),
    [
        pytest.param(401, {}, 1, True, id="401"),
        pytest.param(401, {}, 2, True, id="401 with no attempt left"),
        pytest.param(401, {"replayable": False}, 1, True, id="401 and the body gone"),
        pytest.param(502, {"idempotent": True}, 2, False, id="no attempt left"),
        pytest.param(502, {"idempotent": True, "attempts": 1}, 1, False, id="retries off"),
        pytest.param(502, {"idempotent": True, "replayable": False}, 1, False, id="body gone"),
        pytest.param(502, {}, 1, False, id="502 where nothing may be sent twice"),
        pytest.param(502, {"idempotent": True}, 1, True, id="502 on an idempotent route"),
        pytest.param(413, {"idempotent": True}, 1, False, id="413 never"),
        pytest.param(504, {"idempotent": True}, 1, False, id="a timeout never"),
        pytest.param(429, {"idempotent": True}, 1, False, id="throttled never"),
        pytest.param(400, {"idempotent": True}, 1, False, id="400 never"),
    ],
)
def test_which_answers_are_looked_at(status: int, settings: dict[str, Any], attempts: int, looked_at: bool) -> None:
    """Only what could lead to another attempt is held back, and what a token or a signature must hear of."""
    credential = cast(Any, FakeCredential(renewed=False))

    assert retry.must_look(exchange(attempts), outbound(**settings), answer(status), credential) is looked_at


def test_a_refused_fixed_key_is_passed_on_at_once() -> None:
    """A credential with nothing to renew and nothing to lock learns nothing from a 401."""
    fixed = FakeCredential(renewed=False)
    fixed.signs = fixed.renews = False

    assert not retry.must_look(exchange(), outbound(), answer(401), cast(Any, fixed))


@pytest.mark.parametrize(
    ("sent", "settings", "attempts", "deadline", "again"),
    [
        pytest.param(False, {}, 1, 100.0, True, id="nothing was sent"),
        pytest.param(True, {}, 1, 100.0, False, id="something was sent"),
        pytest.param(True, {"idempotent": True}, 1, 100.0, True, id="sent, but idempotent"),
        pytest.param(False, {}, 2, 100.0, False, id="no attempt left"),
        pytest.param(False, {"replayable": False}, 1, 100.0, False, id="body gone"),
        pytest.param(False, {}, 1, 10.0, False, id="no time left"),
    ],
)
def test_after_a_broken_connection(
    sent: bool, settings: dict[str, Any], attempts: int, deadline: float, again: bool
) -> None:
    """Safe to send twice, and attempts, body and time are left."""
    error = UpstreamUnreachable("m.", proxy_status="connection_refused", sent=sent)

    assert retry.may_send_again(error, exchange(attempts, deadline), outbound(**settings), 10.0) is again


class FakeCredential:
    """Hears of refusals; ``renewed`` is what it says to them."""

    def __init__(self, *, renewed: bool) -> None:
        self.signs = self.renews = True
        self.renewed = renewed
        self.heard: list[Refusal] = []

    async def refused(self, _: Outbound, refusal: Refusal, __: Deadline) -> bool:
        self.heard.append(refusal)
        return self.renewed


def refusal(cure: Cure) -> Refusal:
    return Refusal(401, "APIG.0301", "class", cure is Cure.AFTER_REFRESH, cure, "label", certain=True)


@pytest.mark.parametrize(
    ("cure", "renewed", "corrected", "idempotent", "reason"),
    [
        pytest.param(Cure.AFTER_REFRESH, True, False, False, "label", id="a new token"),
        pytest.param(Cure.AFTER_REFRESH, False, True, True, None, id="no new token"),
        pytest.param(Cure.AFTER_CLOCK, False, True, False, "label", id="a corrected clock"),
        pytest.param(Cure.AFTER_CLOCK, True, False, True, None, id="a clock that was right"),
        pytest.param(Cure.IDEMPOTENT, False, False, True, "label", id="may be sent twice"),
        pytest.param(Cure.IDEMPOTENT, True, True, False, None, id="may not be sent twice"),
        pytest.param(Cure.NO, True, True, True, None, id="nothing helps"),
    ],
)
async def test_reasons(cure: Cure, renewed: bool, corrected: bool, idempotent: bool, reason: str | None) -> None:
    """Each refusal has its own cure, and the credential hears of every refusal."""
    credential = FakeCredential(renewed=renewed)
    told = refusal(cure)

    found = await retry.reason_to_retry(
        cast(Any, credential), outbound(idempotent=idempotent), told, NO_DEADLINE, exchange(), clock_corrected=corrected
    )

    assert found == reason
    assert credential.heard == [told]


class FakeSource:
    """An error body whose pieces arrive one by one."""

    def __init__(self, record: Exchange, pieces: list[bytes], *, ends: bool = True) -> None:
        self._exchange = record
        self._pieces = pieces
        self._ends = ends
        self.pumped = 0

    @property
    def ended(self) -> bool:
        return self._ends and not self._pieces

    def take(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def pump(self) -> None:
        self.pumped += 1
        asyncio.get_running_loop().call_soon(self._exchange.moment.wake)


@pytest.mark.parametrize(
    ("pieces", "length"),
    [
        pytest.param([b'{"error', b"_code", b'": 1}'], 17, id="in pieces"),
        pytest.param([], 0, id="empty"),
        pytest.param([b"x" * 10_000] * 5, 20_000, id="too long to be an error"),
    ],
)
async def test_looking_at_an_error(pieces: list[bytes], length: int) -> None:
    """As much of the body as it takes to know what it is; the upload goes on meanwhile."""
    record = Exchange(Moment(asyncio.get_running_loop()), 0.0, "id", "POST", "/")
    source = FakeSource(record, pieces)

    assert len(await retry.peek(source, record, 0.0)) == length


async def test_an_error_that_stalls_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has not come after a while is passed on as it is."""
    monkeypatch.setattr(retry, "_PEEK_SECONDS", 0.05)
    record = Exchange(Moment(asyncio.get_running_loop()), 0.0, "id", "POST", "/")

    async with asyncio.timeout(5):
        assert await retry.peek(FakeSource(record, [b"half"], ends=False), record, 0.0) == b"half"


class Skew:
    """What is known of an upstream's clock."""

    label = "https://h.example.com"
    clock_skew_seconds = 0.0


@pytest.mark.parametrize(
    ("ahead", "corrected"),
    [
        pytest.param(0, 0.0, id="right"),
        pytest.param(59, 0.0, id="the network"),
        pytest.param(-59, 0.0, id="the network, behind"),
        pytest.param(3600, 3600.0, id="an hour ahead"),
        pytest.param(-3600, -3600.0, id="an hour behind"),
    ],
)
def test_dates(ahead: int, corrected: float) -> None:
    """A Date more than a minute off is the upstream's clock."""
    skew = Skew()
    watch = ClockWatch(skew, lambda: NOW)
    date = answer(401, f"Date: {formatdate(NOW + ahead, usegmt=True)}")

    assert watch.heard(date) is (corrected != 0)
    assert skew.clock_skew_seconds == corrected
    assert watch.heard(date) is False


def test_a_clock_that_is_set_right_again() -> None:
    """The correction follows the upstream, back to nothing, too."""
    skew = Skew()
    now = NOW
    watch = ClockWatch(skew, lambda: now)

    assert watch.heard(answer(200, f"Date: {formatdate(NOW + 600, usegmt=True)}"))
    now += 10
    assert not watch.heard(answer(200, f"Date: {formatdate(NOW + 611, usegmt=True)}")), "Date counts whole seconds"
    assert watch.heard(answer(200, f"Date: {formatdate(NOW + 10, usegmt=True)}"))
    assert skew.clock_skew_seconds == 0.0


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Nov 2023 99:99:99 GMT", "0", "\xff"])
def test_dates_that_are_none(date: str) -> None:
    """What is no date says nothing."""
    skew = Skew()
    head = read_response(split_lines(f"HTTP/1.1 200 OK\r\nDate: {date}".encode("latin-1")), to_head_request=False)

    assert ClockWatch(skew, lambda: NOW).heard(head) is False
    assert skew.clock_skew_seconds == 0.0


def test_a_refusal_that_names_the_time() -> None:
    """The text of a refusal counts, too."""
    skew = Skew()
    body = b'{"error_code":"APIG.0303","error_msg":"signature expired, signature time:20231114T221320Z,server time:20231114T231320Z"}'

    assert ClockWatch(skew, lambda: NOW).told(body) is True
    assert skew.clock_skew_seconds == 3600.0
    assert ClockWatch(skew, lambda: NOW).told(b'{"error_code":"APIG.0303"}') is False
