"""gateway.logs: lines that are whole, safe and never waited for."""

import asyncio
import json
import logging
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from gateway.exchange import Exchange
from gateway.logs import AccessLog, LineWriter, log_loop_exception, setup_logging
from gateway.story import Moment

WALL = 1_700_000_000.25  # 2023-11-14T22:13:20.250Z
FIELDS = [
    "time",
    "request_id",
    "upstream_request_id",
    "caller",
    "route",
    "method",
    "path",
    "code",
    "outcome",
    "error",
    "upstream_code",
    "attempts",
    "duration_ms",
    "first_byte_ms",
    "request_bytes",
    "response_bytes",
    "body_mode",
]


@pytest.fixture
def make_exchange() -> Iterator[Callable[..., Exchange]]:
    loop = asyncio.new_event_loop()

    def make(**values: object) -> Exchange:
        exchange = Exchange(Moment(loop), 10.0, "id-1", "POST", "/poetry/x")
        exchange.route, exchange.status, exchange.outcome, exchange.attempts = "poetry", 200, "complete", 1
        for name, value in values.items():
            setattr(exchange, name, value)
        return exchange

    yield make
    loop.close()


class Pipe:
    """A pipe that a thread reads to its end, from the beginning or once ``read`` is called."""

    def __init__(self, *, read: bool = True) -> None:
        self._reader, self.writer = os.pipe()
        self._received = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        if read:
            self.read()

    def read(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        with open(self._reader, "rb") as stream:
            self._received = stream.read()

    def text(self) -> str:
        """Everything that was written; closes the writing end."""
        os.close(self.writer)
        self._thread.join(10)
        return self._received.decode()


def lines_of(*exchanges: Exchange, shared: bool = False) -> list[dict[str, object]]:
    pipe = Pipe()
    access = AccessLog(pipe.writer, shared=shared)
    for exchange in exchanges:
        access.write(exchange, 10.1234, WALL)
    access.close()
    return [json.loads(line) for line in pipe.text().splitlines()]


def test_fields(make_exchange: Callable[..., Exchange]) -> None:
    """A line has the promised members in their order, with their values."""
    exchange = make_exchange(
        upstream_request_id="up-1",
        caller="team-a",
        upstream_status=200,
        first_byte_seconds=0.1,
        request_bytes=300,
        response_bytes=12,
        body_mode="streamed",
    )

    (line,) = lines_of(exchange)

    assert list(line) == FIELDS
    assert line == {
        "time": "2023-11-14T22:13:20.250Z",
        "request_id": "id-1",
        "upstream_request_id": "up-1",
        "caller": "team-a",
        "route": "poetry",
        "method": "POST",
        "path": "/poetry/x",
        "code": 200,
        "outcome": "complete",
        "error": None,
        "upstream_code": 200,
        "attempts": 1,
        "duration_ms": 123.4,
        "first_byte_ms": 100.0,
        "request_bytes": 300,
        "response_bytes": 12,
        "body_mode": "streamed",
    }


def test_what_is_not_there_is_null(make_exchange: Callable[..., Exchange]) -> None:
    """Nothing is made up for a request that failed early; without a head the code is 499."""
    (line,) = lines_of(make_exchange(status=0, error="Gateway.BadPath", outcome="caller_left", attempts=0))

    absent = {name for name in FIELDS if line[name] is None}
    assert absent == {"upstream_request_id", "caller", "upstream_code", "first_byte_ms"}
    assert (line["code"], line["error"], line["outcome"]) == (499, "Gateway.BadPath", "caller_left")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('/a"b', id="quote"),
        pytest.param("/a\\b", id="backslash"),
        pytest.param("/a\x00\x1b[31m\x7f", id="controls"),
        pytest.param("/a\r\nb\n", id="line ends"),
        pytest.param("/caf\xe9", id="Latin-1"),
        pytest.param("/詩\U0001f600\ud800", id="beyond, and half a pair"),
        pytest.param('","code":200,"x":"', id="a forged member"),
        pytest.param("/plain%20path;v=1", id="plain"),
    ],
)
@pytest.mark.parametrize("member", ["path", "upstream_request_id", "method", "caller"])
def test_foreign_text(make_exchange: Callable[..., Exchange], member: str, text: str) -> None:
    """Whatever others chose is one string in one line, and reads back as it was."""
    (line,) = lines_of(make_exchange(**{member: text}))

    assert list(line) == FIELDS
    assert line[member] == text


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/" + "a" * 60_000, id="plain"),
        pytest.param("/" + "\xe9" * 60_000, id="all escapes"),
        pytest.param("/" + "\x01" * 2000 + "a" * 60_000, id="escapes first"),
    ],
)
def test_long_text_is_cut(make_exchange: Callable[..., Exchange], path: str) -> None:
    """A line stays below what pipes keep whole, whatever its path."""
    pipe = Pipe()
    access = AccessLog(pipe.writer)

    access.write(make_exchange(path=path, upstream_request_id="u" * 5000, method="M" * 5000), 10.1, WALL)
    access.close()

    text = pipe.text()
    assert len(text) < 4096
    assert json.loads(text)["path"].endswith("...")


