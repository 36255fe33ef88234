"""Paths and queries: refused where they have two readings, else brought into one canonical form."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadPath
from gateway.paths import canonical_path, canonical_query, refuse_ambiguous_path, refuse_ambiguous_query

DOTS = [
    "/.",
    "/..",
    "/a/./b",
    "/a/../b",
    "/a/..",
    "/a/%2e/b",
    "/a/%2E%2e/b",
    "/a/.%2E/b",
    "/a/%2e./b",
    "/a/%252e%252e/b",
    "/a/%25252E./b",
    "/a/%2%65/b",
    "/a/..%2fb",
    "/a%2f../b",
    "/a%2f..%2fb",
    "/a%252f..%252fb",
    "/a/..;/b",
    "/a/.;v=1",
    "/a/..%3Bv=1/b",
    "/..%255cb",
]
CONTROLS = ["/a%00", "/a%0d%0ab", "/a%1F", "/a%7f", "/a\x00", "/a\r\nb", "/a\x7f", "/a b", "/a\tb"]
BACKSLASHES = ["/a\\b", "/a%5cb", "/a%5Cb", "\\a"]
NOT_ASCII = ["/\xe4", "/\x80", "/\xff"]
BROKEN = ["/%", "/a%2", "/%zz", "/%%41", "/a%u0041"]
NOT_UTF8 = ["/%FF", "/%c0%ae", "/%ed%a0%80", "/%e4%bd"]


@pytest.mark.parametrize(
    "raw_path",
    [
        *DOTS,
        *CONTROLS,
        *BACKSLASHES,
        *NOT_ASCII,
        *BROKEN,
        *NOT_UTF8,
        "",
        "a",
        "*",
        "/a#b",
        "/a?b",
        "/%2525252525252525",
    ],
    ids=ascii,
)
def test_ambiguous_paths_are_refused(raw_path: str) -> None:
    """A path that two servers may read differently is 400, and the message repeats none of its odd bytes."""
    with pytest.raises(BadPath) as caught:
        refuse_ambiguous_path(raw_path)

    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "raw_path",
    [
        "/",
        "/v1/infers/f2682a1c-5f5e-4c7b-9d43-2d1f7a9b8f42/",
        "/a//b",
        "/a/.hidden",
        "/a/..hidden/...",
        "/a/b..",
        "/v1.2/x",
        "/a%2fb",
        "/org%252Fmodel",
        "/%E4%BD%A0%e5%a5%bd",
        "/a:b@c!$&'()*+,;=~-_./x",
        "/100%25",
        '/{"<>|^`[]',
        "/%20",
    ],
)
def test_plain_paths_pass(raw_path: str) -> None:
    """What has one reading is let through, whatever else it looks like."""
    refuse_ambiguous_path(raw_path)


def test_the_longest_paths_cost_little() -> None:
    """An escape within an escape within an escape does not cost the square of its length."""
    with pytest.raises(BadPath):
        refuse_ambiguous_path("/%" + "25" * 30_000)


@pytest.mark.parametrize(
    "raw_query",
    [*(path[1:] for path in CONTROLS + NOT_ASCII + BROKEN + NOT_UTF8), "a\\b", "a=%5C", "a=1#b"],
    ids=ascii,
)
@pytest.mark.parametrize("check", [refuse_ambiguous_query, canonical_query], ids=["passed on", "signed"])
def test_ambiguous_queries_are_refused(check, raw_query: str) -> None:
    """The same bytes are refused in a query, on every route."""
    with pytest.raises(BadPath):
        check(raw_query)


@pytest.mark.parametrize("raw_query", ["", "a=1&a=2", "=v", "&&", "a=../..", "q=%E4%B8%AD+%20;", "u=/p?x:y@z", "%2F"])
def test_plain_queries_pass(raw_query: str) -> None:
    """Off signed routes a query needs no agreed canonical form."""
    refuse_ambiguous_query(raw_query)


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        pytest.param("", "/", id="no path"),
        pytest.param("/", "/", id="root"),
        pytest.param("/v1/x", "/v1/x", id="no slash is added: it is only signed"),
        pytest.param("/v1/x/", "/v1/x/", id="a slash is kept"),
        pytest.param("/%e4%bd%a0/%2b", "/%E4%BD%A0/%2B", id="upper-case escapes"),
        pytest.param("/%7Eu/%41%2D%5F%2Ex", "/~u/A-_.x", id="unreserved are decoded"),
        pytest.param("/a:b@c!$&'()*+,;=", "/a%3Ab%40c%21%24%26%27%28%29%2A%2B%2C%3B%3D", id="reserved are encoded"),
        pytest.param("/org%252Fmodel", "/org%252Fmodel", id="decoded once only"),
        pytest.param("/a/.hidden", "/a/.hidden", id="leading dot"),
        pytest.param("/100%25", "/100%25", id="percent"),
    ],
)
def test_canonical_path(path: str, canonical: str) -> None:
    """The path of a signed route leaves decoded once and encoded again."""
    assert canonical_path(path) == canonical


@pytest.mark.parametrize(
    "path", ["//", "/a//b", "/a//", "/a%2Fb", "/a%2f", *DOTS, *BACKSLASHES, *BROKEN, *NOT_UTF8], ids=ascii
)
def test_paths_without_an_agreed_canonical_form(path: str) -> None:
    """What signers disagree about is refused on signed routes."""
    with pytest.raises(BadPath):
        canonical_path(path)


@pytest.mark.parametrize(
    ("raw_query", "canonical"),
    [
        pytest.param("", "", id="bare question mark"),
        pytest.param("a=1", "a=1", id="plain"),
        pytest.param("b=2&a=1&B=3&_x=4&1=5", "1=5&B=3&_x=4&a=1&b=2", id="sorted by code point"),
        pytest.param("flag&b=1", "b=1&flag=", id="a key alone gets an equals sign"),
        pytest.param("a=3&a=1&b=0&a=2", "a=1&a=2&a=3&b=0", id="repeated key by value"),
        pytest.param("a=&a=1&a&a=1", "a=&a=&a=1&a=1", id="repeated key, empty values"),
        pytest.param("a-=1&a=2", "a=2&a-=1", id="by key, not by pair"),
        pytest.param("q=a+b", "q=a%20b", id="plus is a space"),
        pytest.param("q=a%2Bb", "q=a%2Bb", id="an encoded plus is a plus"),
        pytest.param("a=1;b=2", "a=1%3Bb%3D2", id="semicolon is text"),
        pytest.param("sig=a=b==&t=1", "sig=a%3Db%3D%3D&t=1", id="split at the first equals sign"),
        pytest.param("u=/p?x:y@z", "u=%2Fp%3Fx%3Ay%40z", id="reserved"),
        pytest.param("q=~*-_.", "q=~%2A-_.", id="unreserved"),
        pytest.param("a/b=1&a.b=2", "a.b=2&a%2Fb=1", id="order of the decoded key"),
        pytest.param("%E4%B8%AD=1&z=2", "z=2&%E4%B8%AD=1", id="order of a key outside ASCII"),
        pytest.param("%F0%9F%98%80=1&%EF%BF%BD=2", "%EF%BF%BD=2&%F0%9F%98%80=1", id="code points, not UTF-16 units"),
        pytest.param("%61%7E=%41%2e", "a~=A.", id="needless escapes"),
        pytest.param("a%26b=c%3Dd", "a%26b=c%3Dd", id="encoded separators stay encoded"),
    ],
)
def test_canonical_query(raw_query: str, canonical: str) -> None:
    """The query of a signed route leaves sorted, with one spelling for each character."""
    assert canonical_query(raw_query) == canonical


@pytest.mark.parametrize("raw_query", ["&", "a=1&", "&a=1", "a=1&&b=2", "=v", "=", "a=1&=", "+=1&="])
def test_queries_without_an_agreed_canonical_form(raw_query: str) -> None:
    """Empty pairs and empty keys are refused on signed routes."""
    with pytest.raises(BadPath):
        canonical_query(raw_query)


TARGETS = st.text(
    st.one_of(st.sampled_from("%/.;=&+~ab25eEfF?"), st.characters(min_codepoint=0, max_codepoint=255)), max_size=40
)


@given(TARGETS)
def test_canonical_path_is_stable(text: str) -> None:
    """Canonical of canonical is the same, passes every check, and names the same resource."""
    path = "/" + text
    try:
        canonical = canonical_path(path)
    except BadPath:
        return

    refuse_ambiguous_path(canonical)
    assert canonical_path(canonical) == canonical
    assert unquote(canonical) == unquote(path)


@given(TARGETS)
def test_canonical_query_is_stable(text: str) -> None:
    """Canonical of canonical is the same, and passes every check."""
    try:
        canonical = canonical_query(text)
    except BadPath:
        return

    refuse_ambiguous_query(canonical)
    assert canonical_query(canonical) == canonical


@given(st.lists(st.tuples(st.text("ab/.中😀 +%", min_size=1, max_size=4), st.text("ab=&+ é", max_size=4)), min_size=1))
def test_nothing_of_a_query_is_lost(pairs: list[tuple[str, str]]) -> None:
    """Every pair leaves, in order of its decoded text."""
    raw = "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in pairs)

    left = [pair.partition("=") for pair in canonical_query(raw).split("&")]

    assert [(unquote(key), unquote(value)) for key, _, value in left] == sorted(pairs)


@given(
    st.lists(st.sampled_from([".", "..", "%2e", "%2E.", "%252e", ".%25252e"]), min_size=1), st.text("ab/", max_size=5)
)
def test_no_spelling_of_dots_gets_through(spellings: list[str], rest: str) -> None:
    """One or two dots between slashes are found in every mixture of spellings."""
    segment = "".join(spellings)
    dots = segment
    for _ in range(5):
        dots = unquote(dots)
    if dots not in (".", ".."):
        return

    with pytest.raises(BadPath):
        refuse_ambiguous_path(f"/a/{segment}/{rest}")
