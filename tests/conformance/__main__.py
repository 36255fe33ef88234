"""Run the suite against any HTTP/1.1 reverse proxy: ``python -m tests.conformance --help``."""

import argparse
import asyncio
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Sequence

from tests.conformance import cases as _registered
from tests.conformance.case import CASES, Case
from tests.conformance.runner import Outcome, run_cases
from tests.conformance.target import other_proxy, our_gateway

assert _registered.__all__

_EXAMPLE = """
example (nginx, with the configuration beside this file):

  python -m tests.conformance --command 'tests/conformance/peers/run nginx {port} {upstream} {folder}' \\
      --url 'http://127.0.0.1:{port}/{variant}' --variants plain,limit,quick,ws \\
      --credential 'X-Apig-AppCode: conformance-secret-7f3a'
"""


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description="Hostile and ordinary HTTP/1.1 through a proxy, both ends scripted on raw sockets.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--command",
        help="starts the proxy in the foreground; {port}, {admin}, {upstream}, {dead} (a port where nobody listens), {folder} are filled in",
    )
    parser.add_argument(
        "--url", default="http://127.0.0.1:{port}/{variant}", help="where callers go; {variant} is the kind of route"
    )
    parser.add_argument(
        "--base", default="/base", help="the upstream path that stands for the URL's path (default %(default)s)"
    )
    parser.add_argument(
        "--variants", default="plain", help="kinds of route that the proxy has, as plain,limit,quick,first,idle,ws"
    )
    parser.add_argument("--credential", help="the header that the proxy adds, as 'X-Apig-AppCode: value'")
    parser.add_argument("--lanes", type=int, default=4, help="proxies side by side (default %(default)s)")
    parser.add_argument("--only", default="", help="cases whose id contains one of these words, comma between them")
    parser.add_argument("--slow", action="store_true", help="also the soak")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(words)


async def _run(options: argparse.Namespace) -> list[Outcome]:
    words = [word for word in options.only.split(",") if word]
    wanted: list[Case] = [
        case
        for case in CASES.values()
        if (options.slow or not case.slow) and (not words or any(w in case.id for w in words))
    ]
    if options.command is None:
        async with our_gateway(options.lanes) as lanes:
            return await run_cases(wanted, lanes)
    async with other_proxy(
        options.command, options.url, options.base, options.credential, options.variants.split(","), options.lanes
    ) as lanes:
        return await run_cases(wanted, lanes)


def summary(outcomes: list[Outcome]) -> dict[str, dict[str, float]]:
    """Per group and in all: cases, failures by severity, and the weighted share that passes, in percent."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.verdict != "not applicable":
            groups[outcome.case.group].append(outcome)
            groups["all"].append(outcome)
    found = {}
    for group, members in groups.items():
        failed = [outcome.case for outcome in members if outcome.verdict != "pass"]
        weight = sum(outcome.case.severity for outcome in members)
        found[group] = {
            "cases": len(members),
            "failed": len(failed),
            **{
                name: sum(case.severity.name.lower() == name for case in failed)
                for name in ("critical", "major", "minor")
            },
            "score": round(100 * (1 - sum(case.severity for case in failed) / weight), 1),
        }
    return found


def _print(outcomes: list[Outcome]) -> None:
    table = summary(outcomes)
    print(f"{'group':<10} {'cases':>5} {'failed':>6} {'critical':>8} {'major':>6} {'minor':>6} {'score':>6}")
    for group in [*sorted(set(table) - {"all"}), "all"]:
        row = table.get(group)
        if row is not None:
            print(
                f"{group:<10} {row['cases']:>5} {row['failed']:>6} {row['critical']:>8} {row['major']:>6} {row['minor']:>6}"
                f" {row['score']:>6}"
            )
    for outcome in sorted(outcomes, key=lambda outcome: (-outcome.case.severity, outcome.case.id)):
        if outcome.verdict in {"fail", "broken"}:
            detail = outcome.detail if outcome.verdict == "fail" else "the case is broken: " + outcome.detail.strip()
            print(f"{outcome.case.severity.name.lower():<8} {outcome.case.id}: {outcome.case.title}\n         {detail}")
    missing = sum(outcome.verdict == "not applicable" for outcome in outcomes)
    if missing:
        print(f"{missing} cases do not apply to this proxy")


def main(words: Sequence[str] | None = None) -> int:
    """Exit status 0: every case that applies passed; 1: not; 2: usage."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # a transport that a case has reset is no news
    options = _arguments(words)
    outcomes = asyncio.run(_run(options))
    if options.json:
        rows = [
            {
                "id": outcome.case.id,
                "title": outcome.case.title,
                "source": outcome.case.source,
                "severity": outcome.case.severity.name.lower(),
                "attacks": outcome.case.attacks,
                "verdict": outcome.verdict,
                "detail": outcome.detail,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in sorted(outcomes, key=lambda outcome: outcome.case.id)
        ]
        json.dump({"summary": summary(outcomes), "cases": rows}, sys.stdout, indent=1)
        print()
    else:
        _print(outcomes)
    return int(any(outcome.verdict in {"fail", "broken"} for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