def test_time_goes_on(make_exchange: Callable[..., Exchange]) -> None:
    """The time is each line's own."""
    pipe = Pipe()
    access = AccessLog(pipe.writer)
    for wall in (WALL, WALL + 0.7499, WALL + 0.75, WALL + 86400):
        access.write(make_exchange(), 10.1, wall)
    access.close()

    times = [json.loads(line)["time"] for line in pipe.text().splitlines()]

    assert times == [
        "2023-11-14T22:13:20.250Z",
        "2023-11-14T22:13:20.999Z",
        "2023-11-14T22:13:21.000Z",
        "2023-11-15T22:13:20.250Z",
    ]


def test_nobody_reads(make_exchange: Callable[..., Exchange], caplog: pytest.LogCaptureFixture) -> None:
    """A pipe that nobody reads holds up nobody: lines beyond the bound are dropped, counted and told once a minute."""
    pipe = Pipe(read=False)
    access = AccessLog(pipe.writer, pending_bytes=200_000)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "gateway"):
        for number in range(5_000):
            access.write(make_exchange(), 10.1, WALL)
            if number % 100 == 0:
                access.flush(now=1000.0)
        access.flush(now=1030.0)
        told = len(caplog.records)
        access.write(make_exchange(), 10.1, WALL)
        access.flush(now=1061.0)

    assert time.monotonic() - started < 5
    assert (told, len(caplog.records)) == (1, 2)
    dropped = access.dropped_lines
    assert 0 < dropped < 5_001
    pipe.read()
    access.close(seconds=10)
    lines = pipe.text().splitlines()
    assert len(lines) == 5_001 - dropped
    assert all(json.loads(line) for line in lines)


def test_close_does_not_wait_for_ever(make_exchange: Callable[..., Exchange]) -> None:
    """A reader that never comes keeps the process no longer than told."""
    pipe = Pipe(read=False)
    access = AccessLog(pipe.writer)
    for _ in range(1000):
        access.write(make_exchange(), 10.1, WALL)
    started = time.monotonic()

    access.close(seconds=0.05)

    assert time.monotonic() - started < 2
    pipe.read()
    access.close(seconds=10)
    pipe.text()


def test_large_gatherings_leave_before_the_second_is_over(make_exchange: Callable[..., Exchange]) -> None:
    """What gathers between two flushes is bounded."""
    pipe = Pipe()
    access = AccessLog(pipe.writer)
    for _ in range(5_000):
        access.write(make_exchange(), 10.1, WALL)

    assert access._size < 256 * 1024
    access.close()
    assert pipe.text().count("\n") == 5_000


def test_refused_writes_are_counted() -> None:
    """A reader that is gone, as a full disk, costs lines and nothing else; later lines are tried again."""
    reader, writer = os.pipe()
    os.close(reader)
    lines = LineWriter(writer, "test")

    lines.put(b"one\ntwo\n")
    lines.put(b"three\n")
    lines.close()

    os.close(writer)
    assert lines.dropped_lines == 3


