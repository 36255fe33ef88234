"""What is allowed, and an operator should know of all the same."""

from collections.abc import Iterator
from dataclasses import replace

from gateway.config.places import Address, is_loopback
from gateway.config.shapes import Config
from gateway.config.units import duration_text
from gateway.routes import UpstreamUrl


def with_warnings(config: Config) -> Config:
    """The same configuration, its ``warnings`` filled in."""
    return replace(
        config,
        warnings=(
            *_exposure(config),
            *_cleartext(config),
            *config.secrets.oddities(),
            *_callers(config),
            *_limits(config),
            *_unused(config),
        ),
    )


def _exposure(config: Config) -> Iterator[str]:
    client_ca = config.tls is not None and config.tls.client_ca is not None
    if not config.listen.loopback and not config.callers and not client_ca:
        yield (
            f"listen {config.listen} is open to the network with neither callers nor tls.client_ca: "
            "whoever reaches the port may use every credential"
        )
    for route in config.routes:
        if route.upstream.scheme == "http" and _is(config.listen, route.upstream):
            yield f"route '{route.name}' leads back to this gateway (upstream {route.upstream.authority}): requests will end with 508"


def _cleartext(config: Config) -> Iterator[str]:
    for route in config.routes:
        if route.credential is not None and _in_clear(route.upstream):
            yield f"route '{route.name}' sends credential '{route.credential}' over http to {route.upstream.authority}, readable on the way; use https"
    for name, settings in config.credentials.items():
        for key in type(settings).model_fields:
            value = getattr(settings, key)
            if isinstance(value, UpstreamUrl) and _in_clear(value):
                yield f"credential '{name}' is obtained over http from {value.authority} ({key}), readable on the way; use https"
    if config.tls is None and not config.listen.loopback and any(caller.token for caller in config.callers):
        yield f"callers send their tokens over http to {config.listen}, readable on the way; set tls, or put TLS in front"


def _callers(config: Config) -> Iterator[str]:
    for caller in config.callers:
        if caller.networks and not caller.token and not caller.certificate and config.listen.unix_path is not None:
            yield f"caller '{caller.name}' is known by its address, and a Unix socket has none: it will never be recognised"
    if config.callers and all(caller.routes is not None for caller in config.callers):
        allowed = frozenset[str]().union(*(caller.routes or () for caller in config.callers))
        for route in config.routes:
            if route.name not in allowed:
                yield f"no caller may use route '{route.name}'"


def _limits(config: Config) -> Iterator[str]:
    process = config.process
    for route in config.routes:
        deadline = route.limits.deadline_seconds
        for key, seconds in (
            ("connect", route.limits.connect_seconds),
            ("first_byte", route.limits.first_byte_seconds),
        ):
            if deadline is not None and seconds is not None and seconds > deadline:
                yield f"route '{route.name}': limits.{key} is longer than limits.deadline ({duration_text(deadline)}), which ends the request first"
        if route.websocket and route.methods and "GET" not in route.methods:
            yield f"route '{route.name}': a WebSocket handshake is a GET, and methods does not name it"
        if process.body_memory_bytes is not None and route.replay_bytes > process.body_memory_bytes:
            yield f"route '{route.name}': replay is larger than process.body_memory, which all bodies share"
    longest = max((route.limits.deadline_seconds or 0.0 for route in config.routes), default=0.0)
    if process.drain_seconds is not None and longest > process.drain_seconds:
        yield (
            f"process.drain ({duration_text(process.drain_seconds)}) is shorter than the longest limits.deadline "
            f"({duration_text(longest)}): a restart may cut running requests"
        )


def _unused(config: Config) -> Iterator[str]:
    used = {route.credential for route in config.routes}
    for name in config.credentials:
        if name not in used:
            yield f"no route uses credential '{name}'"


def _in_clear(url: UpstreamUrl) -> bool:
    return url.scheme == "http" and not is_loopback(url.host)


def _is(listen: Address, url: UpstreamUrl) -> bool:
    everywhere = listen.host in {"0.0.0.0", "::"} and is_loopback(url.host)  # noqa: S104 - compared, not bound
    return listen.port == url.port and (everywhere or listen.host == url.host)
