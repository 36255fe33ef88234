"""gateway.callers: who is asking, and what they may use."""

from ipaddress import ip_network

import pytest

from gateway.callers import Callers
from gateway.config import Caller
from gateway.errors import CallerNotAllowed, CallerUnknown
from gateway.inbound import Fields, Peer
from gateway.secret import Secret

NOBODY = Peer("192.0.2.1")
TEAM = Caller("team-a", token=Secret("token-of-team-a"), routes=frozenset({"poetry"}))
BATCH = Caller("batch", certificate="spiffe://example/batch")
CLUSTER = Caller("cluster", networks=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
NODE = Caller("node", networks=(ip_network("10.1.2.3/32"),))
ALL = Callers((TEAM, BATCH, CLUSTER, NODE))


def bearer(token: str, name: bytes = b"Authorization", scheme: str = "Bearer") -> tuple[bytes, bytes]:
    return name, f"{scheme} {token}".encode()


@pytest.mark.parametrize(
    ("fields", "peer", "name"),
    [
        pytest.param([bearer("token-of-team-a")], NOBODY, "team-a", id="bearer token"),
        pytest.param([bearer("token-of-team-a", b"aUTHORIZATION", "bEARER")], NOBODY, "team-a", id="case is free"),
        pytest.param([(b"x-api-key", b"token-of-team-a")], NOBODY, "team-a", id="X-API-Key"),
        pytest.param(
            [(b"X-API-Key", b"wrong"), bearer("token-of-team-a")], NOBODY, "team-a", id="bearer wins over X-API-Key"
        ),
        pytest.param([bearer("dXNlcg==", scheme="Basic")], Peer("10.9.9.9"), "cluster", id="Basic is not for us"),
        pytest.param([], Peer("192.0.2.1", ("spiffe://example/batch", "CN")), "batch", id="certificate's URI"),
        pytest.param(
            [], Peer("10.0.0.1", ("other", "spiffe://example/batch")), "batch", id="certificate before address"
        ),
        pytest.param(
            [bearer("token-of-team-a")], Peer("10.0.0.1", ("spiffe://example/batch",)), "team-a", id="token first"
        ),
        pytest.param([], Peer("10.0.0.1"), "cluster", id="address"),
        pytest.param([], Peer("10.1.2.3"), "node", id="the narrowest network wins"),
        pytest.param([], Peer("::ffff:10.0.0.1"), "cluster", id="IPv4 in IPv6"),
        pytest.param([], Peer("fd00::1%eth0"), "cluster", id="IPv6 with a zone"),
        pytest.param([], Peer("10.0.0.1", ("unknown",)), "cluster", id="unknown certificate, known address"),
    ],
)
def test_known(fields: Fields, peer: Peer, name: str) -> None:
    """A caller is known by token, then certificate, then address."""
    caller = ALL.identify(fields, peer)

    assert caller is not None
    assert caller.name == name


@pytest.mark.parametrize(
    ("fields", "peer"),
    [
        pytest.param([], NOBODY, id="nothing shown"),
        pytest.param([], Peer(""), id="Unix socket"),
        pytest.param([], Peer("not an address"), id="no address"),
        pytest.param([bearer("wrong")], NOBODY, id="wrong token"),
        pytest.param([bearer("wrong")], Peer("10.0.0.1"), id="wrong token from a known address"),
        pytest.param(
            [bearer("wrong")], Peer("10.0.0.1", ("spiffe://example/batch",)), id="wrong token, known certificate"
        ),
        pytest.param([bearer("")], Peer("10.0.0.1"), id="empty token"),
        pytest.param([bearer("token-of-team-")], NOBODY, id="part of a token"),
        pytest.param([bearer("wrong"), (b"X-API-Key", b"token-of-team-a")], NOBODY, id="bearer wins even when wrong"),
        pytest.param([(b"Authorization", b"Bearer \xff\xfe")], NOBODY, id="not UTF-8"),
        pytest.param([(b"X_API_Key", b"token-of-team-a")], NOBODY, id="look-alike name"),
    ],
)
def test_unknown(fields: Fields, peer: Peer) -> None:
    """Whoever is not known gets 401, and the message repeats nothing that was shown."""
    with pytest.raises(CallerUnknown) as refused:
        ALL.identify(fields, peer)

    assert refused.value.status == 401
    assert "wrong" not in refused.value.message.replace("or wrong", "")


def test_without_callers_everybody_may() -> None:
    """No callers configured: there is nobody to ask for."""
    assert not Callers(())
    assert Callers((TEAM,))


def test_tokens_say_nothing_where_nobody_has_one() -> None:
    """With addresses alone, the key that an OpenAI client always sends is ignored."""
    caller = Callers((CLUSTER,)).identify([bearer("sk-dummy")], Peer("10.0.0.1"))

    assert caller is CLUSTER


@pytest.mark.parametrize(
    ("caller", "route", "allowed"),
    [
        pytest.param(TEAM, "poetry", True, id="named"),
        pytest.param(TEAM, "prose", False, id="not named"),
        pytest.param(BATCH, "prose", True, id="every route"),
        pytest.param(Caller("none", routes=frozenset()), "poetry", False, id="no route"),
    ],
)
def test_routes(caller: Caller, route: str, allowed: bool) -> None:
    """A caller may use its routes and gets 403, naming both, for others."""
    if allowed:
        ALL.check(caller, route)
    else:
        with pytest.raises(CallerNotAllowed, match=f"'{caller.name}' may not use route '{route}'"):
            ALL.check(caller, route)


def test_tokens_rotate() -> None:
    """From the moment a token is replaced the new one is known and the old one is not."""
    secret = Secret("old")
    callers = Callers((Caller("a", token=secret), TEAM))
    assert callers.identify([bearer("old")], NOBODY) is not None

    secret.replace("new")

    with pytest.raises(CallerUnknown):
        callers.identify([bearer("old")], NOBODY)
    caller = callers.identify([bearer("new")], NOBODY)
    assert caller is not None
    assert caller.name == "a"
    assert callers.identify([bearer("token-of-team-a")], NOBODY) is TEAM


def test_same_token_twice(caplog: pytest.LogCaptureFixture) -> None:
    """Two callers whose tokens became the same are told apart by order, and the log says so without the token."""
    first, second = Secret("same-token"), Secret("another")
    callers = Callers((Caller("first", token=first), Caller("second", token=second)))

    second.replace("same-token")

    with pytest.raises(CallerUnknown):
        callers.identify([bearer("another")], NOBODY)
    caller = callers.identify([bearer("same-token")], NOBODY)
    assert caller is not None
    assert caller.name == "first"
    assert "'first' and 'second' have the same token" in caplog.text
    assert "same-token" not in caplog.text


def test_many_addresses_are_forgotten() -> None:
    """Remembering who an address is takes bounded memory."""
    callers = Callers((CLUSTER,))
    for number in range(20_000):
        callers.identify([], Peer(f"10.0.{number // 250}.{number % 250}"))

    assert len(callers._remembered) <= 4096
