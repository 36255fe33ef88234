"""Answers, and refusals in the documented shapes: API Gateway, dispatcher, MaaS, IAM, and the model's own code."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

JSON_TYPE = "application/json;charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, fields and content of an answer; content that is iterated leaves chunk by chunk."""

    status: int
    content: bytes | AsyncGenerator[bytes, None]
    content_type: str = JSON_TYPE
    fields: tuple[tuple[str, str], ...] = ()
    close: bool = False  # the connection ends after it


def json_answer(status: int, value: Any, fields: tuple[tuple[str, str], ...] = ()) -> Answer:  # Any: JSON
    return Answer(status, json.dumps(value, ensure_ascii=False).encode(), fields=fields)


@dataclass(eq=False)
class Refused(Exception):
    """A documented refusal. ``code`` decides its shape; codes that begin with ``Simulator.`` are our own.

    Made anew for each raise: an exception that is raised again grows its traceback.
    """

    status: int
    code: str
    message: str
    fields: tuple[tuple[str, str], ...] = field(default=())
    close: bool = False

    def answer(self, request_id: str) -> Answer:
        """The body as the part of the platform that owns the code writes it."""
        content = json.dumps(self._body(request_id), ensure_ascii=False).encode()
        return Answer(self.status, content, fields=self.fields, close=self.close)

    def _body(self, request_id: str) -> dict[str, Any]:  # Any: JSON
        prefix, _, number = self.code.partition(".")
        if prefix == "MR":  # a predefined model's own error; `erno` is spelt so
            return {"erno": self.code, "msg": self.message}
        if prefix == "Keystone":  # IAM v3
            title = {400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}.get(self.status, "Error")
            return {"error": {"code": self.status, "message": self.message, "title": title}}
        if prefix == "Simulator" and number in {"Metadata", "Pod"}:
            return {"error": {"code": self.status, "message": self.message}}
        if prefix == "IAM":
            return {"error_code": self.code, "error_msg": self.message}
        if prefix == "ModelArts" and number.startswith("81"):  # MaaS writes both shapes into one body
            kind = {401: "Unauthorized", 404: "NotFound", 429: "TooManyRequests"}.get(self.status, "BadRequest")
            openai = {"code": self.code, "message": self.message, "param": None, "type": kind}
            return {"error": openai, "error_code": self.code, "error_msg": self.message, "span_id": request_id}
        if prefix in {"ModelArts", "CF2"}:  # the dispatcher names no request id
            return {"error_code": self.code, "error_msg": self.message}
        return {"error_code": self.code, "error_msg": self.message, "request_id": request_id}


_IAM_SIDE = "Incorrect IAM authentication information: "
_APP_SIDE = "Incorrect app authentication information: "


def iam_side(reason: str) -> Refused:
    """401 of the v1 IAM address (API Gateway FAQ, "Common Errors Related to IAM Authentication Information")."""
    return Refused(401, "APIG.0301", _IAM_SIDE + reason)


def app_side(reason: str) -> Refused:
    """401 of the v1 app address (API Gateway FAQ, "What Should I Do If the App Authentication Information Is Incorrect?")."""
    return Refused(401, "APIG.0303", _APP_SIDE + reason)


