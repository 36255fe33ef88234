"""IAM's ``POST /v3/auth/tokens`` with a password (IAM API Reference, "Obtaining a User Token Through Password Authentication")."""

import hmac
import json
from collections.abc import Callable
from typing import Any

from gateway.simulator.answers import JSON_TYPE, Answer, Refused
from gateway.simulator.counters import Counters
from gateway.simulator.lockout import Lockout
from gateway.simulator.options import Options
from gateway.simulator.tokens import Tokens, huawei_time

# IAM user guide, "Login Authentication Policy": five failures in 15 minutes lock the user for 15.
FAILURES = 5
WINDOW_SECONDS = 15 * 60
LOCK_SECONDS = 15 * 60


class Iam:
    """Hands out tokens for the one user it knows, in the one project or for the domain. ``now`` is Unix time."""

    def __init__(self, options: Options, tokens: Tokens, counters: Counters, now: Callable[[], float]) -> None:
        self._options = options
        self._tokens = tokens
        self._counters = counters
        self.locks = Lockout(FAILURES, WINDOW_SECONDS, LOCK_SECONDS, now)

    def answer(self, method: str, content: bytes, deviation: str | None) -> Answer:
        """201 with the token in ``X-Subject-Token``; ``deviation`` makes the answer bad in one respect (see faults).

        Raises:
            Refused: in IAM's shape; a wrong password counts towards the lock.
        """
        if method != "POST":
            raise Refused(404, "Keystone.404", "The simulator's IAM only issues tokens.")
        self._counters.iam_attempts += 1
        auth = _auth(content)
        user = self._check_password(auth)
        has_project = self._check_scope(auth.get("scope"))
        if deviation == "domain-scoped":
            has_project = False
        life_seconds = -1.0 if deviation == "already-expired" else self._options.token_life_seconds
        text, token = self._tokens.issue(life_seconds, has_project=has_project)
        self._counters.tokens_issued += 1
        body: dict[str, Any] = {  # Any: JSON
            "expires_at": huawei_time(token.expiry),
            "issued_at": huawei_time(token.issued),
            "methods": ["password"],
            "catalog": [],
            "roles": [{"id": "0", "name": "te_admin"}],
            "user": user,
        }
        domain = {"id": self._options.domain_id, "name": self._options.domain}
        if has_project:
            body["project"] = {"id": self._options.project_id, "name": self._options.project, "domain": domain}
        else:
            body["domain"] = domain
        if deviation == "no-expiry":
            del body["expires_at"]
        content = b"" if deviation == "empty" else json.dumps({"token": body}).encode()
        fields = () if deviation in {"no-token", "empty"} else (("X-Subject-Token", text),)
        return Answer(201, content, JSON_TYPE, fields)

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
        options = self._options
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

    def _check_scope(self, scope: Any) -> bool:  # Any: JSON
        """Whether the token gets a project. Both given: the project wins. None: a token for global services."""
        if scope is None:
            return False
        if not isinstance(scope, dict):
            raise _malformed()
        options = self._options
        project, domain = scope.get("project"), scope.get("domain")
        if isinstance(project, dict):
            if project.get("name") == options.project or project.get("id") == options.project_id:
                return True
            raise Refused(404, "Keystone.404", "Could not find the project of the scope.")
        if isinstance(domain, dict):
            if domain.get("name") == options.domain or domain.get("id") == options.domain_id:
                return False
            raise Refused(404, "Keystone.404", "Could not find the domain of the scope.")
        raise _malformed()


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
