"""Header fields: no spelling of a credential crosses, in whatever company."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.request_head import parse_request
from tests.fuzz.grammar import CREDENTIAL_NAMES
from tests.fuzz.rules import folded, is_credential
from tests.properties.bounds import bounded


def spelled(name: str, random: Random) -> str:
    """The name in any case, with ``_`` for any of its hyphens."""
    return "".join(
        "_" if letter == "-" and random.random() < 0.4 else letter.upper() if random.random() < 0.5 else letter.lower()
        for letter in name
    )


credentials = st.builds(spelled, st.sampled_from(CREDENTIAL_NAMES), st.randoms(use_true_random=False))
others = st.sampled_from(["Accept", "X-A", "Cookie", "Via", "X-Request-Id", "Content-Type", "TE", "Keep-Alive", "x_a"])
connections = st.lists(st.one_of(credentials, others, st.sampled_from(["close", "keep-alive", ""])), max_size=4)


@bounded
@given(st.lists(st.one_of(credentials, others), min_size=1, max_size=8), connections)
def test_no_credential_crosses(names: list[str], named: list[str]) -> None:
    """Whatever authenticates, or could, is gone from what crosses; with ``_`` for ``-``, in any case, named in Connection or not."""
    lines = [f"{name}: theirs-{number}" for number, name in enumerate(names)]
    if named:
        lines.append("Connection: " + ", ".join(named))
    head = parse_request("\r\n".join(["GET /a HTTP/1.1", "Host: a", *lines]).encode())
    crossed = [folded(line.partition(b":")[0]) for line in head.fields.lines + head.fields.forwarded]

    assert [name for name in crossed if is_credential(name)] == []
    assert set(crossed).isdisjoint({folded(name.encode()) for name in named})
    dropped = {"via", "x-request-id", "te", "keep-alive"} | {folded(name.encode()) for name in named}
    kept = [folded(name.encode()) for name in names]
    assert crossed == [name for name in kept if not is_credential(name) and name not in dropped]


@bounded
@given(credentials)
def test_a_look_alike_is_never_believed(name: str) -> None:
    """A name with ``_`` is dropped, and never read as the field that it looks like."""
    head = parse_request(f"GET /a HTTP/1.1\r\nHost: a\r\n{name}: theirs".encode())

    noted = {key.decode(): value for key, value in head.fields.noted.items() if value == b"theirs"}
    assert all("_" not in key for key in noted)
    assert ("_" in name) == (not noted)
