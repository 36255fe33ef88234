"""Where secrets come from, and how they rotate."""

import os
from pathlib import Path

import pytest

from gateway.config.secrets import SecretError, SecretStore

HIDDEN = "hunter2-do-not-print"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        pytest.param(b"abc", "abc", id="no newline"),
        pytest.param(b"abc\n", "abc", id="one newline"),
        pytest.param(b"abc\r\n", "abc", id="a Windows newline"),
        pytest.param(b" a b ", " a b ", id="spaces stay"),
        pytest.param("pässword".encode(), "pässword", id="outside ASCII"),
    ],
)
def test_file(tmp_path: Path, content: bytes, value: str) -> None:
    """A file's text is the secret, without its one trailing newline."""
    (tmp_path / "s").write_bytes(content)

    secret = SecretStore().from_file(tmp_path / "s")

    assert secret.reveal() == value
    assert secret.source == f"file {tmp_path / 's'}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\n", "is empty", id="only a newline"),
        pytest.param(HIDDEN.encode() + b"\n\n", "more than one line", id="two newlines"),
        pytest.param(HIDDEN.encode() + b"\nsecond\n", "more than one line", id="two lines"),
        pytest.param(HIDDEN.encode() + b"\r", "control characters", id="a bare carriage return"),
        pytest.param(HIDDEN.encode() + b"\x00", "control characters", id="NUL"),
        pytest.param(HIDDEN.encode() + b"\xc2\x85", "control characters", id="a C1 control"),
        pytest.param(b"\xef\xbb\xbf" + HIDDEN.encode(), "byte order mark", id="byte order mark"),
        pytest.param(HIDDEN.encode() + b"\xff", "not UTF-8", id="not UTF-8"),
        pytest.param(HIDDEN.encode() * 10000, "over 64KiB", id="too large"),
    ],
)
def test_bad_file(tmp_path: Path, content: bytes, message: str) -> None:
    """What cannot be a secret is refused by the file's name, never its content."""
    (tmp_path / "s").write_bytes(content)

    with pytest.raises(SecretError, match=message) as caught:
        SecretStore().from_file(tmp_path / "s")

    assert HIDDEN not in repr(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("value", "odd"),
    [
        pytest.param(f'"{HIDDEN}"', "stands in quotation marks", id="quotation marks"),
        pytest.param(f"'{HIDDEN}'", "stands in quotation marks", id="single ones"),
        pytest.param(f" {HIDDEN}", "begins or ends with a blank", id="a blank before"),
        pytest.param(f"{HIDDEN} ", "begins or ends with a blank", id="a blank behind"),
        pytest.param(f"Bearer {HIDDEN}", "begins with 'Bearer '", id="the scheme as well"),
        pytest.param(
            f"MAAS_API_KEY={HIDDEN}", "begins with the name of a variable and '='", id="a line of an env file"
        ),
        pytest.param(f"export KEY2={HIDDEN}", "begins with the name of a variable and '='", id="a line of the shell"),
        pytest.param(
            f'export MAAS_API_KEY="{HIDDEN}"', "begins with the name of a variable and '='", id="with quotation marks"
        ),
        pytest.param("$MAAS_API_KEY", "is '$' and the name of a variable", id="a variable that no shell replaced"),
        pytest.param("${MAAS_API_KEY}", "is '$' and the name of a variable", id="in braces"),
        pytest.param(f"Authorization: Bearer {HIDDEN}", "begins with 'Authorization:'", id="the whole header"),
        pytest.param(f"$A{HIDDEN}", None, id="a dollar sign at the beginning"),
        pytest.param(f"{HIDDEN}==", None, id="base64 padding"),
        pytest.param("QUJDREVG", None, id="base64 in capitals"),
        pytest.param("QUJDREVGR0g=", None, id="base64 with its padding"),
        pytest.param("QUJDREVG==", None, id="base64 in capitals with its padding"),
        pytest.param("MFRGG43FMQ======", None, id="base32 with its padding"),
        pytest.param(f"a={HIDDEN}", None, id="a small letter before ="),
        pytest.param(f"A-B={HIDDEN}", None, id="no name before ="),
        pytest.param(f"2A={HIDDEN}", None, id="a digit first"),
        pytest.param(f'{HIDDEN}"', None, id="one quotation mark"),
        pytest.param('"', None, id="nothing else"),
        pytest.param(HIDDEN, None, id="an ordinary one"),
    ],
)
def test_oddities(tmp_path: Path, value: str, odd: str | None) -> None:
    """A secret that was probably copied with something around it is used as it is, and asked about without its value."""
    (tmp_path / "s").write_text(value)
    store = SecretStore()
    store.from_file(tmp_path / "s")
    store.from_env("API_KEY", {"API_KEY": value})

    found = store.oddities()

    names = (f"file {tmp_path / 's'}", "environment variable API_KEY")
    assert found == [f"{name} {odd}: is that part of the secret?" for name in names if odd is not None]
    assert HIDDEN not in str(found)


