"""Runs the command as a user does: a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(
    *arguments: str | Path, environ: Mapping[str, str] | None = None, cwd: Path | None = None, seconds: float = 30
) -> subprocess.CompletedProcess[str]:
    """The finished command: no terminal, no input, and of the environment only what a process needs."""
    kept = {
        name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "TMPDIR", "LANG", "VIRTUAL_ENV"}
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "gateway", *map(str, arguments)],
        env={**kept, "PYTHONPATH": str(ROOT), **(environ or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
