"""The gateway that is fuzzed: its routes, its credentials, and limits that small inputs meet."""

import re
from typing import Any

# Our credentials, by the environment names that the configuration refers to.
SECRETS = {
    "APP_CODE": "our-app-code-0f5e",
    "APP_KEY": "our-app-key-77aa",
    "APP_SECRET": "our-app-secret-91cc",
    "MAAS_KEY": "our-maas-key-3b1d",
}
BASE = "/v1/infers/svc"
# Small, so that limits are met by small inputs.
HEAD_BYTES = 4096
OPEN_BODY_BYTES = 1024

# Route prefix, and the credential that is attached there; longest first.
ROUTES = (("/code/deep", "maas"), ("/code", "code"), ("/sig", "sig"), ("/key", "maas"), ("/open", ""), ("/ws", "code"))


def document(upstream_port: int) -> dict[str, Any]:  # Any: YAML
    """The configuration."""
    base = f"http://127.0.0.1:{upstream_port}{BASE}"

    def route(path: str, credential: str, **more: Any) -> dict[str, Any]:
        name = re.sub(r"\W", "-", path.strip("/"))
        return {"name": name, "path": path, "upstream": base + path, "credential": credential, **more}

    return {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "process": {"drain_delay": "0s", "head_bytes": f"{HEAD_BYTES}B"},
        "credentials": {
            "code": {"kind": "app_code", "app_code": {"env": "APP_CODE"}},
            "sig": {"kind": "app_signature", "app_key": {"env": "APP_KEY"}, "app_secret": {"env": "APP_SECRET"}},
            "maas": {"kind": "api_key", "api_key": {"env": "MAAS_KEY"}},
        },
        "routes": [
            route("/code", "code"),
            route("/code/deep", "maas"),
            route("/sig", "sig", replay="2KiB"),
            route("/key", "maas"),
            route("/open", "none", limits={"body": f"{OPEN_BODY_BYTES}B"}),
            route("/ws", "code", websocket=True),
        ],
    }
