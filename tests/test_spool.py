"""Temporary files of large bodies: filled again by the next body, gone a moment later, never one body in another."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.spool import Spool, Spools


@pytest.fixture
def spools() -> Iterator[Spools]:
    made = Spools(1000)
    yield made
    made.close()


def fill(spools: Spools, content: bytes) -> Spool:
    spool = spools.open()
    spools.write(spool, content)
    return spool


def sweep(spools: Spools, times: int) -> None:
    for _ in range(times):
        spools.sweep()


def content(spool: Spool) -> bytes:
    """Everything it gives, asked in small steps and once more at the end."""
    data = b""
    while piece := spool.read(7, len(data)):
        data += piece
    return data


def closed(spool: Spool) -> bool:
    try:
        spool.read(1, 0)
    except ValueError:  # I/O operation on closed file
        return True
    return False


@contextlib.contextmanager
def files_up_to(count: int) -> Iterator[None]:
    """No file may become larger for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_filled_again(spools: Spools) -> None:
    """The next body takes the file of the last one, and reads its own bytes alone."""
    first = fill(spools, b"a long body " * 20)
    spools.give_back(first)

    second = fill(spools, b"short")

    assert second is first
    assert content(second) == b"short"
    spools.give_back(second)


def test_two_bodies_at_once(spools: Spools) -> None:
    """A file serves one body at a time."""
    first, second = fill(spools, b"first"), fill(spools, b"second")

    assert (content(first), content(second)) == (b"first", b"second")
    spools.give_back(first)
    spools.give_back(second)


def test_what_lies_idle_is_closed(spools: Spools) -> None:
    """Files that no body has used for ten sweeps are closed, one at each; one that was used meanwhile stays."""
    used, *idle = [fill(spools, b"body") for _ in range(3)]
    for spool in (*idle, used):
        spools.give_back(spool)
    sweep(spools, 9)
    assert fill(spools, b"again") is used
    spools.give_back(used)
    assert [closed(spool) for spool in (used, *idle)] == [False, False, False]

    sweep(spools, 1)
    assert [closed(spool) for spool in (used, *idle)] == [False, True, False]
    sweep(spools, 1)
    assert [closed(spool) for spool in (used, *idle)] == [False, True, True]
    sweep(spools, 7)
    assert not closed(used)
    sweep(spools, 1)
    assert closed(used)


def test_no_file_grows_old(spools: Spools) -> None:
    """A file that is always in use stays whole, but is given to no further body after a hundred sweeps."""
    first = fill(spools, b"body")
    sweep(spools, 99)
    spools.give_back(first)
    assert fill(spools, b"again") is first
    sweep(spools, 1)

    assert content(first) == b"again"
    spools.give_back(first)

    assert closed(first)


def test_closing(spools: Spools) -> None:
    """At the end idle files are closed, and those in use with their bodies."""
    idle, used = fill(spools, b"body"), fill(spools, b"body")
    spools.give_back(idle)

    spools.close()

    assert (closed(idle), content(used)) == (True, b"body")
    spools.give_back(used)
    assert closed(used)


def test_idle_files_have_a_bound(spools: Spools) -> None:
    """Idle files keep so many bytes at most; a large body followed by a small one counts as the large one."""
    large = fill(spools, b"x" * 900)
    spools.give_back(large)
    assert fill(spools, b"x") is large
    another = fill(spools, b"x" * 101)
    spools.give_back(large)
    spools.give_back(another)

    assert not closed(large)
    assert closed(another)


def test_room_for_idle_files_comes_back(spools: Spools) -> None:
    """A file that was taken again or closed counts no more."""
    for _ in range(3):
        large = fill(spools, b"x" * 900)
        spools.give_back(large)
        assert not closed(large)
    sweep(spools, 10)
    assert closed(large)

    another = fill(spools, b"x" * 900)
    spools.give_back(another)

    assert not closed(another)


def test_nothing_is_kept_unasked() -> None:
    """Without a number of bytes to keep, every file ends with its body."""
    spools = Spools()
    spool = fill(spools, b"body")
    spools.give_back(spool)

    assert closed(spool)


def test_a_broken_file_is_not_used_again(spools: Spools) -> None:
    """A file that could not be written is closed."""
    spool = fill(spools, b"x" * 100)
    with files_up_to(150), pytest.raises(OSError, match="50 of 100"):
        spools.write(spool, b"y" * 100)
    spools.give_back(spool)

    assert closed(spool)


def test_a_full_disk_takes_the_idle_files(spools: Spools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk is full, idle files make room before a body is refused."""
    idle, spool = fill(spools, b"idle"), fill(spools, b"body")
    spools.give_back(idle)
    pwrite = os.pwrite

    def full_until_closed(descriptor: int, data: bytes, at: int) -> int:
        if not closed(idle):
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", full_until_closed)
    spools.write(spool, b" and more")

    assert content(spool) == b"body and more"
    spools.give_back(spool)


@given(st.lists(st.tuples(st.lists(st.binary(min_size=1, max_size=400), max_size=4), st.integers(0, 60)), max_size=12))
def test_no_body_meets_another(bodies: list[tuple[list[bytes], int]]) -> None:
    """However bodies follow each other and sweeps come between: each reads its own bytes, twice, and nothing else."""
    spools = Spools(1000)
    held: list[tuple[Spool, bytes]] = []
    for pieces, sweeps in bodies:
        spool = spools.open()
        for piece in pieces:
            spools.write(spool, piece)
        held.append((spool, b"".join(pieces)))
        sweep(spools, sweeps)
        if len(held) > 2:
            spools.give_back(held.pop(0)[0])
        for spool, whole in held:
            assert content(spool) == whole
            assert content(spool) == whole
    for spool, _ in held:
        spools.give_back(spool)
    spools.close()


def test_files_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the process, a file goes with it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spools = Spools(1000)
    spool = fill(spools, b"body")
    in_use = list(tmp_path.iterdir())
    spools.give_back(spool)
    idle = list(tmp_path.iterdir())
    spools.close()

    assert (in_use, idle) == ([], [])
