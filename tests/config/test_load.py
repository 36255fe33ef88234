"""A right file becomes a frozen configuration."""

import ipaddress
import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config import Address, Process, Tls
from gateway.routes import Breaker, Connection, Cors, Limits, Rate, Retry, Route, UpstreamUrl

from .support import ENVIRON, ROUTE, SECRET, loaded

FULL = """
    listen: unix:/run/gateway/gateway.sock
    admin: "[::1]:9000"
    workers: 3
    process: {in_flight: 5, head: 1s, head_bytes: 8KiB, keep_alive: 2s, body_memory: 1GiB, drain: 1m, drain_delay: 0s}
    credentials:
      code: {kind: app_code, app_code: {env: APP_CODE}}
      signature: {kind: app_signature, app_key: {file: secrets/app-key}}
      open: {kind: none}
    routes:
      - name: poetry
        path: /poetry/
        upstream: https://h.example/v1/infers/S/
        credential: signature
        methods: [POST, GET, POST]
        limits: {body: 1MB, connect: 1s, first_byte: 2s, idle: 3s, deadline: 4s, in_flight: 5, rate: 6/s burst 7}
        replay: 64KiB
        retry: {attempts: 3, idempotent: true}
        websocket: true
        breaker: {failures: 2, open: 3s}
        cors: {origins: ["https://a.example"], headers: [Content-Type], credentials: true, max_age: 1m}
        connection: {address: "10.0.0.8:443", proxy: "http://proxy:3128"}
        forwarded: true
      - {name: chat, path: /chat, upstream: "https://c.example", credential: code}
      - {name: open, path: /open, upstream: "http://127.0.0.1:9", credential: open}
      - {name: rest, path: /, upstream: "http://127.0.0.1:9", credential: none}
    callers:
      - {name: team-a, token: {env: APP_SECRET}, routes: [poetry, chat], rate: 10/s}
      - {name: cluster, addresses: [10.0.0.0/8, "::1"], routes: ["*"], limits: {in_flight: 3, rate: 5/m}}
    """


@pytest.fixture
def secrets(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "app-key").write_text(f"{SECRET}\n")


@pytest.mark.usefixtures("secrets")
def test_everything(tmp_path: Path) -> None:
    """Every key arrives where the gateway looks for it, in base units."""
    config = loaded(tmp_path, FULL)

    assert config.listen == Address(unix_path="/run/gateway/gateway.sock")
    assert config.admin == Address("::1", 9000)
    assert config.workers == 3
    assert config.process == Process(5, 1.0, 8192, 2.0, 1024**3, 60.0, 0.0)
    assert set(config.credentials) == {"code", "signature"}
    assert config.routes[0] == Route(
        name="poetry",
        prefix="/poetry",
        upstream=UpstreamUrl("https", "h.example", 443, "h.example", "/v1/infers/S"),
        credential="signature",
        signed=True,
        methods=("POST", "GET"),
        limits=Limits(1_000_000, 1.0, 2.0, 3.0, 4.0, 5, Rate(6.0, 7)),
        replay_bytes=65536,
        retry=Retry(3, idempotent=True),
        websocket=True,
        breaker=Breaker(2, 3.0),
        cors=Cors(("https://a.example",), ("Content-Type",), True, 60.0),
        connection=Connection(address=("10.0.0.8", 443), proxy=("proxy", 3128)),
        forwarded=True,
    )
    assert [(route.credential, route.signed, route.prefix) for route in config.routes[1:]] == [
        ("code", False, "/chat"),
        (None, False, "/open"),
        (None, False, ""),
    ]
    team, cluster = config.callers
    assert team.token is not None
    assert team.token.reveal() == ENVIRON["APP_SECRET"]
    assert (team.routes, team.in_flight, team.rate) == (frozenset({"poetry", "chat"}), None, Rate(10.0, 10))
    assert cluster.networks == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1"))
    assert (cluster.routes, cluster.in_flight, cluster.rate) == (None, 3, Rate(5 / 60, 5))


