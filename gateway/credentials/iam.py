"""Asking IAM for a token, whoever one is (IAM API Reference, "Token Management").

Nothing of an answer's body or headers gets out of here but the token: both may quote it.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from gateway.credentials.asking import Answer, ask, instant
from gateway.credentials.token import Cause, FetchFailed, Token
from gateway.routes import Connection, UpstreamUrl

log = logging.getLogger(__name__)

# The catalogue of endpoints would make the answer's body many times larger; the token is the same without it.
TOKENS_PATH = "/v3/auth/tokens?nocatalog=true"
# Tokens of 6 to 9 KB are documented, services state maxima from 5,000 characters up; no gateway takes a header this long.
_LARGEST_TOKEN_BYTES = 64 * 1024
# Two clocks that differ by less are as good as equal; the network takes some of it.
_SKEW_SECONDS = 60.0

_TOKEN = re.compile(rb"[!-~]+")
# IAM's own error codes are safe to repeat; whatever else stands in an error body is not.
_IAM_CODE = re.compile(rb'"(IAM\.[0-9]{4})"')


@dataclass(frozen=True, slots=True)
class Scope:
    """The project that a token is for, by name or by id: a token of any other scope is of no use to inference services."""

    project: str | None = None
    project_id: str | None = None

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        return {"project": {"name": self.project} if self.project_id is None else {"id": self.project_id}}


@dataclass(frozen=True, slots=True)
class Meanings:
    """What IAM's refusals mean for the one who asked: what to check, in words."""

    on_401: str
    on_403: str
    on_404: str
    cause_of_401: Cause


class Iam:
    """One IAM address, and how it is reached."""

    def __init__(self, url: UpstreamUrl, connection: Connection, wall: Callable[[], float]) -> None:
        self.authority = url.authority
        self._url = url
        self._connection = connection
        self._wall = wall

    async def issue(
        self,
        auth: Mapping[str, Any],  # Any: JSON
        meanings: Meanings,
        *,
        path: str = TOKENS_PATH,
        fields: Mapping[str, str] | None = None,
        project_scoped: bool = True,
    ) -> Token:
        """A new token. Time limits are the caller's.

        Raises:
            FetchFailed: with a reason that is safe to show.
        """
        answer = await ask(
            "POST",
            self._url,
            f"{_base(self._url.base_path)}{path}",
            who="IAM",
            fields={"Content-Type": "application/json;charset=utf8", **(fields or {})},
            body=json.dumps({"auth": auth}).encode(),
            connection=self._connection,
        )
        now = self._wall()
        if answer.status not in (200, 201):
            raise _refusal(answer, meanings, now)
        value = _token_value(answer.fields.get("x-subject-token", []))
        return _described(value, answer, now, project_scoped=project_scoped)


def _base(base_path: str) -> str:
    """The path before ``/v3``: people write the address with and without it."""
    return base_path.removesuffix("/auth/tokens").removesuffix("/v3")


def _refusal(answer: Answer, meanings: Meanings, now: float) -> FetchFailed:
    status = answer.status
    code = _IAM_CODE.search(answer.body)
    said = f"{status} {code.group(1).decode()}" if code is not None else f"{status}"
    told = _told(answer.body)
    wait = answer.retry_after_seconds(now)
    if status == 401:
        if "IAM.0061" in said or "locked" in told:
            reason = (
                "IAM has locked this user after too many wrong passwords, and unlocks it by itself after 15 minutes"
            )
        elif "IAM.0066" in said:
            reason = "the password or token shown to IAM has expired; set a new one"
        else:
            reason = meanings.on_401
        if meanings.cause_of_401 is Cause.LOCK_OUT:
            reason += "; not tried again before the secret changes or 15 minutes have passed"
        return FetchFailed(f"{reason} ({said})", meanings.cause_of_401, status=status)
    if status == 403:
        reason = meanings.on_403
        if "IAM.0081" in said:
            reason = "this user has no programmatic access; allow it in IAM under the user's access type"
        return FetchFailed(f"{reason} ({said})", Cause.REFUSED, retry_after_seconds=wait)
    if status == 400:
        return FetchFailed(
            f"IAM rejected the request ({said}); check project, domain and user",
            Cause.REFUSED,
            retry_after_seconds=wait,
        )
    if 300 <= status < 400:
        return FetchFailed(f"IAM redirected ({said}), and redirects are not followed; is iam_url right?")
    if status == 404:
        return FetchFailed(f"{_not_found(told, meanings)} ({said})")
    if status == 429:
        return FetchFailed(f"IAM is throttling ({said})", retry_after_seconds=wait)
    return FetchFailed(f"IAM answered {said}", retry_after_seconds=wait)


