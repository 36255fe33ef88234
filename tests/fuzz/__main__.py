"""``python -m tests.fuzz``: FUZZ_SECONDS (120), FUZZ_SEED (random), FUZZ_FINDINGS (a folder for what is found)."""

import asyncio
import logging
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from tests.fuzz.case import load
from tests.fuzz.engine import Engine, Progress

CORPUS = Path(__file__).parent / "corpus"


def main() -> int:
    """Fuzz for a while; exit status 1 when a promise was broken."""
    seconds = float(os.environ.get("FUZZ_SECONDS", "120"))
    seed = int(os.environ.get("FUZZ_SEED") or secrets.randbelow(1_000_000))
    findings = Path(os.environ.get("FUZZ_FINDINGS", "fuzz-findings"))
    print(f"fuzzing for {seconds:g} s, FUZZ_SEED={seed}", flush=True)
    logging.getLogger("gateway").setLevel(logging.ERROR)  # what upstreams do here is worth no warning
    started = time.monotonic()

    def tell(progress: Progress) -> None:
        passed = max(0.001, time.monotonic() - started)
        print(
            f"{passed:6.0f} s  {progress.cases} cases  {progress.exchanges / passed:.0f} exchanges/s  "
            f"{progress.novel} novel  {len(progress.findings)} findings",
            flush=True,
        )

    with tempfile.TemporaryDirectory(prefix="modelarts-gateway-fuzz-") as folder:
        start = [load(path) for path in sorted(CORPUS.glob("*.json"))]
        engine = Engine(seed, Path(folder), findings, start)
        progress = _runner(engine.run(seconds, tell))
    tell(progress)
    print("answers:", ", ".join(f"{what} {count}" for what, count in progress.statuses.most_common()))
    if os.environ.get("FUZZ_VERBOSE"):
        for message, count in progress.refused_though_sound.most_common(60):
            print(f"  sound, and yet refused {count}: {message}")
    for violation, path in progress.findings:
        print(f"BROKEN {path}: {violation[:300]}")
    if progress.findings:
        print(
            f"FUZZ_SEED={seed} makes the same cases again, as far as they do not hang on timing. "
            "python -m tests.fuzz.replay FILE shows one; what is understood moves to tests/fuzz/corpus/."
        )
    return 1 if progress.findings else 0


def _runner(work: Coroutine[Any, Any, Progress]) -> Progress:
    """On the loop that users run: uvloop where it is there, FUZZ_LOOP=asyncio for the other."""
    if os.environ.get("FUZZ_LOOP") != "asyncio":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(work)
    return asyncio.run(work)


if __name__ == "__main__":
    sys.exit(main())
