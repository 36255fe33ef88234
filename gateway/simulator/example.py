"""A gateway configuration that uses the simulator with every kind of credential."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

# Secret file names under the directory, by member of the simulator's credentials.
_SECRETS = ("password", "ak", "sk", "app_key", "app_secret", "app_code", "api_key")

_TEMPLATE = """\
# Every kind of credential, against the simulator. Made by modelarts-gateway; the secrets open nothing else.
listen: {listen}
admin: {admin}

credentials:
  account-token:
    kind: iam_token
    iam_url: {iam}
    domain: "{domain}"
    user: "{user}"
    password: {{file: "{directory}/password"}}
    project: "{project}"
  account-aksk:
    kind: aksk_signature
    access_key: {{file: "{directory}/ak"}}
    secret_key: {{file: "{directory}/sk"}}
  app-signature:
    kind: app_signature
    app_key: {{file: "{directory}/app_key"}}
    app_secret: {{file: "{directory}/app_secret"}}
  app-code: {{kind: app_code, app_code: {{file: "{directory}/app_code"}}}}
  app-key: {{kind: app_key, app_key: {{file: "{directory}/app_key"}}}}
  api-key: {{kind: api_key, api_key: {{file: "{directory}/api_key"}}}}
  open: {{kind: none}}

routes:
  # v1: 12 MiB and 40 s, which are the gateway's defaults
  - {{name: token, path: /token, upstream: "{v1_iam}", credential: account-token, websocket: true}}
  - {{name: aksk, path: /aksk, upstream: "{v1_iam}", credential: account-aksk}}
  - {{name: app, path: /app, upstream: "{v1_app}", credential: app-signature}}
  - {{name: code, path: /code, upstream: "{v1_app}", credential: app-code}}
  - {{name: key, path: /key, upstream: "{v1_app}", credential: app-key}}
  # v2: limits of the service's own
  - name: v2
    path: /v2
    upstream: "{v2}"
    credential: account-token
    websocket: true
    limits: {{body: 50MiB, deadline: 20m}}
  # MaaS: /maas/v1 is an OpenAI base URL
  - {{name: maas, path: /maas, upstream: "{maas}", credential: api-key, limits: {{body: 50MiB, deadline: 20m}}}}
  - {{name: open, path: /open, upstream: "{v2_open}", credential: open, websocket: true}}
"""


def example_config(
    urls: Mapping[str, str],
    credentials: Mapping[str, str],
    directory: str | os.PathLike[str],
    *,
    listen: str = "127.0.0.1:8080",
    admin: str = "127.0.0.1:8081",
) -> str:
    """The YAML of a gateway in front of this simulator; its secrets are written as files into ``directory``.

    ``urls`` and ``credentials`` are the simulator's members of that name. Routes: ``/token /aksk /app /code /key
    /v2 /maas /open``.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(directory).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in _SECRETS:
        file = folder / name
        file.touch(mode=0o600)
        file.write_text(credentials[name] + "\n")
    return _TEMPLATE.format(
        listen=listen,
        admin=admin,
        directory=_quoted(str(folder)),
        **{name: urls[name] for name in ("iam", "v1_iam", "v1_app", "v2", "v2_open", "maas")},
        **{name: _quoted(credentials[name]) for name in ("domain", "user", "project")},
    )


def _quoted(text: str) -> str:
    """Text as it stands between double quotes: JSON's strings are YAML's."""
    return json.dumps(text)[1:-1]