def test_no_file(tmp_path: Path) -> None:
    """A missing file and a directory say so."""
    with pytest.raises(SecretError, match="cannot be read: No such file"):
        SecretStore().from_file(tmp_path / "s")
    with pytest.raises(SecretError, match="cannot be read: Is a directory"):
        SecretStore().from_file(tmp_path)
    with pytest.raises(SecretError, match="NUL"):
        SecretStore().from_file(Path("a\0b"))


def test_environment() -> None:
    """A variable's text is the secret; a missing or empty one says so."""
    store = SecretStore()

    assert store.from_env("APP_CODE", {"APP_CODE": "abc"}).reveal() == "abc"
    with pytest.raises(SecretError, match="environment variable APP_CODE is not set"):
        store.from_env("APP_CODE", {})
    with pytest.raises(SecretError, match="environment variable APP_CODE is empty"):
        store.from_env("APP_CODE", {"APP_CODE": ""})


@pytest.mark.parametrize("pasted", ["hunter2", "QTWAOYTTINDUT2QVKYUC", "sk-1234567", "a b"])
def test_a_secret_pasted_as_a_name_is_not_repeated(pasted: str) -> None:
    """What does not look like NAME_OF_A_VARIABLE may be the secret itself, and is kept out of the message."""
    with pytest.raises(SecretError, match="this environment variable is not set") as caught:
        SecretStore().from_env(pasted, {})

    assert pasted not in str(caught.value)


def test_rotation_by_symlink(tmp_path: Path) -> None:
    """A swapped symlink, as Kubernetes updates a Secret, reaches the holder, twice."""
    for version in ("one", "two", "three"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text(version)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "key").symlink_to("..data/key")
    store = SecretStore()
    secret = store.from_file(tmp_path / "key")

    for generation, version in ((1, "two"), (2, "three")):
        (tmp_path / "..tmp").symlink_to(version)
        (tmp_path / "..tmp").rename(tmp_path / "..data")

        assert store.refresh() == []
        assert (secret.reveal(), secret.generation) == (version, generation)
    assert store.refresh() == []
    assert secret.generation == 2


def test_rotation_turned_bad(tmp_path: Path) -> None:
    """A file that turned bad leaves the old value in use, is warned about once, and recovers."""
    file = tmp_path / "s"
    file.write_text(HIDDEN)
    store = SecretStore()
    secret = store.from_file(file)
    store.from_env("APP_CODE", {"APP_CODE": "abc"})

    file.write_text("")
    assert store.refresh() == [f"file {file} is empty; the old value stays in use"]
    assert store.refresh() == []
    os.unlink(file)
    assert store.refresh() == [f"file {file} cannot be read: No such file or directory; the old value stays in use"]
    assert secret.reveal() == HIDDEN
    file.write_text("new")
    assert store.refresh() == []
    assert secret.reveal() == "new"
    os.unlink(file)
    assert len(store.refresh()) == 1


def test_one_holder_for_one_source(tmp_path: Path) -> None:
    """The same source has one holder, in one store and in the one that follows it."""
    (tmp_path / "s").write_text("abc")
    store = SecretStore()
    secret = store.from_file(tmp_path / "s")
    (tmp_path / "s").write_text("def")

    later = SecretStore(store)

    assert store.from_file(tmp_path / "s") is secret
    assert later.from_file(tmp_path / "s") is secret
    assert secret.reveal() == "def"
    assert SecretStore().from_file(tmp_path / "s") is not secret
