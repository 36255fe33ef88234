"""Configurations that several flows share."""

from typing import Any

from running import Document, document, route

from gateway.simulator import Simulator


def credentials(simulator: Simulator, **iam: Any) -> Document:
    """One credential of each kind, whose secrets come from ``environ(simulator)``; ``iam`` changes the token's."""
    return {
        "token": {
            "kind": "iam_token",
            "iam_url": simulator.urls["iam"],
            "domain": simulator.options.domain,
            "user": simulator.options.user,
            "project": simulator.options.project,
            "password": {"env": "PASSWORD"},
            **iam,
        },
        "aksk": {"kind": "aksk_signature", "access_key": {"env": "AK"}, "secret_key": {"env": "SK"}},
        "temporary": {
            "kind": "aksk_signature",
            "access_key": {"env": "TEMPORARY_AK"},
            "secret_key": {"env": "TEMPORARY_SK"},
            "security_token": {"env": "SECURITY_TOKEN"},
        },
        "app": {"kind": "app_signature", "app_key": {"env": "APP_KEY"}, "app_secret": {"env": "APP_SECRET"}},
        "code": {"kind": "app_code", "app_code": {"env": "APP_CODE"}},
        "key": {"kind": "app_key", "app_key": {"env": "APP_KEY"}},
        "bearer": {"kind": "api_key", "api_key": {"env": "API_KEY"}},
    }


def environ(simulator: Simulator) -> dict[str, str]:
    """The simulator's accepted credentials as environment variables."""
    return {name.upper(): value for name, value in simulator.credentials.items()}


def routes(simulator: Simulator, **more: Any) -> list[Document]:
    """A route for each pair of service family and credential; ``more`` goes into each."""
    urls = simulator.urls
    return [
        route("token", urls["v1_iam"], "token", **more),
        route("aksk", urls["v1_iam"], "aksk", **more),
        route("temporary", urls["v1_iam"], "temporary", **more),
        route("app", urls["v1_app"], "app", **more),
        route("code", urls["v1_app"], "code", **more),
        route("key", urls["v1_app"], "key", **more),
        route("v2", urls["v2"], "token", **more),
        route("v2-key", urls["v2_api_key"], "bearer", **more),
        route("open", urls["v2_open"], "none", **more),
        route("maas", urls["maas"], "bearer", **more),
    ]


def everything(simulator: Simulator, **more: Any) -> Document:
    """All credentials and all routes."""
    return document(*routes(simulator), credentials=credentials(simulator), **more)
