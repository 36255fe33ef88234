"""Which fields cross the gateway."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.headers import Kind, Names, field_line, named_in_connection, request_kind, response_kind, without


def crosses(name: bytes, *, response: bool = False) -> bool:
    """Whether a field of this spelling travels where nothing is configured."""
    verdict = Names(response=response).learn(name)
    assert verdict is not None
    return not verdict[1] & (Kind.DROP | Kind.FORWARDED)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "Proxy-Authorization", "X-Auth-Token", "X-Subject-Token", "X-Apig-AppCode", "apikey",
        "X-API-Key", "X-Sdk-Date", "X-Sdk-Content-Sha256", "X-Sdk-Anything", "X-Security-Token", "X-HW-ID",
        "X-HW-AppKey", "X-Hw-Anything", "X-Project-Id", "X-Domain-Id", "X-Apig-Mode",
    ],
)  # fmt: skip
def test_credentials_never_cross(name: str) -> None:
    """Everything that could pass for a credential is dropped in any case, and with ``_`` for any ``-``."""
    spellings = {name, name.upper(), name.lower(), name.replace("-", "_"), name.replace("-", "_", 1).swapcase()}

    assert [spelling for spelling in spellings if crosses(spelling.encode())] == []


@pytest.mark.parametrize(
    "name",
    [
        "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "TE", "Trailer", "Transfer-Encoding",
        "Upgrade", "HTTP2-Settings",
    ],
)  # fmt: skip
def test_hop_by_hop_stays(name: str) -> None:
    """Fields of one connection do not cross, in either direction (RFC 9110 section 7.6.1)."""
    assert not crosses(name.encode())
    assert not crosses(name.lower().encode(), response=True)
    assert not crosses(name.replace("-", "_").encode())


@pytest.mark.parametrize(
    "name", ["Host", "Content-Length", "Expect", "Via", "X-Request-Id", "X-Request-Timeout", "X-Stage"]
)
def test_what_is_written_anew(name: str) -> None:
    """The gateway writes these itself."""
    assert not crosses(name.encode())


@pytest.mark.parametrize(
    "name", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Anything", "X-Real-IP"]
)
def test_where_a_request_came_from(name: str) -> None:
    """Addresses of callers leave only where a route says so."""
    assert request_kind(name.lower().encode()) is Kind.FORWARDED
    assert not crosses(name.encode())


@pytest.mark.parametrize(
    "name",
    [
        "Accept", "Accept-Encoding", "Content-Type", "Content-Encoding", "Cookie", "User-Agent", "Origin", "Range",
        "traceparent", "tracestate", "X-Anything", "X-Sdk", "X-HWY", "Api-Key-Hint", "Sec-WebSocket-Key", "Expect-CT",
    ],
)  # fmt: skip
def test_what_passes(name: str) -> None:
    """Every other end-to-end field passes."""
    assert crosses(name.encode())


@pytest.mark.parametrize("name", ["Proxy-Status", "X-Gateway-Request-Id", "Content-Length"])
def test_what_an_upstream_may_not_say(name: str) -> None:
    """Ours to say in answers."""
    assert not crosses(name.encode(), response=True)


@pytest.mark.parametrize(
    "name", ["Set-Cookie", "Date", "Server", "Vary", "X-Request-Id", "WWW-Authenticate", "Retry-After"]
)
def test_what_passes_of_answers(name: str) -> None:
    """The upstream's own fields."""
    assert crosses(name.encode(), response=True)


def test_cors_fields_of_an_upstream() -> None:
    """They are kept apart: passed on routes without CORS of their own, replaced on the others."""
    assert response_kind(b"access-control-allow-origin") is Kind.FORWARDED


@pytest.mark.parametrize("look_alike", [b"X_Request_Timeout", b"Content_Length", b"Origin_", b"Transfer_Encoding"])
def test_look_alikes_mean_nothing(look_alike: bytes) -> None:
    """A name with an underscore is never read for the real one."""
    verdict = Names(response=False).learn(look_alike)

    assert verdict is not None
    assert not verdict[1] & Kind.NOTE


@pytest.mark.parametrize("name", [b"", b" Name", b"Name ", b"Na me", b"N\xc3\xa4me", b"Na:me", b"Na\x00me", b"(Name)"])
def test_no_field_name(name: bytes) -> None:
    """What is no token is no name."""
    assert Names(response=False).learn(name) is None


def test_the_memory_is_bounded() -> None:
    """Callers choose names; remembering them never grows without end, and forgetting changes nothing."""
    names = Names(response=False)
    for number in range(10_000):
        names.learn(b"X-%d" % number)
    names.learn(b"X-" + b"long" * 100)

    assert names.learn(b"Authorization") == (b"authorization", int(Kind.NOTE | Kind.DROP))
    assert names.known.get(b"X-" + b"long" * 100) is None
    assert sum(names.known.get(b"X-%d" % number) is not None for number in range(10_000)) < 4096


@given(st.from_regex(r"\A[A-Za-z0-9_-]{1,20}\Z"))
def test_case_and_underscores_never_help(name: str) -> None:
    """Spelling a name otherwise never lets it through."""
    if not crosses(name.replace("_", "-").lower().encode()):
        assert not crosses(name.encode())
        assert not crosses(name.upper().replace("-", "_").encode())


@pytest.mark.parametrize(
    ("value", "named"),
    [
        pytest.param(b"close", set(), id="close"),
        pytest.param(b"Keep-Alive, Upgrade", set(), id="options"),
        pytest.param(b"X-A", {b"x-a"}, id="one"),
        pytest.param(b" X-A ,,close, x-b", {b"x-a", b"x-b"}, id="several"),
    ],
)
def test_named_in_connection(value: bytes, named: set[bytes]) -> None:
    """The fields that a Connection value makes hop-by-hop."""
    assert named_in_connection(value) == named


def test_without() -> None:
    """Lines go by name, case and underscores aside; the others stay in order."""
    lines = [b"X-A: 1", b"x_a: 2", b"X-B: 3", b"X-A-B: 4"]

    assert without(lines, {b"x-a"}) == [b"X-B: 3", b"X-A-B: 4"]
    assert field_line(b"A", b"b") == b"A: b"
