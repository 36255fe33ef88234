"""The finished configuration: frozen, checked, with nothing left to look up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from gateway.config.places import Address
from gateway.config.secrets import SecretStore
from gateway.config.types import CredentialSettings
from gateway.routes import Rate, Route
from gateway.secret import Secret


@dataclass(frozen=True, slots=True)
class Tls:
    """HTTPS for callers: paths of PEM files. With ``client_ca`` a caller must show a certificate."""

    certificate: str
    key: str
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """Limits of the whole process; ``None`` switches one off."""

    in_flight: int | None = 1000  # requests at once
    head_seconds: float | None = 10.0  # first byte of a request head to its last
    head_bytes: int | None = 64 * 1024  # request line and headers together
    keep_alive_seconds: float | None = 75.0  # end of an answer to the next request's first byte
    body_memory_bytes: int | None = 256 * 1024 * 1024  # all buffered bodies together
    drain_seconds: float | None = 45.0  # listening stopped to running requests cut; 0 cuts at once, None never
    drain_delay_seconds: float = 5.0  # readiness fails to listening stops


@dataclass(frozen=True, slots=True)
class Caller:
    """Who may use which routes; at least one of ``token``, ``certificate`` and ``networks`` is set."""

    name: str
    token: Secret | None = None
    certificate: str | None = None  # URI, DNS name or CN
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    routes: frozenset[str] | None = None  # None: all of them
    in_flight: int | None = None
    rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """One whole configuration. ``credentials`` leaves out those of ``kind: none``."""

    path: Path
    listen: Address
    admin: Address
    workers: int
    tls: Tls | None
    process: Process
    credentials: Mapping[str, CredentialSettings]
    routes: tuple[Route, ...]
    callers: tuple[Caller, ...]
    secrets: SecretStore
    warnings: tuple[str, ...] = field(default=(), compare=False)
