"""What the trials by hand have in common: an engine's commands, requests to what runs, a table of what was found."""

import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence

START_SECONDS = 30.0


def run(*command: str, given: str | None = None, check: bool = True, seconds: float = 300) -> str:
    """What a command prints; if it fails, its complaint ends the trial."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=seconds, check=False)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


def status(url: str, body: bytes | None = None, fields: Mapping[str, str] | None = None) -> int:
    """The status of an answer, 0 without one; certificates are taken as they are."""
    fields = {**({"Content-Type": "application/json"} if body is not None else {}), **(fields or {})}
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, fields), timeout=10, context=tls) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return 0


def query(prometheus: str, expression: str) -> list[str]:
    """The values of a query's result, none while Prometheus does not answer."""
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/query?query={expression}", timeout=10) as answer:
            return [str(one["value"][1]) for one in json.load(answer)["data"]["result"]]
    except OSError:
        return []


def until(what: str, holds: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Wait for something; if it does not come, say what it was and end."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


def free(*ports: int) -> None:
    """End the trial where something else has a port: it would be asked in place of what is tried."""
    for port in ports:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                sys.exit(f"127.0.0.1:{port} is taken; this needs the ports {', '.join(map(str, ports))}")


def verdict(rows: Sequence[tuple[str, object, object]]) -> bool:
    """Print what was looked at, and tell whether each was found as it should be."""
    for what, found, right in rows:
        print(f"  {what:44} {found}" + ("" if found == right else f"   NOT {right}"))
    return all(found == right for _, found, right in rows)
