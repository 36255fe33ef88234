"""Temporary access keys that were handed out, by a server's metadata service and by a pod's identity agent.

Sources: ECS user guide, "Obtaining Metadata" (Security Key); the official SDKs' requests to both.
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.simulator.answers import Answer, Refused, json_answer
from gateway.simulator.counters import Counters
from gateway.simulator.options import Options
from gateway.simulator.received import Head
from gateway.simulator.tokens import huawei_time

KEYS_PATH = "/openstack/latest/securitykey"
METADATA_TOKEN_PATH = "/meta-data/latest/api/token"  # noqa: S105 - a path
POD_PATH = "/pod-identity/credentials"
_TTL_FIELD = "X-Metadata-Token-Ttl-Seconds"
_LONGEST_TTL_SECONDS = 21600


@dataclass(frozen=True, slots=True)
class TemporaryKeys:
    """One set. ``expiry`` is Unix time in seconds."""

    secret: str
    security_token: str
    expiry: float


class KeyIssuer:
    """Hands out keys; the gate asks it for those that arrive. ``now`` is the simulator's Unix time."""

    def __init__(self, options: Options, counters: Counters, now: Callable[[], float]) -> None:
        self.options = options
        self._counters = counters
        self._now = now
        self._keys: dict[str, TemporaryKeys] = {}
        self._metadata_tokens: dict[str, float] = {}

    def find(self, access: str) -> TemporaryKeys | None:
        return self._keys.get(access)

    def metadata(self, head: Head, path: str, deviation: str | None) -> Answer:
        """The metadata service: a token by PUT, keys by GET; without a token as well, until ``metadata_tokens`` says no.

        Raises:
            Refused: no agency, a wrong or missing token, another method.
        """
        if path == METADATA_TOKEN_PATH:
            ttl = head.get(_TTL_FIELD) or ""
            if head.method != "PUT" or not ttl.isdecimal() or not 0 < int(ttl) <= _LONGEST_TTL_SECONDS:
                raise Refused(400, "Simulator.Metadata", f"PUT with {_TTL_FIELD} from 1 to {_LONGEST_TTL_SECONDS}.")
            token = secrets.token_urlsafe(40)
            self._metadata_tokens[token] = self._now() + int(ttl)
            return Answer(200, token.encode(), "text/plain")
        if head.method != "GET":
            raise Refused(405, "Simulator.Metadata", "Method Not Allowed")
        shown = head.get("X-Metadata-Token")
        if shown is None and self.options.metadata_tokens:
            raise Refused(401, "Simulator.Metadata", "Unauthorized: a metadata token is required")
        if shown is not None and self._metadata_tokens.get(shown, 0.0) <= self._now():
            raise Refused(401, "Simulator.Metadata", "Unauthorized: the metadata token is unknown or has expired")
        if deviation == "no-agency":
            raise Refused(401, "Simulator.Metadata", "Please configure Cloud Service Agency first")
        return self._issue(deviation)

    def pod(self, head: Head, deviation: str | None) -> Answer:
        """The agent of a pod's identity.

        Raises:
            Refused: 401, another token than the one in the pod's file.
        """
        if head.method != "POST":
            raise Refused(405, "Simulator.Pod", "Method Not Allowed")
        if not hmac.compare_digest((head.get("Authorization") or "").encode(), self.options.pod_token.encode()):
            raise Refused(401, "Simulator.Pod", "Unauthorized")
        return self._issue(deviation)

    def _issue(self, deviation: str | None) -> Answer:
        life_seconds = -1.0 if deviation == "already-expired" else self.options.key_life_seconds
        access = "SIMULATED" + secrets.token_hex(6).upper()
        keys = TemporaryKeys(secrets.token_hex(20), secrets.token_urlsafe(600), self._now() + life_seconds)
        self._keys[access] = keys
        self._counters.keys_issued += 1
        credential: dict[str, Any] = {  # Any: JSON
            "access": access,
            "secret": keys.secret,
            "securitytoken": keys.security_token,
            "expires_at": huawei_time(keys.expiry),
        }
        if deviation == "no-token":
            del credential["securitytoken"]
        if deviation == "no-expiry":
            del credential["expires_at"]
        if deviation == "empty":
            return Answer(200, b"")
        if deviation == "malformed":
            return Answer(200, b'{"credential": {"access": ')
        return json_answer(200, {"credential": credential})
