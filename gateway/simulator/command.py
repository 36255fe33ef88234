"""The command ``simulate``: run the simulator until a signal, and say at start what can be asked of it."""

import argparse
import asyncio
import ipaddress
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from gateway.simulator.example import example_config
from gateway.simulator.options import CREDENTIALS, Options
from gateway.simulator.quantities import seconds, size_bytes
from gateway.simulator.server import Simulator

# Not the gateway's own ports, so that both run side by side as they come.
_LISTEN = "127.0.0.1:9000"
_FAMILIES = {
    "iam": "IAM: POST /v3/auth/tokens",
    "v1_iam": "v1 service, IAM address: token or AK/SK signature",
    "v1_app": "v1 service, APP address: AppKey/AppSecret signature, AppCode or AppKey",
    "v2": "v2 service: token",
    "v2_api_key": "v2 service: API key",
    "v2_open": "v2 service: no credential",
    "maas": "MaaS: API key",
    "openai": "MaaS as an OpenAI base URL",
    "metadata": "a server's metadata service: temporary keys of its agency",
    "pod": "the agent of a pod's identity on CCE: POST for temporary keys",
    "admin": "admin: /_simulator/state, /faults, /tokens/revoke, /credentials, /clock, /locks",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``simulate``: addresses, every credential, every limit."""
    defaults = Options()
    parser.add_argument("--listen", type=_address, default=_address(_LISTEN), metavar="HOST:PORT", help=_LISTEN)
    parser.add_argument("--admin", type=_address, metavar="HOST:PORT", help="admin address; default: the next port")
    parser.add_argument("--json", action="store_true", help="print addresses and credentials as one JSON object")
    parser.add_argument("--write-config", type=Path, metavar="DIR", help="write gateway.yaml and its secrets there")
    accepted = parser.add_argument_group("accepted credentials")
    for name in CREDENTIALS:
        accepted.add_argument(_flag(name), default=getattr(defaults, name), metavar="TEXT")
    limits = parser.add_argument_group("limits")
    _limit(limits, "token-life", seconds, defaults.token_life_seconds, "how long a token lives (24h)")
    _limit(limits, "key-life", seconds, defaults.key_life_seconds, "how long temporary keys live (24h)")
    _limit(limits, "body", size_bytes, defaults.body_bytes, "largest body on v1 (12MiB)")
    _limit(limits, "deadline", seconds, defaults.deadline_seconds, "longest request on v1 (40s)")
    _limit(limits, "v2-body", size_bytes, defaults.v2_body_bytes, "largest body on v2 and MaaS (50MiB)")
    _limit(limits, "v2-chunk", seconds, defaults.v2_chunk_seconds, "longest silence on v2 (20m)")
    _limit(limits, "word", seconds, defaults.word_seconds, "pause before each word of a chat (20ms)")
    limits.add_argument(
        "--metadata-tokens", action="store_true", help="the metadata service gives keys for a metadata token alone"
    )
    limits.add_argument("--model", action="append", default=[], metavar="NAME", help="a model name; default: any")


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGINT or SIGTERM: 0. A port that cannot be had: 1."""
    options = Options(
        **{name: getattr(arguments, name) for name in CREDENTIALS},
        token_life_seconds=arguments.token_life,
        key_life_seconds=arguments.key_life,
        metadata_tokens=arguments.metadata_tokens,
        body_bytes=arguments.body,
        deadline_seconds=arguments.deadline,
        v2_body_bytes=arguments.v2_body,
        v2_chunk_seconds=arguments.v2_chunk,
        word_seconds=arguments.word,
        models=tuple(arguments.model),
    )
    return asyncio.run(_serve(Simulator(options), arguments))


async def _serve(simulator: Simulator, arguments: argparse.Namespace) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    host, port = arguments.listen
    admin_host, admin_port = arguments.admin or (None, None)
    try:
        await simulator.start(host, port, admin_port, admin_host)
    except OSError as error:
        sys.stderr.write(
            f"simulate: cannot listen on {host}:{port} or its admin port: {error.strerror}\n"
            f"  --listen {host}:0 takes any free ports and says which.\n"
        )
        return 1
    try:
        if not _loopback(host):
            sys.stderr.write(f"simulate: {host} is not loopback; whoever reaches it can read what was sent here\n")
        if arguments.write_config is not None:
            text = example_config(simulator.urls, simulator.credentials, arguments.write_config)
            await asyncio.to_thread((arguments.write_config / "gateway.yaml").write_text, text)
        sys.stdout.write(describe(simulator, json_output=arguments.json))
        sys.stdout.flush()
        await stopped.wait()
    finally:
        await simulator.stop()
    return 0


def describe(simulator: Simulator, *, json_output: bool) -> str:
    """Addresses, one URL per family, and accepted credentials: for people, or as one JSON object on one line."""
    if json_output:
        return json.dumps({"urls": simulator.urls, "credentials": simulator.credentials}) + "\n"
    lines = ["The simulator is listening.", ""]
    lines += [f"  {name:11} {simulator.urls[name]}\n  {'':11} {what}" for name, what in _FAMILIES.items()]
    lines += ["", "It accepts:", ""]
    lines += [f"  {_flag(name):17} {value}" for name, value in simulator.credentials.items()]
    lines += ["", "Faults: header X-Simulate, or POST to the admin address. Ctrl-C ends it.", ""]
    return "\n".join(lines)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _limit(
    group: argparse._ArgumentGroup, name: str, read: Callable[[str], float | None], default: float | None, what: str
) -> None:
    def value(text: str) -> float | None:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    group.add_argument(f"--{name}", type=value, default=default, metavar="N", help=what)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"an address is HOST:PORT, as in {_LISTEN}; found {text!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
