"""The oracle itself: a judge that never convicts proves nothing."""

from dataclasses import replace
from typing import cast

import pytest

from tests.fuzz.case import Case, Step
from tests.fuzz.oracle import Judgement, judge
from tests.fuzz.pair import Observation
from tests.fuzz.places import BASE, SECRETS
from tests.fuzz.strict import Verdict, read_answer, read_request
from tests.fuzz.upstream import Seen, UpstreamLink

SENT = b"POST /code/c1-0 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nAuthorization: theirs\r\nContent-Length: 6\r\n\r\n<c1-0>"
LEFT = (
    f"POST {BASE}/code/c1-0 HTTP/1.1\r\nHost: up\r\nX-A: 1\r\nX-Request-Id: 1\r\nVia: 1.1 us\r\n"
    f"X-Apig-AppCode: {SECRETS['APP_CODE']}\r\nContent-Length: 6\r\n\r\n<c1-0>"
).encode()
SAID = b"HTTP/1.1 200 OK\r\nX-B: 1\r\nContent-Length: 6\r\n\r\n<c1-0>"
RECEIVED = b"HTTP/1.1 200 OK\r\nX-B: 1\r\nX-Gateway-Request-Id: 1\r\nX-Request-Id: 1\r\nContent-Length: 6\r\n\r\n<c1-0>"
ERROR = b'HTTP/1.1 500 E\r\nX-Gateway-Request-Id: 1\r\nProxy-Status: p\r\nContent-Length: 34\r\n\r\n{"error_code": "Gateway.Internal"}'


class Link:
    """As much of an upstream's connection as the oracle looks at."""

    def __init__(self, buffer: bytes) -> None:
        self.buffer = buffer


def judged(*, sent: bytes = SENT, left: bytes = LEFT, said: bytes = SAID, received: bytes = RECEIVED) -> Judgement:
    seen = Seen(cast(UpstreamLink, Link(left)), 0, read_request(left, ours=True), bytearray(said))
    observation = Observation(sent, received, "left", [seen] if left else [], [])
    return judge(Case([Step(sent)], []), observation)


def test_the_good() -> None:
    """An exchange in which nothing is wrong is not convicted."""
    assert judged().violations == []


BAD = [
    pytest.param({"left": LEFT.replace(b"X-A: 1\r\n", b"")}, "field lines changed", id="a field is lost"),
    pytest.param({"left": LEFT.replace(b"X-A: 1", b"X-A: 2")}, "field lines changed", id="a field is changed"),
    pytest.param({"left": LEFT.replace(b"Via", b"Authorization: theirs\r\nVia")}, "credential", id="theirs leaves"),
    pytest.param({"left": LEFT.replace(b"Via", b"X_Auth_Token: t\r\nVia")}, "credential", id="a look-alike leaves"),
    pytest.param({"left": LEFT.replace(b"our-app-code", b"their-code")}, "credential", id="another credential"),
    pytest.param({"left": LEFT.replace(b"/code/", b"/code/../")}, "dot segment", id="the path climbs"),
    pytest.param({"left": LEFT.replace(b"/c1-0 ", b"/c1-1 ")}, "became", id="another path"),
    pytest.param({"left": LEFT.replace(b": 6", b": 3")[:-3]}, "body of", id="a shorter body is completed"),
    pytest.param({"left": LEFT[:-6] + b"<c1-1>"}, "body", id="another body"),
    pytest.param({"left": LEFT.replace(b": 6", b": 6\r\nContent-Length: 6")}, "malformed", id="two lengths leave"),
    pytest.param({"sent": SENT.replace(b": 6", b": +6")}, "refused by RFC 9112", id="what is malformed is passed"),
    pytest.param({"sent": SENT[:-1]}, "completed upstream", id="a cut upload is completed"),
    pytest.param({"sent": b""}, "to nothing", id="an answer without a request"),
    pytest.param({"left": b""}, "from no upstream", id="an answer from nowhere"),
    pytest.param({"said": SAID.replace(b": 6", b": 7")}, "looks whole", id="a cut answer looks whole"),
    pytest.param({"said": SAID.replace(b": 6", b": 6, 6")}, "yet passed on", id="a bad answer is passed on"),
    pytest.param({"said": SAID.replace(b"X-B", b"X-C")}, "field lines changed", id="an answer's field is changed"),
    pytest.param({"received": RECEIVED.replace(b"<c1-0>", b"<c9-0>")}, "another exchange", id="somebody else's bytes"),
    pytest.param({"received": RECEIVED.replace(b" OK", b"")}, "malformed", id="a status line without its space"),
    pytest.param({"received": RECEIVED + RECEIVED}, "to nothing", id="one request, two answers"),
    pytest.param({"received": ERROR}, "a fault of the gateway", id="a fault of ours"),
    pytest.param({"received": RECEIVED.replace(b"X-B: 1", b"X-B: " + SECRETS["APP_CODE"].encode())}, "shown", id="a secret"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "why"), BAD)
def test_the_bad(wrong: dict[str, bytes], why: str) -> None:
    """Each way to break a promise is convicted, by its name."""
    violations = judged(**wrong).violations

    assert any(why in violation for violation in violations), violations


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        pytest.param(SENT, Verdict.WHOLE, id="whole"),
        pytest.param(SENT[:-1], Verdict.SHORT, id="inside its body"),
        pytest.param(SENT[:20], Verdict.SHORT, id="inside its head"),
        pytest.param(b"", Verdict.NOTHING, id="nothing"),
        pytest.param(SENT.replace(b"\r\n", b"\n"), Verdict.MALFORMED, id="bare line feeds"),
        pytest.param(SENT.replace(b"X-A:", b"X-A :"), Verdict.MALFORMED, id="white space before a colon"),
        pytest.param(SENT.replace(b"X-A: 1", b"X-A: 1\r\n 2"), Verdict.MALFORMED, id="a folded line"),
        pytest.param(SENT.replace(b"Host: a\r\n", b""), Verdict.MALFORMED, id="no host"),
        pytest.param(SENT.replace(b": 6", b": 6\r\nTransfer-Encoding: chunked"), Verdict.MALFORMED, id="both framings"),
    ],
)
def test_strict_requests(data: bytes, verdict: Verdict) -> None:
    """The strict reader tells whole, short and malformed apart."""
    assert read_request(data).verdict is verdict


def test_strict_answers() -> None:
    """Only the end of the connection completes a body without framing; HEAD has none; 204 announces none of ours."""
    until_close = b"HTTP/1.1 200 OK\r\n\r\nabc"

    assert read_answer(until_close, 0, b"GET", closed=True).whole
    assert not read_answer(until_close, 0, b"GET", closed=False).whole
    assert read_answer(SAID, 0, b"HEAD", closed=False).end == len(SAID) - 6
    assert read_answer(SAID.replace(b"200", b"204"), 0, b"GET", closed=False, ours=True).verdict is Verdict.MALFORMED
    assert replace(read_answer(SAID, 0, b"GET", closed=False), end=0).body == b"<c1-0>"
