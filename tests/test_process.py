"""gateway.process: loop, limits and signals."""

import asyncio
import os
import resource
import signal
import subprocess
import sys

import pytest

from gateway import process


async def until(event: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await event.wait()


async def test_signals() -> None:
    """The first and the second of the two that stop are told apart; the third kind reloads."""
    reloaded = asyncio.Event()

    async def reload() -> None:
        reloaded.set()

    signals = process.Signals(reload)

    os.kill(os.getpid(), signal.SIGHUP)
    await until(reloaded)
    assert not signals.first.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    await until(signals.first)
    assert not signals.second.is_set()
    os.kill(os.getpid(), signal.SIGINT)
    await until(signals.second)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


@pytest.mark.parametrize("hurried", [False, True], ids=["to its end", "cut short"])
async def test_work_until_the_second_signal(hurried: bool) -> None:
    """Work goes on to its end, or ends where a second signal meets it."""
    signals = process.Signals(lambda: asyncio.sleep(0))
    seen = []

    async def work() -> None:
        try:
            seen.append("begun")
            if hurried:
                signals.second.set()
                await asyncio.sleep(60)
            seen.append("done")
        finally:
            seen.append("left")

    await signals.unless_second(work())

    assert seen == (["begun", "left"] if hurried else ["begun", "done", "left"])
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


def test_file_descriptors() -> None:
    """A process has as many as it may have, not the few that are usual."""
    program = (
        "import resource\n"
        "from gateway import process\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "async def main():\n"
        "    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
        "    return 3\n"
        "raise SystemExit(process.run(main()))\n"
    )

    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert finished.returncode == 3
    assert int(finished.stdout) == (1 << 20 if most == resource.RLIM_INFINITY else min(most, 1 << 20))
