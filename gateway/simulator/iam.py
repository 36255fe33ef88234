"""IAM's tokens: by password, for an agency, by ID token (IAM API Reference, "Token Management")."""

import hmac
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from gateway.simulator.answers import JSON_TYPE, Answer, Refused
from gateway.simulator.counters import Counters
from gateway.simulator.lockout import Lockout
from gateway.simulator.options import Options
from gateway.simulator.places import ID_TOKEN_PATH
from gateway.simulator.received import Head
from gateway.simulator.tokens import Token, Tokens, huawei_time

# IAM user guide, "Login Authentication Policy": five failures in 15 minutes lock the user for 15.
FAILURES = 5
WINDOW_SECONDS = 15 * 60
LOCK_SECONDS = 15 * 60
_LONG_TOKEN_LENGTH = 20_000
_ENDLESS_TOKEN_LENGTH = 70_000


class Iam:
    """Hands out tokens for the one user, the one agency and the one identity that it knows, in the one project or for
    the domain. ``now`` is Unix time."""

    def __init__(self, options: Options, tokens: Tokens, counters: Counters, now: Callable[[], float]) -> None:
        self.options = options
        self._tokens = tokens
        self._counters = counters
        self._now = now
        self.locks = Lockout(FAILURES, WINDOW_SECONDS, LOCK_SECONDS, now)

    def answer(self, head: Head, path: str, content: bytes, deviation: str | None) -> Answer:
        """201 with the token in ``X-Subject-Token``; ``deviation`` makes the answer bad in one respect (see faults).

        Raises:
            Refused: in IAM's shape; a wrong password counts towards the lock.
        """
        if head.method != "POST":
            raise Refused(404, "Keystone.404", "The simulator's IAM only issues tokens.")
        auth = _auth(content)
        method, user = self._check_identity(head, path, auth)
        has_project = self._check_scope(auth.get("scope"), agency=method == "assume_role")
        if deviation == "domain-scoped":
            has_project = False
        life_seconds = -1.0 if deviation == "already-expired" else self.options.token_life_seconds
        length = {"long-token": _LONG_TOKEN_LENGTH, "endless-token": _ENDLESS_TOKEN_LENGTH}.get(deviation or "")
        text, token = self._tokens.issue(life_seconds, has_project=has_project, length=length)
        self._counters.tokens_issued += 1
        return self._described(text, token, method, user, deviation)

    def _described(
        self,
        text: str,
        token: Token,
        method: str,
        user: dict[str, Any],  # Any: JSON
        deviation: str | None,
    ) -> Answer:
        body: dict[str, Any] = {  # Any: JSON
            "expires_at": huawei_time(token.expiry),
            "issued_at": huawei_time(token.issued),
            "methods": [method],
            "catalog": [],
            "roles": [{"id": "0", "name": "te_admin"}],
            "user": user,
        }
        domain = {"id": self.options.domain_id, "name": self.options.domain}
        if token.has_project:
            body["project"] = {"id": self.options.project_id, "name": self.options.project, "domain": domain}
        else:
            body["domain"] = domain
        if deviation == "no-expiry":
            del body["expires_at"]
        if deviation == "odd-expiry":
            body["expires_at"] = "tomorrow"
        if deviation == "plain-expiry":
            body["expires_at"] = body["expires_at"].partition(".")[0]
        content = b"" if deviation == "empty" else json.dumps({"token": body}).encode()
        if deviation == "malformed":
            content = content[:-2]
        fields: tuple[tuple[str, str], ...] = (("X-Subject-Token", text),)
        if deviation in {"no-token", "empty"}:
            fields = ()
        if deviation == "two-tokens":
            fields = (*fields, ("X-Subject-Token", text[::-1]))
        return Answer(201, _pieces(content) if deviation == "chunked" else content, JSON_TYPE, fields)

    def _check_identity(
        self,
        head: Head,
        path: str,
        auth: dict[str, Any],  # Any: JSON
    ) -> tuple[str, dict[str, Any]]:
        """The method that was used, and the user as the token describes him."""
        self._counters.iam_attempts += 1
        if path == ID_TOKEN_PATH:
            return "mapped", self._check_id_token(head, auth)
        identity = auth.get("identity")
        if isinstance(identity, dict) and identity.get("methods") == ["assume_role"]:
            return "assume_role", self._check_agency(head, identity)
        return "password", self._check_password(auth)

    def _check_id_token(self, head: Head, auth: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
        shown = auth.get("id_token")
        text = shown.get("id") if isinstance(shown, dict) else None
        if not isinstance(text, str):
            raise _malformed()
        if head.get("X-Idp-Id") != self.options.idp:
            raise Refused(404, "Keystone.404", "Could not find the identity provider.")
        if not hmac.compare_digest(text.encode(), self.options.id_token.encode()):
            raise Refused(401, "Keystone.401", "The ID token is invalid.")
        return {"id": "51aa7ed05e4f00000000000000000001", "name": "federated", "domain": {"name": self.options.domain}}

    def _check_agency(self, head: Head, identity: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
        shown = head.get("X-Auth-Token")
        token = None if shown is None else self._tokens.find(shown)
        if token is None or token.revoked or self._now() >= token.expiry:
            raise Refused(401, "Keystone.401", "The token is missing, unknown or has expired.")
        role = identity.get("assume_role")
        if not isinstance(role, dict):
            raise _malformed()
        if role.get("domain_name") != self.options.agency_domain or role.get("agency_name") != self.options.agency:
            raise Refused(404, "Keystone.404", "Could not find the agency.")
        name = f"{self.options.agency_domain}/{self.options.agency}"
        return {"id": "51aa7ed05e4f00000000000000000002", "name": name, "domain": {"name": self.options.agency_domain}}

    def _check_password(self, auth: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
        try:
            identity = auth["identity"]
            methods, user = identity["methods"], identity["password"]["user"]
            name, domain, password = user["name"], user["domain"], user["password"]
            named = (domain.get("name"), domain.get("id"))
        except (KeyError, TypeError, AttributeError) as error:
            raise _malformed() from error
        if methods != ["password"] or not isinstance(name, str) or not isinstance(password, str):
            raise _malformed()
        if self.locks.locked(name):
            raise Refused(401, "IAM.0061", "The account is locked. Try again in 15 minutes.")
        options = self.options
        right_user = name == options.user and (options.domain == named[0] or options.domain_id == named[1])
        if not hmac.compare_digest(password.encode(), options.password.encode()) or not right_user:
            self.locks.failed(name)
            raise Refused(401, "Keystone.401", "The username or password is wrong.")
        self.locks.succeeded(name)
        return {
            "id": "51aa7ed05e4f00000000000000000000",
            "name": name,
            "password_expires_at": "",
            "domain": {"id": options.domain_id, "name": options.domain},
        }

    def _check_scope(self, scope: Any, *, agency: bool = False) -> bool:  # Any: JSON
        """Whether the token gets a project. Both given: the project wins. None: a token for global services."""
        if scope is None:
            return False
        if not isinstance(scope, dict):
            raise _malformed()
        options = self.options
        project, domain = scope.get("project"), scope.get("domain")
        if isinstance(project, dict):
            if project.get("name") == options.project or project.get("id") == options.project_id:
                return True
            raise Refused(404, "Keystone.404", "Could not find the project of the scope.")
        if isinstance(domain, dict):
            if (
                domain.get("name") == (options.agency_domain if agency else options.domain)
                or domain.get("id") == options.domain_id
            ):
                return False
            raise Refused(404, "Keystone.404", "Could not find the domain of the scope.")
        raise _malformed()


async def _pieces(content: bytes) -> AsyncGenerator[bytes, None]:
    """Without a length, a few octets at a time."""
    for position in range(0, len(content), 100):
        yield content[position : position + 100]


def _malformed() -> Refused:
    return Refused(400, "Keystone.400", "The request body is invalid")


def _auth(content: bytes) -> dict[str, Any]:  # Any: JSON
    try:
        auth = json.loads(content)["auth"]
    except (ValueError, KeyError, TypeError) as error:
        raise _malformed() from error
    if not isinstance(auth, dict):
        raise _malformed()
    return auth
