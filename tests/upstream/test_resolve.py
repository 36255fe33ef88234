"""Names and their addresses: nobody waits for a name but those who ask for it."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.upstream.resolve import Resolver


class Names:
    """A resolver of the system that answers when it is let: each name has the address 192.0.2.1, or none."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.slow: dict[str, threading.Event] = {}
        self.failures: dict[str, Exception] = {}
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: str, port: int | None, type: int = 0, flags: int = 0) -> list[tuple[Any, ...]]:
        if flags & socket.AI_NUMERICHOST:
            return self._real(host, port, type=type, flags=flags)
        with self._lock:
            self.asked.append(host)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        if host in self.slow:
            assert self.slow[host].wait(10)
        with self._lock:
            self.at_once -= 1
        if host in self.failures:
            raise self.failures[host]
        found = [("192.0.2.1", 0), ("2001:db8::1", 0, 0, 0)]
        return [(socket.AF_INET if len(at) == 2 else socket.AF_INET6, type, 6, "", at) for at in found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    yield names
    for event in names.slow.values():
        event.set()


def addresses(port: int) -> list[Any]:
    return [(socket.AF_INET, ("192.0.2.1", port)), (socket.AF_INET6, ("2001:db8::1", port, 0, 0))]


async def until(names: Names, count: int) -> None:
    """So many look-ups have begun."""
    while len(names.asked) < count:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("host", "found"),
    [
        pytest.param("192.0.2.7", (socket.AF_INET, ("192.0.2.7", 443)), id="IPv4"),
        pytest.param("2001:db8::7", (socket.AF_INET6, ("2001:db8::7", 443, 0, 0)), id="IPv6"),
        pytest.param(
            "fe80::1%lo", (socket.AF_INET6, ("fe80::1", 443, 0, socket.if_nametoindex("lo"))), id="IPv6 with a zone"
        ),
    ],
)
async def test_an_address_is_no_name(names: Names, host: str, found: Any) -> None:
    """Nobody is asked for it."""
    assert await Resolver().resolve(host, 443) == [found]
    assert names.asked == []


async def test_a_zone_that_is_not_there(names: Names) -> None:
    """An address that this machine cannot use has none."""
    with pytest.raises(OSError, match=r"\S"):
        await Resolver().resolve("fe80::1%nowhere", 443)


async def test_those_who_ask_meanwhile_share_one_look_up(names: Names) -> None:
    """One thread per name at most, however many wait; each gets its own port."""
    names.slow["up.test"] = threading.Event()
    resolver = Resolver()
    waiting = [asyncio.create_task(resolver.resolve("up.test", port)) for port in range(50)]
    await until(names, 1)

    names.slow["up.test"].set()

    assert await asyncio.gather(*waiting) == [addresses(port) for port in range(50)]
    assert names.asked == ["up.test"]


async def test_giving_up_ends_nobody_elses_look_up(names: Names) -> None:
    """Whoever stops waiting, the others get their answer, and those who come later the same."""
    names.slow["up.test"] = threading.Event()
    resolver = Resolver()
    impatient, patient = (asyncio.create_task(resolver.resolve("up.test", port)) for port in (1, 2))
    await until(names, 1)

    impatient.cancel()
    await asyncio.wait([impatient])
    late = asyncio.create_task(resolver.resolve("up.test", 3))
    await asyncio.sleep(0)
    names.slow["up.test"].set()

    assert impatient.cancelled()
    assert (await patient, await late) == (addresses(2), addresses(3))
    assert names.asked == ["up.test"]


async def test_a_look_up_that_nobody_waits_for_any_more(names: Names) -> None:
    """Its failure is told to nobody, and the next to ask begins anew."""
    names.slow["up.test"], names.failures["up.test"] = threading.Event(), socket.gaierror(socket.EAI_AGAIN, "x")
    resolver = Resolver()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(resolver.resolve("up.test", 1), 0.01)

    names.slow["up.test"].set()
    while resolver._asked:
        await asyncio.sleep(0.001)
    del names.failures["up.test"]

    assert await resolver.resolve("up.test", 1) == addresses(1)
    assert names.asked == ["up.test"] * 2


async def test_other_names_do_not_wait(names: Names) -> None:
    """Slow names, asked for again and again by requests that give up, leave the others as fast as they are."""
    resolver = Resolver()
    for number in range(20):
        names.slow[f"slow-{number}.test"] = threading.Event()
    for _ in range(3):
        given_up = [asyncio.create_task(resolver.resolve(name, 1)) for name in names.slow]
        await asyncio.wait(given_up, timeout=0.01)
        for task in given_up:
            task.cancel()

    assert await asyncio.wait_for(resolver.resolve("up.test", 443), 5) == addresses(443)
    assert sorted(names.asked) == sorted([*names.slow, "up.test"])


async def test_threads_are_bounded(names: Names) -> None:
    """More names than threads stand in line, and each gets its turn; afterwards no thread is left."""
    resolver = Resolver(threads=2)
    for number in range(6):
        names.slow[f"slow-{number}.test"] = threading.Event()
    waiting = [asyncio.create_task(resolver.resolve(name, 1)) for name in names.slow]
    await until(names, 2)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "look-up")

    for event in names.slow.values():
        event.set()

    assert await asyncio.gather(*waiting) == [addresses(1)] * 6
    assert names.most_at_once == 2
    while resolver._running:
        await asyncio.sleep(0.001)


async def test_how_long_an_answer_is_kept(names: Names) -> None:
    """Some seconds, from when it came; then the name is asked for again."""
    now = [0.0]
    resolver = Resolver(lambda: now[0])

    for now[0] in (1000.0, 1004.9, 1005.0, 1009.9):
        assert await resolver.resolve("up.test", 443) == addresses(443)

    assert names.asked == ["up.test"] * 2


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(socket.gaierror(socket.EAI_NONAME, "x"), id="no such name"),
        pytest.param(UnicodeError("label too long"), id="no name at all"),
    ],
)
async def test_failures_reach_all_who_wait_and_nobody_else(names: Names, failure: Exception) -> None:
    """A name that did not resolve is asked for again by the next request."""
    names.slow["up.test"], names.failures["up.test"] = threading.Event(), failure
    resolver = Resolver()
    waiting = [asyncio.create_task(resolver.resolve("up.test", 1)) for _ in range(3)]
    await until(names, 1)
    names.slow["up.test"].set()

    assert await asyncio.gather(*waiting, return_exceptions=True) == [failure] * 3
    del names.failures["up.test"]
    assert await resolver.resolve("up.test", 1) == addresses(1)


async def test_no_thread_left(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the system's limit of threads a look-up fails, and does not stay under way for ever."""

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = Resolver()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        with pytest.raises(OSError, match="no thread left"):
            await resolver.resolve("up.test", 1)

    assert await resolver.resolve("up.test", 1) == addresses(1)


async def test_what_is_kept_is_forgotten(names: Names) -> None:
    """Addresses and names that a reload has done away with do not pile up."""
    now = 0.0
    resolver = Resolver(lambda: now)

    for host in ("192.0.2.7", "a.example.com", "192.0.2.8"):
        await resolver.resolve(host, 443)
        assert list(resolver._kept) == [host]
        now += 10
