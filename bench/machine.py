"""What a table must say beside its figures: when, on what, with which versions."""

import datetime
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from bench.peers import envoy_path, nginx_path


def date_machine_versions() -> str:
    """One line; what is not installed is not in it."""
    models = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    versions = [f"CPython {platform.python_version()}"]
    for name in ("aiohttp", "uvloop"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    if nginx := nginx_path():
        versions.append(_first_line(nginx, "-v").removeprefix("nginx version: "))
    if envoy := envoy_path():
        found = re.search(r"/(\d+\.\d+\.\d+)/", _first_line(envoy, "--version"))
        versions.append(f"Envoy {found[1]}" if found else "Envoy")
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    machine = f"{os.cpu_count()} CPUs ({models[0] if models else platform.machine()}), Linux {platform.release()}"
    return f"{today}; {machine}; {', '.join(versions)}"


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout + done.stderr).strip().partition("\n")[0]
