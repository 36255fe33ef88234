"""Which route a path takes, and which path leaves."""

import pytest

from gateway.errors import BadPath, MethodNotAllowed, RouteNotFound
from gateway.routes import Route, RouteTable, UpstreamUrl, check_method


def route(prefix: str, *, base: str = "/v1/infers/S", signed: bool = False, methods: tuple[str, ...] = ()) -> Route:
    """A route named after its prefix."""
    url = UpstreamUrl("https", "h", 443, "h", base)
    return Route(prefix or "everything", prefix, url, None, signed=signed, methods=methods)


TABLE = RouteTable([route("/poetry"), route("/poetry/long"), route("/p"), route("/signed", signed=True)])


@pytest.mark.parametrize(
    ("path", "name", "leaves"),
    [
        pytest.param("/poetry", "/poetry", "/v1/infers/S", id="the prefix itself"),
        pytest.param("/poetry/", "/poetry", "/v1/infers/S/", id="with a slash"),
        pytest.param("/poetry/predictions", "/poetry", "/v1/infers/S/predictions", id="what follows is appended"),
        pytest.param("/poetry/long/x", "/poetry/long", "/v1/infers/S/x", id="the longest wins"),
        pytest.param("/poetry/longer", "/poetry", "/v1/infers/S/longer", id="a segment counts whole"),
        pytest.param("/p/oetry", "/p", "/v1/infers/S/oetry", id="a shorter one"),
        pytest.param("/poetry/%7e;a=1//b", "/poetry", "/v1/infers/S/%7e;a=1//b", id="bytes as they came"),
        pytest.param("/signed/%7e%e4%bd%a0", "/signed", "/v1/infers/S/~%E4%BD%A0", id="canonical where signed"),
    ],
)
def test_matching(path: str, name: str, leaves: str) -> None:
    """The longest prefix on segment boundaries; what follows it is appended to the upstream's path."""
    for _ in range(2):  # found, and remembered
        match = TABLE.match(path)
        assert (match.route.name, match.upstream_path) == (name, leaves)


@pytest.mark.parametrize("path", ["/", "/poetryx", "/Poetry", "/%70oetry", "/x/poetry", "//poetry"])
def test_no_match(path: str) -> None:
    """Matching is on the raw path: no case, no decoding, no merging of slashes."""
    with pytest.raises(RouteNotFound):
        TABLE.match(path)


@pytest.mark.parametrize(
    "path",
    [
        "/poetry/../admin",
        "/poetry/%2e%2e/admin",
        "/poetry/.",
        "/poetry/a\\b",
        "/poetry/%00",
        "/nowhere/../poetry",
        "poetry",
    ],
)
def test_refused_before_matching(path: str) -> None:
    """A path with two readings is refused, whether or not a route would match, and every time."""
    for _ in range(2):
        with pytest.raises(BadPath):
            TABLE.match(path)


def test_the_route_of_everything() -> None:
    """A route at ``/`` takes what no other does, its whole path appended."""
    table = RouteTable([route("", base=""), route("/a", base="/b")])

    assert table.match("/x/y").upstream_path == "/x/y"
    assert table.match("/").upstream_path == "/"
    assert table.match("/a").upstream_path == "/b"


def test_an_upstream_without_a_path() -> None:
    """A bare host gets at least a slash."""
    assert RouteTable([route("/a", base="")]).match("/a").upstream_path == "/"


def test_a_signed_route_refuses_what_cannot_be_signed() -> None:
    """Empty segments and encoded slashes have no settled canonical form."""
    for path in ("/signed/a//b", "/signed/a%2Fb"):
        with pytest.raises(BadPath):
            TABLE.match(path)
    assert TABLE.match("/poetry/a%2Fb").upstream_path == "/v1/infers/S/a%2Fb"


def test_methods() -> None:
    """Any without ``methods``; else those named, and the refusal lists them."""
    check_method(route("/a"), "DELETE")
    check_method(route("/a", methods=("GET", "POST")), "POST")

    with pytest.raises(MethodNotAllowed) as caught:
        check_method(route("/a", methods=("GET", "POST")), "HEAD")
    assert (caught.value.allow, caught.value.setting) == (("GET", "POST"), "methods")


def test_memory_does_not_grow_with_what_callers_ask_for() -> None:
    """Remembered paths are bounded, and forgetting changes nothing."""
    table = RouteTable([route("/a")])
    for number in range(20_000):
        assert table.match(f"/a/{number}").upstream_path == f"/v1/infers/S/{number}"

    assert table.match("/a/0").upstream_path == "/v1/infers/S/0"
    assert table.match("/a/" + "x" * 5000).upstream_path == "/v1/infers/S/" + "x" * 5000
    remembered = sum(len(value) for value in vars_of(table) if isinstance(value, dict))
    assert remembered <= 4096


def vars_of(table: RouteTable) -> list[object]:
    return [getattr(table, name, None) for name in dir(table) if not name.startswith("__")]
