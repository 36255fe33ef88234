"""Paths: whatever is accepted stays below its base, however often a server behind us decodes it."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.paths import canonical_path, canonical_query
from gateway.routes import Route, RouteTable, UpstreamUrl
from tests.fuzz.rules import below
from tests.properties.bounds import bounded

_BASE = "/v1/infers/svc"
# What dots, slashes and backslashes have been written as.
parts = st.sampled_from(
    ["/", "/", "/", ".", ".", "..", "a", "%2e", "%2E", "%252e", "%25252e", "%2f", "%2F", "%252f", "%5c", "\\", ";", ";v=1", "%3b", "%253b", "%", "%25", "%00",
        "%c0%ae", "%e0%80%ae", "%ef%bc%8e", "%u002e", "%2", "%2e%", " ", "%20", "\t", "#", "?", "~", "%7f", "\xe9", "%C3%A9", "%2525252525252e", "b"]
)  # fmt: skip
paths = st.lists(parts, max_size=10).map("".join)


def table(*, signed: bool) -> RouteTable:
    def route(name: str, prefix: str) -> Route:
        url = UpstreamUrl("http", "127.0.0.1", 80, "127.0.0.1", _BASE + prefix)
        return Route(name, prefix, url, None, signed=signed)

    return RouteTable([route("a", "/a"), route("deep", "/a/b"), route("other", "/other")])


def left(raw_path: str, *, signed: bool) -> str | None:
    try:
        return table(signed=signed).match(raw_path).upstream_path
    except GatewayError:
        return None


@bounded
@given(paths, st.booleans())
def test_nothing_escapes(tail: str, signed: bool) -> None:
    """A path that is accepted leaves below the base of its route, after any number of decodings too."""
    raw = "/a" + tail
    path = left(raw, signed=signed)

    if path is not None:
        base = _BASE + ("/a/b" if raw == "/a/b" or raw.startswith("/a/b/") else "/a")
        assert below(base, path) == []
        if not signed:
            assert path == _BASE + raw


@bounded
@given(paths)
def test_canonical_paths_stand_still(tail: str) -> None:
    """The canonical form of a canonical form is itself, so a second proxy signs and sends the same."""
    try:
        canonical = canonical_path("/a" + tail)
    except GatewayError:
        return

    assert canonical_path(canonical) == canonical


@bounded
@given(st.lists(st.sampled_from(["a", "b", "=", "&", "+", ";", "%20", "%26", "%3D", "%2B", "é", "%C3%A9", "~", "%7E", "/", "?", ":"]), max_size=10).map("".join))  # fmt: skip
def test_canonical_queries_stand_still(query: str) -> None:
    """The same for queries."""
    try:
        canonical = canonical_query(query)
    except GatewayError:
        return

    assert canonical_query(canonical) == canonical
    assert set(canonical) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~%=&")