def test_two_processes_share_a_pipe() -> None:
    """Lines of several workers on one pipe are never mixed, even when it is full most of the time."""
    pipe = Pipe(read=False)
    script = (
        "import sys; from gateway.logs import LineWriter; w = LineWriter(int(sys.argv[1]), 'x', shared=True)\n"
        "for _ in range(40): w.put((sys.argv[2] * 300 + '\\n').encode() * 100)\n"
        "w.close(30)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(pipe.writer), letter], pass_fds=[pipe.writer])
        for letter in "abc"
    ]
    pipe.read()
    for process in writers:
        assert process.wait(30) == 0

    lines = pipe.text().splitlines()

    assert len(lines) == 3 * 40 * 100
    assert set(lines) == {letter * 300 for letter in "abc"}


def test_non_blocking_descriptor() -> None:
    """A descriptor that somebody made non-blocking loses nothing."""
    pipe = Pipe(read=False)
    os.set_blocking(pipe.writer, False)
    lines = LineWriter(pipe.writer, "test")
    for _ in range(200):
        lines.put(b"x" * 999 + b"\n")
    pipe.read()
    lines.close(10)

    assert pipe.text().count("\n") == 200
    assert lines.dropped_lines == 0


@pytest.fixture
def program_log() -> Iterator[Callable[[str], Callable[[], str]]]:
    """Sets the program's log up to write into a pipe, and puts everything back."""
    root, ours = logging.getLogger(), logging.getLogger("gateway")
    before = root.handlers[:], root.level, ours.level, logging.raiseExceptions

    def start(level: str) -> Callable[[], str]:
        pipe = Pipe()
        writer = setup_logging(level, pipe.writer)

        def text() -> str:
            writer.close()
            return pipe.text()

        return text

    yield start
    root.handlers[:], root.level, ours.level, logging.raiseExceptions = before
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_program_log(program_log: Callable[[str], Callable[[], str]]) -> None:
    """Each record is one JSON object; ours from the level up, foreign ones from warnings."""
    text = program_log("info")

    logging.getLogger("gateway.upstream").info("route '%s' is back", "poetry")
    logging.getLogger("gateway.upstream").debug("not shown")
    logging.getLogger("aiohttp.server").info("not shown")
    logging.getLogger("gateway").warning("two\nlines")

    first, second = (json.loads(line) for line in text().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {"level": "info", "logger": "gateway.upstream", "message": "route 'poetry' is back"}
    assert second["message"] == "two | lines"


class Planted(Exception):
    """An exception of somebody else's, whose text quotes a secret."""


def fails() -> None:
    try:
        raise Planted("Authorization: hunter2")
    except Planted as error:
        raise RuntimeError("hunter2 again") from error


def test_no_exception_text(program_log: Callable[[str], Callable[[], str]]) -> None:
    """A log of a failure tells types and places, never the words of exceptions or the data in them."""
    text = program_log("debug")

    try:
        fails()
    except RuntimeError:
        logging.getLogger("gateway.proxy").exception("request failed")
    logging.getLogger("asyncio").error(
        "Task exception was never retrieved\nfuture: <Task exception=Planted('hunter2')>"
    )
    logging.getLogger("gateway").info("broken %d record", "hunter2")

    written = text()
    first, second = (json.loads(line) for line in written.splitlines())
    assert "hunter2" not in written
    assert first["exception"] == "RuntimeError < Planted"
    assert "test_logs.py:" in first["at"]
    assert second["message"] == "Task exception was never retrieved"


async def test_loop_exceptions(program_log: Callable[[str], Callable[[], str]]) -> None:
    """The event loop's complaints come without the arguments of callbacks."""
    text = program_log("info")
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_exception)

    def callback(_data: str) -> None:
        raise Planted("hunter2")

    loop.call_soon(callback, "hunter2 as an argument")
    await asyncio.sleep(0.01)

    (line,) = (json.loads(line) for line in text().splitlines())
    assert "hunter2" not in str(line)
    assert line["message"].startswith("event loop: Exception")
    assert line["exception"] == "Planted"


def test_on_a_terminal(program_log: Callable[[str], Callable[[], str]]) -> None:
    """A person on a terminal reads text, not JSON."""
    program_log("info")  # for putting everything back
    master, slave = pty.openpty()
    writer = setup_logging("info", slave)

    logging.getLogger("gateway.app").warning("listening on %s", "127.0.0.1:8080")
    writer.close()

    shown = os.read(master, 4096).decode()
    os.close(master)
    os.close(slave)
    assert shown[8:].strip() == "WARNING gateway.app: listening on 127.0.0.1:8080"
