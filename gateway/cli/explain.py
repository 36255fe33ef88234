"""Say what the gateway would do with a request, without sending it."""

import argparse
import os
import shlex
from typing import TYPE_CHECKING

from gateway.cli.sources import add_config_argument, config_path, load_config
from gateway.cli.terminal import Failure, Terminal

if TYPE_CHECKING:
    from gateway.cli.dry_run import DryRun, Given
    from gateway.config import Config
    from gateway.routes import Route

HELP = """\
Send nothing; show which route a request takes and why the others do not, the request that would leave, and what exactly is
signed. Keys, tokens and signatures are masked: the output can go into a ticket. It runs the gateway's own code, up to the
connection. Exit 1 when no route matches or the gateway would refuse the request by itself.

--curl prints the request as a curl command that can be run. That one holds a live credential (and obtains a token for it).
"""
EXAMPLE = """\
example:
  modelarts-gateway explain -c gateway.yaml POST /poetry/predictions -H 'Content-Type: application/json' -d '{"text": "spring"}'
  modelarts-gateway explain -c gateway.yaml POST '/flowers?top=3' -d @flower.png
  modelarts-gateway explain -c gateway.yaml --curl POST /poetry -d '{}' | sh
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """-c FILE, --curl, --json, METHOD, PATH, -H, -d."""
    add_config_argument(parser)
    parser.add_argument(
        "--curl", action="store_true", help="print a runnable curl command, with a live credential in it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("method", metavar="METHOD", help="as POST")
    parser.add_argument("path", metavar="PATH", help="as callers send it to the gateway, with its query: /poetry?x=1")
    parser.add_argument(
        "-H", "--header", metavar="'K: V'", action="append", default=[], help="a caller's header; may be repeated"
    )
    parser.add_argument("-d", "--data", metavar="DATA|@FILE", help="the body, or the file that holds it")


def run(arguments: argparse.Namespace) -> int:
    """0 it would leave, 1 the gateway would refuse it, 2 usage or configuration is wrong."""
    if arguments.curl and arguments.json:
        raise Failure("--curl prints a command, not JSON", status=2, hint="Leave one of the two out.")
    path = config_path(arguments)
    given = _given(arguments)
    config = load_config(path)

    import asyncio

    from gateway.cli.dry_run import dry_run
    from gateway.errors import CredentialUnavailable

    terminal = Terminal()
    try:
        run = asyncio.run(dry_run(config, given, live=arguments.curl))
    except CredentialUnavailable as error:
        raise Failure(error.message, hint=f"modelarts-gateway check -c {path} --online says more.") from error
    if arguments.json:
        terminal.json(_as_json(run))
    elif arguments.curl and run.url and run.route is not None:
        terminal.note(
            "This command holds a live credential: do not paste it anywhere. A signature is good for 15 minutes."
        )
        terminal.print(_curl(run, run.route, arguments.data))
    else:
        _show(given, run, config, terminal)
    return 0 if run.refusal is None else 1


def _given(arguments: argparse.Namespace) -> "Given":
    from gateway.cli.dry_run import Given

    if arguments.method.startswith("/"):
        raise Failure(
            f"{arguments.method} is not a method: it comes first, then the path",
            status=2,
            hint=f"Write {arguments.path.upper()} {arguments.method}",
        )
    fields = []
    for header in arguments.header:
        name, colon, value = header.partition(":")
        if not colon:
            raise Failure(f"-H {header!r} is not a header", status=2, hint="Write -H 'Content-Type: application/json'")
        fields.append((os.fsencode(name.strip()), os.fsencode(value.strip())))
    return Given(arguments.method.upper(), os.fsencode(arguments.path), tuple(fields), _body(arguments.data))


def _body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else os.fsencode(data)
    try:
        with open(data[1:], "rb") as file:
            return file.read()
    except OSError as error:
        raise Failure(f"cannot read the body from {data[1:]}: {error.strerror}", status=2) from error


def _show(given: "Given", run: "DryRun", config: "Config", terminal: Terminal) -> None:
    from gateway.cli.dry_run import signed_texts, status_line
    from gateway.cli.masking import MASK, masked, masked_canonical

    target = given.target.decode("utf-8", "backslashreplace")
    size = "no body" if given.body is None else f"a body of {len(given.body)} bytes"
    terminal.print(f"{terminal.paint('bold', given.method + ' ' + target)}, {size}")
    if run.considered:
        terminal.heading("routes, in the order they are tried")
        terminal.table(
            [
                ("=>" if seen.taken else "", seen.route.name, seen.route.prefix or "/", seen.reason)
                for seen in run.considered
            ]
        )
    if run.refusal is not None:
        terminal.heading("nothing would leave")
        terminal.print(f"  The gateway would answer {terminal.paint('red', status_line(run.refusal))}:")
        terminal.print(f"  {run.refusal.message}")
        return
    if run.answered_here:
        terminal.heading("nothing would leave")
        terminal.print(f"  This is {run.answered_here}.")
        return
    if run.route is not None and config.callers:
        allowed = [caller.name for caller in config.callers if caller.routes is None or run.route.name in caller.routes]
        terminal.heading("callers that may use it")
        terminal.print(f"  {', '.join(allowed) or 'none'}")
    terminal.heading("what would leave")
    terminal.print(f"  {run.method} {run.url}")
    for name, value in run.fields:
        terminal.print(f"  {name}: {masked(name, value)}")
    for name in run.missing:
        terminal.print(f"  {name}: {MASK}")
    if run.missing:
        terminal.print(
            terminal.paint(
                "dim", "  The credential adds the last line when the gateway runs: it has to obtain it first."
            )
        )
    if run.dropped:
        terminal.heading("headers of the caller that do not travel")
        terminal.print(f"  {', '.join(run.dropped)}")
    texts = signed_texts(run)
    if texts is not None:
        for title, text in zip(("canonical request", "string to sign"), texts, strict=True):
            terminal.heading(title)
            for line in (masked_canonical(text) if title == "canonical request" else text).split("\n"):
                terminal.print(f"  {line}".rstrip())


def _as_json(run: "DryRun") -> dict[str, object]:
    from gateway.cli.dry_run import signed_texts
    from gateway.cli.masking import MASK, masked, masked_canonical

    texts = signed_texts(run)
    refusal = run.refusal
    return {
        "routes": [
            {"name": seen.route.name, "path": seen.route.prefix or "/", "taken": seen.taken, "reason": seen.reason}
            for seen in run.considered
        ],
        "refusal": None
        if refusal is None
        else {"status": refusal.status, "error_code": refusal.code, "error_msg": refusal.message},
        "answered_here": run.answered_here or None,
        "request": None
        if refusal is not None or run.answered_here
        else {
            "method": run.method,
            "url": run.url,
            "headers": [[name, masked(name, value)] for name, value in run.fields]
            + [[name, MASK] for name in run.missing],
            "headers_to_obtain": list(run.missing),
            "headers_dropped": run.dropped,
            "canonical_request": None if texts is None else masked_canonical(texts[0]),
            "string_to_sign": None if texts is None else texts[1],
        },
    }


def _curl(run: "DryRun", route: "Route", data: str | None) -> str:
    """The same request by curl, which is told to add nothing of its own."""
    words = ["curl", "--include", "--globoff", "--path-as-is", "--http1.1"]
    # With --request HEAD curl would wait for a body.
    words += ["--head"] if run.method == "HEAD" else ["--request", run.method]
    connection = route.connection
    if connection.address is not None:
        host, port = connection.address
        words += ["--connect-to", f"::{f'[{host}]' if ':' in host else host}:{port}"]
    if connection.ca is not None:
        words += ["--cacert", connection.ca]
    # The environment's proxies are none of the gateway's business, and so none of this command's.
    words += ["--proxy", "" if connection.proxy is None else "http://{}:{}".format(*connection.proxy)]
    sent = {name.lower() for name, _ in run.fields}
    for name in ("Accept", "User-Agent", *(["Content-Type"] if data is not None else [])):
        if name.lower() not in sent:
            words += ["--header", f"{name}:"]
    for name, value in run.fields:
        if name.lower() != "content-length":
            words += ["--header", f"{name}: {value}" if value else f"{name};"]
    if data is not None:
        words += ["--data-binary", data]
    return " ".join(shlex.quote(word) for word in [*words, run.url])