# Refusals that can be asked for by name. The codes and statuses are documented (API Gateway user guide,
# "Error Codes"; ModelArts API reference, "Error Codes"; MaaS user guide, "Error Codes"); where a message is
# not, it holds the fragment that is known.
NAMED: dict[str, Refused] = {
    "expired-token": iam_side("token expires, expires_at: 2020-01-04T09:05:22.701000Z"),
    "stale-token": Refused(401, "APIG.0307", "The token must be updated."),
    "invalid-token": iam_side("decrypt token fail"),
    "bad-signature": iam_side("verify aksk signature fail, canonicalRequest:POST|/||host:simulated||host|e3b0c442"),
    "unknown-key": iam_side("Get secretKey failed,ak:SIMULATED,err:ak not exist"),
    "no-project": Refused(401, "ModelArts.0212", "The token has no project item."),
    "other-region": Refused(401, "ModelArts.0207", "Not found project info of current region in token."),
    # IAM's own (IAM API Reference, "Error Codes").
    "locked-user": Refused(401, "IAM.0061", "The account is locked. Try again in 15 minutes."),
    "wrong-password": Refused(401, "IAM.0062", "Incorrect password."),
    "password-expired": Refused(401, "IAM.0066", "The password has expired."),
    "no-access": Refused(403, "IAM.0081", "The user has no programmatic access."),
    "locked": iam_side("AK access failed to reach the limit,forbidden"),
    "app-not-found": app_side("app not found, appkey 00000000000000000000000000000000"),
    "app-not-authorised": Refused(403, "APIG.0304", "The app is not authorized to access the API."),
    "denied": Refused(403, "APIG.0306", "API access denied."),
    "unknown-api": Refused(404, "APIG.0101", "The API does not exist or has not been published in the environment."),
    "too-large": Refused(413, "APIG.0201", "Request entity too large."),
    "throttled": Refused(
        429, "APIG.0308", "The throttling threshold has been reached: policy user over ratelimit,limit:10,time:1 minute"
    ),
    "service-throttled": Refused(429, "ModelArts.4206", "The request flow of the service has reached its limit."),
    "internal-error": Refused(500, "APIG.0201", "An unexpected error occurred."),
    "backend-unavailable": Refused(502, "APIG.0201", "Backend unavailable."),
    "backend-timeout": Refused(504, "APIG.0201", "Backend timeout."),
    "not-running": Refused(400, "ModelArts.4203", "The service is not started."),
    "connect-timeout": Refused(408, "ModelArts.4205", "The connection to the service timed out."),
    "breaker-open": Refused(500, "ModelArts.4302", "The service is in self protection, try again later."),
    "overloaded": Refused(500, "ModelArts.4302", "Gateway forwarding error: connection refused."),
    "unavailable": Refused(503, "ModelArts.4302", "The backend service is not available."),
    "no-response": Refused(500, "ModelArts.4503", "Failed to respond: the target server failed to respond."),
    "token-expired-v2": Refused(401, "ModelArts.0202", "The token has expired."),
    "arrears": Refused(400, "ModelArts.4106", "The account is restricted."),
    "maas-throttled": Refused(429, "ModelArts.81101", "The requests per minute have reached the limit."),
    "maas-tokens-throttled": Refused(429, "ModelArts.81103", "The tokens per minute have reached the limit."),
    "unknown-model": Refused(404, "ModelArts.81009", "The model does not exist."),
    "content-filter": Refused(403, "ModelArts.81011", "The text may hold sensitive content."),
    "model-error": Refused(500, "MR.0105", "The model's own code has failed."),
}

# What `status=N` answers: the usual reason for that status.
_BY_STATUS = {
    401: "invalid-token",
    403: "denied",
    404: "unknown-api",
    408: "connect-timeout",
    413: "too-large",
    429: "throttled",
    500: "internal-error",
    502: "backend-unavailable",
    503: "unavailable",
    504: "backend-timeout",
}


def named(name: str, family: str) -> Refused:
    """A refusal by name, in the words of ``family``."""
    if name == "throttled" and family == "iam":
        return Refused(429, "IAM.0012", "The request is throttled: 10 requests in 60 seconds.")
    if name == "throttled" and family == "maas":
        return NAMED["maas-throttled"]
    return NAMED[name]


def by_status(status: int, family: str) -> Refused:
    """A refusal with this status, in the words of ``family``."""
    if family == "iam":
        return Refused(status, "Keystone", "The simulator was told to answer so.")
    if status in _BY_STATUS:
        return named(_BY_STATUS[status], family)
    return Refused(status, "MR.0105", "The simulator was told to answer so.")