def test_defaults(tmp_path: Path) -> None:
    """One route is a whole configuration; the rest has its defaults."""
    config = loaded(tmp_path, ROUTE)

    assert (config.listen, config.admin) == (Address("127.0.0.1", 8080), Address("127.0.0.1", 8081))
    assert (config.workers, config.tls, config.process, config.callers) == (1, None, Process(), ())
    assert config.routes == (
        Route("poetry", "/poetry", UpstreamUrl("https", "h.example", 443, "h.example", "/v1"), None),
    )
    assert config.warnings == ()
    assert config.path == tmp_path / "gateway.yaml"


def test_defaults_of_sections_that_are_begun(tmp_path: Path) -> None:
    """A section with some of its keys keeps the defaults of the others."""
    config = loaded(
        tmp_path,
        """
        process: {drain: 1m}
        routes:
          - name: a
            path: /a
            upstream: https://h
            credential: none
            limits: {body: 1MiB}
            retry: {attempts: 1}
            breaker: {failures: 3}
            cors: {origins: ["*"]}
        """,
    )

    assert config.process == Process(drain_seconds=60.0)
    route = config.routes[0]
    assert route.limits == Limits(body_bytes=1024**2)
    assert (route.retry, route.breaker, route.cors) == (Retry(attempts=1), Breaker(3, 10.0), Cors(("*",)))


def test_none_switches_limits_off(tmp_path: Path) -> None:
    """Every limit can be switched off; a delay and a replay of none are 0."""
    config = loaded(
        tmp_path,
        """
        process: {in_flight: none, head: none, head_bytes: none, keep_alive: none, body_memory: none, drain: none, drain_delay: none}
        routes:
          - name: a
            path: /a
            upstream: https://h
            credential: none
            limits: {body: none, connect: none, first_byte: none, idle: none, deadline: none, in_flight: none, rate: none}
            replay: none
        """,
    )

    assert config.process == Process(None, None, None, None, None, None, 0.0)
    assert config.routes[0].limits == Limits(None, None, None, None, None, None, None)
    assert config.routes[0].replay_bytes == 0


def test_workers_auto(tmp_path: Path) -> None:
    """auto is one worker for each core this process may use."""
    assert loaded(tmp_path, f"workers: auto\n{ROUTE}").workers == len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("tls_files")
def test_tls(tmp_path: Path) -> None:
    """Certificate and key are tried when the file is loaded; relative paths start at its folder."""
    config = loaded(tmp_path, f"tls: {{certificate: tls.crt, key: tls.key, client_ca: ca.crt}}\n{ROUTE}")

    assert config.tls == Tls(*(str(tmp_path / name) for name in ("tls.crt", "tls.key", "ca.crt")))


def test_yaml_anchors(tmp_path: Path) -> None:
    """Routes may share what they have in common."""
    config = loaded(
        tmp_path,
        """
        routes:
          - &first {name: a, path: /a, upstream: "https://h", credential: none, limits: {deadline: 5s}}
          - {<<: *first, name: b, path: /b}
        """,
    )

    assert [(route.name, route.limits.deadline_seconds) for route in config.routes] == [("a", 5.0), ("b", 5.0)]


@pytest.mark.usefixtures("secrets")
def test_a_reload_without_changes_is_equal(tmp_path: Path) -> None:
    """Loaded again over the first, what did not change compares equal, a rotated secret included."""
    first = loaded(tmp_path, FULL)
    second = loaded(tmp_path, FULL, previous=first.secrets)
    third = loaded(tmp_path, FULL.replace("secrets/app-key", "secrets/../secrets/app-key"), previous=second.secrets)

    assert first.credentials == second.credentials
    assert first.routes == second.routes
    assert first.callers == second.callers
    assert second.credentials["signature"] != third.credentials["signature"]


@pytest.mark.usefixtures("secrets")
def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    """A configuration can be printed; its secrets cannot."""
    config = loaded(tmp_path, FULL)

    assert SECRET not in repr(config) + str(config) + repr(dict(config.credentials)) + repr(config.secrets)


@pytest.mark.usefixtures("secrets")
def test_frozen(tmp_path: Path) -> None:
    """A configuration does not change once it is made."""
    config = loaded(tmp_path, FULL)

    with pytest.raises(FrozenInstanceError):
        config.workers = 2  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.credentials["code"].kind = "other"
