"""gateway.reload: the configuration file of a running gateway."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import Config, load
from gateway.credentials import kinds
from gateway.reload import ConfigFile, read


class File:
    """A configuration file whose reloads are recorded, or refused by ``problems``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("one")
        self.applied: list[str] = []
        self.problems: tuple[str, ...] = ()
        self.gate = asyncio.Event()
        self.gate.set()
        self.file = ConfigFile(load(path, kinds()), path.read_bytes(), self.apply)

    def write(self, name: str, **more: Any) -> None:
        route = {"name": name, "path": f"/{name}", "upstream": "http://127.0.0.1:9", "credential": "none"}
        self.path.write_text(yaml.safe_dump({"routes": [route], **more}))

    async def apply(self, config: Config, content: bytes) -> tuple[str, ...]:
        await self.gate.wait()
        assert content == self.path.read_bytes()
        if not self.problems:
            self.applied.append(config.routes[0].name)
        return self.problems


@pytest.fixture
async def file(tmp_path: Path) -> File:
    return File(tmp_path / "gateway.yaml")


async def test_a_change_is_taken(file: File) -> None:
    """What was loaded serves from then on, and its text is kept for workers to come."""
    file.write("two")

    assert await file.file.reload()
    assert file.applied == ["two"]
    assert file.file.config.routes[0].name == "two"
    assert file.file.content == file.path.read_bytes()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("routes: [", "gateway.yaml:1:", id="no YAML"),
        pytest.param("routes: []", "this list is empty", id="wrong"),
    ],
)
async def test_a_bad_file_is_refused(file: File, text: str, problem: str) -> None:
    """Nothing changes but what is said about it, until the file is right again."""
    file.path.write_text(text)

    assert not await file.file.reload()
    assert file.applied == []
    assert problem in file.file.problems[0]
    assert file.file.gauges()["reload_successful"] is False

    file.write("two")
    assert await file.file.reload()
    assert file.file.problems == ()
    assert file.file.gauges()["reload_successful"] is True


@pytest.mark.parametrize(
    ("key", "value"),
    [("listen", "127.0.0.1:1"), ("admin", "127.0.0.1:1"), ("workers", 7)],
    ids=str,
)
async def test_what_takes_a_restart(file: File, key: str, value: object) -> None:
    """It is refused with its reason, and nothing else of the file is taken."""
    file.write("two", **{key: value})

    assert not await file.file.reload()
    assert file.file.problems == (f"{file.path}: {key}: a change of this takes a restart",)
    assert file.applied == []


async def test_who_serves_may_refuse(file: File) -> None:
    """Problems of those who should serve it count like problems of the file."""
    file.problems = ("worker 1: it did not answer",)
    file.write("two")

    assert not await file.file.reload()
    assert file.file.config.routes[0].name == "one"
    assert file.file.problems == ("worker 1: it did not answer",)


async def test_many_wishes_are_few_reloads(file: File) -> None:
    """Reloads run one at a time; who asks while one is under way shares the next, which sees what was written before."""
    file.gate.clear()
    first = asyncio.create_task(file.file.reload())
    await asyncio.sleep(0.05)
    later = [asyncio.create_task(file.file.reload()) for _ in range(20)]
    await asyncio.sleep(0.05)
    file.gate.set()

    assert await first
    assert await asyncio.gather(*later) == [True] * 20
    assert len(file.applied) == 2


async def test_it_is_looked_at_by_content(file: File) -> None:
    """The same text again is no change, whatever its time stamp says; a file that is gone is one."""
    file.path.write_bytes(file.path.read_bytes())
    await file.file.look()
    assert file.applied == []

    file.write("two")
    await file.file.look()
    await file.file.look()
    assert file.applied == ["two"]

    file.path.unlink()
    await file.file.look()
    assert "no such file" in file.file.problems[0]


async def test_our_own_trouble_is_none_of_the_files(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no file descriptor is left the file has not changed."""

    def full(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", full)

    with pytest.raises(OSError, match="Too many"):
        await file.file.look()
    assert file.file.problems == ()


def test_no_file(tmp_path: Path) -> None:
    """What cannot be read is nothing; loading says why."""
    assert read(tmp_path / "gone") is None
    assert read("not\0a path") is None