def _not_found(told: str, meanings: Meanings) -> str:
    if "project" in told:
        return (
            "IAM knows no such project; a project is named after its region, as cn-north-4, and lives in that region "
            "alone (console: My Credentials, Projects)"
        )
    if meanings.on_404 and told:
        return meanings.on_404
    return "there is no IAM at this address, or no such project or domain"


def _told(body: bytes) -> str:
    """The text of an error body in lower case, to look for words in; never to be shown."""
    return body[:4096].decode("utf-8", "replace").lower() if body.lstrip().startswith(b"{") else ""


def _token_value(values: list[str]) -> bytes:
    if len(set(values)) > 1:
        raise FetchFailed("IAM answered with two tokens")
    value = values[0].encode("utf-8", "surrogateescape") if values else b""
    if not value:
        raise FetchFailed("IAM answered without a token (X-Subject-Token)")
    if len(value) > _LARGEST_TOKEN_BYTES:
        raise FetchFailed(f"IAM's token is over {_LARGEST_TOKEN_BYTES // 1024} KiB")
    if _TOKEN.fullmatch(value) is None:
        raise FetchFailed("IAM's token holds characters that no token has")
    return value


def _described(value: bytes, answer: Answer, now: float, *, project_scoped: bool) -> Token:
    """The token as the answer's body describes it, its expiry told on our clock."""
    try:
        body: Any = json.loads(answer.body)  # whatever IAM, or something in its place, sent
    except (ValueError, RecursionError):
        raise FetchFailed("IAM's answer is empty or not JSON") from None
    token = body.get("token") if isinstance(body, dict) else None
    if not isinstance(token, dict):
        raise FetchFailed("IAM's answer does not describe a token")
    if project_scoped:
        _check_scope(token)
    expires_at = token.get("expires_at")
    if not isinstance(expires_at, str):
        raise FetchFailed("IAM's answer does not say when the token expires (expires_at)")
    expiry = instant(expires_at)
    if expiry is None:
        raise FetchFailed("IAM's answer does not say when the token expires in a form we know (expires_at)")
    ahead = _ahead_seconds(instant(token.get("issued_at")), answer.get("Date"), now)
    if ahead:
        log.warning(
            "the clock of IAM is %.0fs %s ours; is this machine's clock right?",
            abs(ahead),
            "ahead of" if ahead > 0 else "behind",
        )
    if expiry - ahead <= now:
        raise FetchFailed("the token that IAM issued has already expired; is this machine's clock right?")
    return Token(value, expiry - ahead, ahead)


def _check_scope(token: Mapping[str, Any]) -> None:  # Any: JSON
    project = token.get("project")
    if isinstance(project, dict) and isinstance(project.get("id"), str) and project["id"]:
        return
    what = "the token is not project-scoped, and inference services take no other"
    if isinstance(token.get("domain"), dict):
        what += ": IAM gave one for the whole account (domain scope); is the project's name or id right?"
    raise FetchFailed(what)


def _ahead_seconds(issued: float | None, date: str | None, now: float) -> float:
    """IAM's clock minus ours where they differ by more than a minute and two witnesses agree: the answer's Date, and the
    token's own time of issue. A cached answer has an old token and a fresh Date, and says nothing."""
    if issued is None or date is None or abs(issued - now) <= _SKEW_SECONDS:
        return 0.0
    try:
        told = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return issued - now if abs(told - issued) <= _SKEW_SECONDS else 0.0
