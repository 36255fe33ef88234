"""What YAML may hold, and where things stand in it."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.problems import Mark
from gateway.config.yaml import Unreadable, parse, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("yes", "yes", id="yes is text"),
        pytest.param("No", "No", id="no is text"),
        pytest.param("on", "on", id="on is text"),
        pytest.param("012", "012", id="a leading zero is text"),
        pytest.param("1:30", "1:30", id="base 60 is text"),
        pytest.param("190:20:30.15", "190:20:30.15", id="base 60 with a fraction is text"),
        pytest.param("1_000", "1_000", id="an underscore is text"),
        pytest.param("2026-11-21", "2026-11-21", id="a date is text"),
        pytest.param("0b11", "0b11", id="binary is text"),
        pytest.param("=", "=", id="an equals sign is text"),
        pytest.param("'12'", "12", id="quoted is text"),
        pytest.param("!!str 12", "12", id="tagged as text"),
        pytest.param("true", True, id="true"),
        pytest.param("FALSE", False, id="FALSE"),
        pytest.param("12", 12, id="whole number"),
        pytest.param("-12", -12, id="negative"),
        pytest.param("0o17", 15, id="octal of 1.2"),
        pytest.param("0xFF", 255, id="hexadecimal"),
        pytest.param("1.5", 1.5, id="number"),
        pytest.param("1e3", 1000.0, id="exponent"),
        pytest.param(".inf", float("inf"), id="infinity"),
        pytest.param("-.inf", float("-inf"), id="negative infinity"),
        pytest.param("null", None, id="null"),
        pytest.param("~", None, id="tilde"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    """Scalars read as YAML 1.2 has them."""
    document = parse(f"a: {text}\n")

    assert document.data == {"a": value}
    assert type(document.data["a"]) is type(value)
    assert document.faults == []


def test_keys_are_text() -> None:
    """A key is what is written, whatever it would be as a value."""
    assert parse("1: a\ntrue: b\n012: c\n").data == {"1": "a", "true": "b", "012": "c"}


def test_marks() -> None:
    """Every value and every key has its line and column, lists and one-line mappings included."""
    document = parse("a:\n  - b: 1\n    c: {d: x}\n")

    assert document.values["a", 0, "b"] == Mark(2, 8)
    assert document.keys["a", 0, "b"] == Mark(2, 5)
    assert document.values["a", 0, "c", "d"] == Mark(3, 12)
    assert document.mark(("a", 0, "missing")) == Mark(2, 5)


def test_aliases_and_merge_keys() -> None:
    """Anchors, aliases and merge keys work; what is written in place wins over what is merged, the earlier over the later."""
    document = parse("a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\nd: *a\ne: {<<: *a}\n")

    assert document.data["c"] == {"x": 1, "y": 3, "z": 2}
    assert document.data["d"] == document.data["e"] == {"x": 1, "y": 1}
    assert document.values["c", "x"] == Mark(1, 11)
    assert document.faults == []


@pytest.mark.parametrize(
    ("text", "mark", "where", "message"),
    [
        pytest.param(
            "a: 1\na: 2\n", Mark(2, 1), ("a",), "this key stands here twice, first in line 1", id="duplicate key"
        ),
        pytest.param(
            "a: {b: 1, b: 1}\n",
            Mark(1, 11),
            ("a", "b"),
            "this key stands here twice, first in line 1",
            id="on one line",
        ),
        pytest.param(
            "a: !secret hunter2\n",
            Mark(1, 4),
            ("a",),
            "tags (!…) have no meaning here; text with signs at its beginning needs quotes",
            id="tag",
        ),
        pytest.param(
            "a: !!python/object:os.system {}\n",
            Mark(1, 4),
            ("a",),
            "tags (!…) have no meaning here",
            id="tagged mapping",
        ),
        pytest.param(
            "a: !!int 012\n", Mark(1, 4), ("a",), "this is not a whole number that can be read", id="tagged number"
        ),
        pytest.param("? [x]\n: 1\n", Mark(1, 3), (), "a key is plain text", id="a list as a key"),
        pytest.param(
            "a: {<<: 3}\n", Mark(1, 9), ("a",), "<< takes a mapping, as in <<: *defaults", id="merging a number"
        ),
    ],
)
def test_faults(text: str, mark: Mark, where: tuple[str, ...], message: str) -> None:
    """What YAML allows and a configuration does not is noted with its place."""
    assert parse(text).faults == [(mark, where, message)]


@pytest.mark.parametrize(
    ("text", "mark", "message"),
    [
        pytest.param("", None, "the file is empty", id="empty"),
        pytest.param("# only a comment\n", None, "the file is empty", id="only a comment"),
        pytest.param("- a\n", Mark(1, 1), "the file's top is a mapping", id="a list"),
        pytest.param("hunter2\n", Mark(1, 1), "the file's top is a mapping", id="text"),
        pytest.param("a:\n\tb: 1\n", Mark(2, 1), "a tab; YAML is indented with spaces", id="tab"),
        pytest.param("a: b: hunter2\n", Mark(1, 5), "a colon out of place", id="two colons"),
        pytest.param(
            "a:\n  - b: 1\n   c: hunter2\n", Mark(3, 4), "the indentation fits nothing above", id="indentation"
        ),
        pytest.param("a: [1\nb: 2\n", Mark(2, 2), "this is not YAML", id="open bracket"),
        pytest.param('a: "hunter2\n', Mark(2, 1), "this is not YAML", id="open quote"),
        pytest.param("a: *hunter2\n", Mark(1, 4), "an alias (*name) without its anchor", id="unknown alias"),
        pytest.param(
            "a: &hunter2 1\nb: &hunter2 2\n", Mark(2, 4), "this anchor (&name) stands for two", id="anchor twice"
        ),
        pytest.param("a: 1\n---\nb: 2\n", Mark(2, 1), "a second document", id="two documents"),
        pytest.param("a: %hunter2\n", Mark(1, 4), "this is not YAML", id="percent sign"),
        pytest.param("a: @hunter2\n", Mark(1, 4), "this is not YAML", id="at sign"),
        pytest.param('a: "\\hunter2"\n', Mark(1, 6), "this is not YAML", id="unknown escape"),
        pytest.param(
            "listen: [::1]:8080\n", Mark(1, 10), "an address that begins with [ needs quotes", id="IPv6 without quotes"
        ),
        pytest.param("a: b\x07\n", Mark(1, 5), "a control character", id="control character"),
        pytest.param("a: &a [*a]\n", Mark(1, 4), "an alias inside the very thing it stands for", id="endless alias"),
        pytest.param(
            "a: &a {<<: *a}\n", Mark(1, 4), "an alias inside the very thing it stands for", id="endless merge"
        ),
        pytest.param("a: " + "[" * 5000, None, "nested too deep", id="nested too deep"),
        pytest.param(
            "a0: &a0 [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
            None,
            "aliases make this more than 200000 values",
            id="alias bomb",
        ),
        pytest.param(
            "a0: &a0 {x: 1}\n"
            + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)),
            None,
            "aliases make this more than 200000 values",
            id="merge bomb",
        ),
    ],
)
def test_unreadable(text: str, mark: Mark | None, message: str) -> None:
    """What cannot be read says why and where, and repeats nothing of the file."""
    with pytest.raises(Unreadable) as caught:
        parse(text)

    assert caught.value.message.startswith(message)
    assert mark is None or caught.value.mark == mark
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"\xff\xfea\x00", "this is not UTF-8", id="UTF-16"),
        pytest.param(b"a: caf\xe9\n", "this is not UTF-8", id="Latin-1"),
        pytest.param(b"a: " + b"x" * 1024 * 1024, "larger than 1MiB", id="too large"),
    ],
)
def test_unreadable_bytes(tmp_path: Path, content: bytes, message: str) -> None:
    """Bytes that are not a text of sensible size are refused."""
    (tmp_path / "c.yaml").write_bytes(content)

    with pytest.raises(Unreadable, match=message):
        read(tmp_path / "c.yaml")


def test_not_utf8_says_where(tmp_path: Path) -> None:
    """The first byte that is not UTF-8 is named by line and column, counted in characters."""
    (tmp_path / "c.yaml").write_bytes("a: 1\nü: caf".encode() + b"\xe9\n")

    with pytest.raises(Unreadable) as caught:
        read(tmp_path / "c.yaml")

    assert caught.value.mark == Mark(2, 7)


def test_byte_order_mark(tmp_path: Path) -> None:
    """A byte order mark, as some editors leave it, is no part of the text."""
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")

    assert read(tmp_path / "c.yaml").data == {"a": 1}


@pytest.mark.parametrize(
    ("name", "message"), [("nothing.yaml", "no such file"), (".", "this is a directory"), ("a\0b", "cannot be read")]
)
def test_no_file(tmp_path: Path, name: str, message: str) -> None:
    """A path without a file at its end is told what it is."""
    with pytest.raises(Unreadable, match=message):
        read(tmp_path / name)


def test_no_file_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path that leads nowhere says where it starts."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(Unreadable, match=f"relative to {tmp_path}"):
        read(Path("nothing.yaml"))


@given(st.text(alphabet=st.sampled_from("ab:-{}[]&*!|>'\"%@`#?,\n\t <~0129.xé\x00"), max_size=60))
def test_any_text_is_read_or_unreadable(text: str) -> None:
    """No text brings the reader to an end of another kind."""
    with suppress(Unreadable):
        parse(text)
