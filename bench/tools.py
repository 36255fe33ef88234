"""The load generator and the upstream stub: in C where there is a compiler, else stand-ins in Python."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.processes import on_cpus

_NATIVE = Path(__file__).parent / "native"
NO_COMPILER = (
    "no C compiler: load generator and stub are slower stand-ins in Python, good for `small` alone "
    "(Debian: gcc libc6-dev; CC names another compiler)"
)


class Tools:
    """A running stub, and how the load is started. ``native`` is false for the stand-ins."""

    def __init__(self, folder: Path, cpus: set[int]) -> None:
        self._cpus = cpus
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        self.native = compiler is not None and all(_compile(compiler, folder, name) for name in ("stub", "load"))
        stand_in = [sys.executable, str(Path(__file__).parent / "stand_ins.py")]
        self._load = [str(folder / "load")] if self.native else [*stand_in, "load"]
        stub = [str(folder / "stub"), "0"] if self.native else [*stand_in, "stub"]
        with on_cpus(cpus):
            self._stub = subprocess.Popen(stub, stdout=subprocess.PIPE, text=True)
        self.stub_pid = self._stub.pid
        assert self._stub.stdout is not None
        self.port = int(self._stub.stdout.readline())

    @contextlib.contextmanager
    def load(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """The load generator, started with these arguments and ended afterwards."""
        with on_cpus(self._cpus):
            process = subprocess.Popen([*self._load, *arguments], stdout=subprocess.PIPE, text=True)
        with process:
            try:
                yield process
            finally:
                process.kill()

    def close(self) -> None:
        with self._stub:
            self._stub.kill()


def _compile(compiler: str, folder: Path, name: str) -> bool:
    command = [compiler, "-O2", "-o", str(folder / name), str(_NATIVE / f"{name}.c"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}.c could not be compiled:\n{done.stderr}", file=sys.stderr)
    return done.returncode == 0


@contextlib.contextmanager
def tools(cpus: set[int]) -> Iterator[Tools]:
    """Both, compiled into a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="bench-tools-"))
    try:
        made = Tools(folder, cpus)
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
