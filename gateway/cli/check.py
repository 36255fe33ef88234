"""Validate the configuration and show what it comes to."""

import argparse
from typing import TYPE_CHECKING

from gateway.cli.sources import add_config_argument, config_path
from gateway.cli.terminal import Failure, Terminal

if TYPE_CHECKING:
    from gateway.cli.online import Finding
    from gateway.config import Config
    from gateway.routes import Route

HELP = """\
Validate the configuration: print every problem at once, each with its place and what would be right (exit 2). Without
problems, print the routes as they were understood, and warnings.

--online also obtains each credential and opens a connection to each upstream, TLS included, and says in words what is missing
(exit 1: the file is right, the world is not). Each route with a credential gets one GET without it, whose refusal tells
whether the credential fits the address; no credential is sent to an upstream. Each run spends one attempt at IAM, which locks a
user after 5 wrong passwords in 15 minutes: correct a refused password before the next run.
"""
EXAMPLE = """\
example:
  modelarts-gateway check -c gateway.yaml
  modelarts-gateway check -c gateway.yaml --online
  modelarts-gateway check -c gateway.yaml --json | jq .routes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """-c FILE, --online, --json."""
    add_config_argument(parser)
    parser.add_argument("--online", action="store_true", help="try each credential and each upstream as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """0 all is well, 1 something in the world is not (--online), 2 the file has problems."""
    path = config_path(arguments)

    from gateway import credentials
    from gateway.config import ConfigProblems, load

    terminal = Terminal()
    try:
        config = load(path, credentials.kinds())
    except ConfigProblems as problems:
        if arguments.json:
            found = [
                {"file": p.file, "line": p.line, "column": p.column, "path": p.path, "message": p.message}
                for p in problems.problems
            ]
            terminal.json({"file": path, "problems": found})
            return 2
        about_keys = any(problem.path for problem in problems.problems)
        hint = "Every key is explained in docs/configuration.md." if about_keys else ""
        raise Failure(str(problems), status=2, hint=hint) from problems
    findings = _online(config, terminal, quiet=arguments.json) if arguments.online else []
    missing = [finding for finding in findings if not finding.ok]
    if arguments.json:
        report: dict[str, object] = {
            "file": path,
            "problems": [],
            "warnings": list(config.warnings),
            "routes": [_as_json(route, config) for route in config.routes],
        }
        if arguments.online:
            report["online"] = [{"what": f.what, "ok": f.ok, "message": f.message} for f in findings]
        terminal.json(report)
        return 1 if missing else 0
    _show(path, config, terminal)
    if arguments.online:
        terminal.heading("online")
        for finding in findings:
            mark = terminal.paint("green", "ok  ") if finding.ok else terminal.paint("red", "FAIL")
            terminal.print(f"  {mark}  {finding.what}: {finding.message}")
    if missing:
        raise Failure(
            f"the file is right, the world is not: {len(missing)} of {len(findings)} things did not work",
            hint="Each line marked FAIL says what is missing.",
        )
    return 0


def _online(config: "Config", terminal: Terminal, *, quiet: bool) -> "list[Finding]":
    import asyncio

    from gateway.cli.online import findings

    if not quiet:
        terminal.note("Obtaining credentials and connecting to upstreams: this takes at most a few seconds each ...")
    return asyncio.run(findings(config))


def _show(path: str, config: "Config", terminal: Terminal) -> None:
    """What the file comes to, routes in the order in which they are tried."""
    from gateway.config.units import duration_text, size_text
    from gateway.routes import RouteTable

    terminal.print(f"{path}: {terminal.paint('green', 'no problems')}")
    terminal.heading("routes, in the order they are tried")
    rows = [
        (
            route.name,
            route.prefix or "/",
            ",".join(route.methods) or "any",
            upstream_text(route),
            credential_text(route, config),
            "none" if route.limits.body_bytes is None else size_text(route.limits.body_bytes),
            "none" if route.limits.deadline_seconds is None else duration_text(route.limits.deadline_seconds),
        )
        for route in RouteTable(config.routes).routes
    ]
    terminal.table(rows, heading=("name", "path", "methods", "upstream", "credential", "body", "deadline"))
    terminal.heading("callers")
    if config.callers:
        terminal.table(
            [
                (caller.name, "all" if caller.routes is None else ", ".join(sorted(caller.routes)))
                for caller in config.callers
            ],
            heading=("name", "routes"),
        )
    else:
        terminal.print("  whoever can reach the port may use every route")
    if config.warnings:
        terminal.heading("warnings")
        for warning in config.warnings:
            terminal.print(f"  {terminal.paint('yellow', 'warning')}: {warning}")


def upstream_text(route: "Route") -> str:
    """The upstream as a URL."""
    return f"{route.upstream.scheme}://{route.upstream.authority}{route.upstream.base_path}"


def credential_text(route: "Route", config: "Config") -> str:
    """The credential's name and kind."""
    if route.credential is None:
        return "none"
    return f"{route.credential} ({config.credentials[route.credential].kind})"


def _as_json(route: "Route", config: "Config") -> dict[str, object]:
    """A route as `--json` prints it: durations in seconds, sizes in bytes, null where a limit is off."""
    limits = route.limits
    return {
        "name": route.name,
        "path": route.prefix or "/",
        "methods": list(route.methods),
        "upstream": upstream_text(route),
        "credential": route.credential,
        "kind": None if route.credential is None else config.credentials[route.credential].kind,
        "body_bytes": limits.body_bytes,
        "connect_seconds": limits.connect_seconds,
        "first_byte_seconds": limits.first_byte_seconds,
        "idle_seconds": limits.idle_seconds,
        "deadline_seconds": limits.deadline_seconds,
        "replay_bytes": route.replay_bytes,
        "attempts": route.retry.attempts,
        "idempotent": route.retry.idempotent,
        "websocket": route.websocket,
    }
