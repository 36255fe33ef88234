"""Every way the gateway itself can refuse or fail a request, and how that reads on the wire.

The shape is Huawei's (``error_code``, ``error_msg``, ``request_id``), so that clients' error handling
works unchanged; the member ``error`` repeats it for OpenAI-style SDKs; ``Proxy-Status`` (RFC 9209)
tells the gateway's own answers from the upstream's.
"""

import json
import math

PROXY_NAME = "modelarts-gateway"

# Reason phrases of RFC 9110 section 15 and RFC 6585; http.HTTPStatus still says "Request Entity Too Large".
REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    508: "Loop Detected",
}

# OpenAI's error types, by status; every other 4xx is an invalid_request_error.
_OPENAI_TYPES = {401: "authentication_error", 403: "authentication_error", 429: "rate_limit_error"}


class GatewayError(Exception):
    """A refusal or failure of our own, with its status, its code and its RFC 9209 error type.

    ``message`` is for the caller and never holds a credential or the text of a foreign exception.
    ``setting`` is the configuration key that governs it, as ``limits.body``; it goes into Proxy-Status.
    """

    status = 500
    code = "Gateway.Internal"
    proxy_status = "proxy_internal_error"

    def __init__(
        self,
        message: str,
        *,
        setting: str | None = None,
        retry_after_seconds: float | None = None,
        allow: tuple[str, ...] = (),
        proxy_status: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.setting = setting
        self.retry_after_seconds = retry_after_seconds
        self.allow = allow
        if proxy_status is not None:
            self.proxy_status = proxy_status
        if status is not None:
            self.status = status


class Internal(GatewayError):
    """A fault of ours."""


class CallerFault(GatewayError):
    """The request itself is the reason."""

    status = 400
    code = "Gateway.BadRequest"
    proxy_status = "http_request_error"


class BadRequest(CallerFault):
    """A malformed message or ambiguous framing (RFC 9112); also 417, 501 and 505 by ``status``."""


class BadPath(CallerFault):
    """A path or query that has more than one reading."""

    code = "Gateway.BadPath"


class CallerUnknown(GatewayError):
    """No caller token or certificate, or a wrong one."""

    status = 401
    code = "Gateway.CallerUnknown"
    proxy_status = "http_request_denied"


class CallerNotAllowed(GatewayError):
    """A known caller on a route that is not among its ``routes``."""

    status = 403
    code = "Gateway.CallerNotAllowed"
    proxy_status = "http_request_denied"


class OriginNotAllowed(GatewayError):
    """A browser's ``Origin`` that the route's ``cors.origins`` does not name."""

    status = 403
    code = "Gateway.OriginNotAllowed"
    proxy_status = "http_request_denied"


class RouteNotFound(GatewayError):
    """No route's prefix matches the path."""

    status = 404
    code = "Gateway.RouteNotFound"
    proxy_status = "destination_not_found"


class MethodNotAllowed(CallerFault):
    """A method the route does not take; ``allow`` lists those it does."""

    status = 405
    code = "Gateway.MethodNotAllowed"


class RequestTimeout(CallerFault):
    """The caller was too slow sending, or, which only logs and metrics hear of, reading its answer."""

    status = 408
    code = "Gateway.RequestTimeout"


class BodyTooLarge(CallerFault):
    """The request body passed the route's ``limits.body``."""

    status = 413
    code = "Gateway.BodyTooLarge"


class UriTooLong(CallerFault):
    """The request line alone passed ``process.head_bytes``."""

    status = 414
    code = "Gateway.UriTooLong"


class HeadersTooLarge(CallerFault):
    """Request line and headers together passed ``process.head_bytes``."""

    status = 431
    code = "Gateway.HeadersTooLarge"


class RateLimited(GatewayError):
    """The route's or caller's ``rate`` is used up."""

    status = 429
    code = "Gateway.RateLimited"
    proxy_status = "http_request_denied"


class UpstreamFailed(GatewayError):
    """The upstream is the reason; the subclasses say how."""

    status = 502
    code = "Gateway.UpstreamUnreachable"
    proxy_status = "destination_unavailable"


class UpstreamUnreachable(UpstreamFailed):
    """No usable connection to the upstream: DNS, refused, TLS, or reset before any answer.

    ``sent`` tells whether any byte of the request may have reached the upstream: only when it is false is
    the request safe to send again without knowing what it does.
    """

    proxy_status = "connection_refused"

    def __init__(self, message: str, *, proxy_status: str, sent: bool) -> None:
        super().__init__(message, proxy_status=proxy_status)
        self.sent = sent


class UpstreamProtocolError(UpstreamFailed):
    """The upstream's answer is not HTTP, or its head is broken off."""

    code = "Gateway.UpstreamProtocolError"
    proxy_status = "http_protocol_error"


class CredentialUnavailable(GatewayError):
    """The route's credential is not usable now; nothing was sent."""

    status = 503
    code = "Gateway.CredentialUnavailable"


class Overloaded(GatewayError):
    """A limit of concurrency or memory is reached."""

    status = 503
    code = "Gateway.Overloaded"
    proxy_status = "connection_limit_reached"


class Draining(GatewayError):
    """The gateway is stopping."""

    status = 503
    code = "Gateway.Draining"
    proxy_status = "destination_unavailable"


class CircuitOpen(GatewayError):
    """The route's breaker is open after too many failures in a row."""

    status = 503
    code = "Gateway.CircuitOpen"
    proxy_status = "destination_unavailable"


class DeadlineExceeded(GatewayError):
    """The route's ``limits.deadline``, or the caller's shorter one, has passed."""

    status = 504
    code = "Gateway.DeadlineExceeded"
    proxy_status = "http_response_timeout"


class UpstreamTimeout(UpstreamFailed):
    """The upstream passed ``limits.connect``, ``limits.first_byte`` or ``limits.idle``."""

    status = 504
    code = "Gateway.UpstreamTimeout"
    proxy_status = "http_response_timeout"


class Loop(GatewayError):
    """The request has been through this gateway already."""

    status = 508
    code = "Gateway.Loop"
    proxy_status = "proxy_loop_detected"


def error_body(error: GatewayError, request_id: str) -> bytes:
    """The JSON body of an error: Huawei's members, and OpenAI's under ``error``."""
    kind = _OPENAI_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return json.dumps(
        {
            "error_code": error.code,
            "error_msg": error.message,
            "request_id": request_id,
            "error": {"code": error.code, "message": error.message, "type": kind},
        },
        ensure_ascii=False,
    ).encode()


def error_fields(error: GatewayError, request_id: str) -> list[tuple[bytes, bytes]]:
    """The header fields of an error, Content-Length left to the writer of the message."""
    proxy_status = f"{PROXY_NAME}; error={error.proxy_status}"
    if error.setting is not None:
        proxy_status += f'; details="{error.setting}"'
    fields = [
        (b"Content-Type", b"application/json"),
        (b"X-Request-Id", request_id.encode()),
        (b"X-Gateway-Request-Id", request_id.encode()),
        (b"Proxy-Status", proxy_status.encode()),
    ]
    if error.retry_after_seconds is not None:
        fields.append((b"Retry-After", b"%d" % max(1, math.ceil(error.retry_after_seconds))))
    if error.status == 401:
        fields.append((b"WWW-Authenticate", b"Bearer"))  # RFC 9110 section 15.5.2 wants one
    if error.allow:
        fields.append((b"Allow", ", ".join(error.allow).encode()))
    return fields
