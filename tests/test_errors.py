"""How the gateway's own errors read on the wire."""

import json

import pytest

from gateway import errors
from gateway.errors import REASONS, GatewayError, error_body, error_fields

CASES = [
    (errors.BadRequest("m."), 400, "Gateway.BadRequest", "http_request_error"),
    (errors.BadPath("m."), 400, "Gateway.BadPath", "http_request_error"),
    (errors.CallerUnknown("m."), 401, "Gateway.CallerUnknown", "http_request_denied"),
    (errors.CallerNotAllowed("m."), 403, "Gateway.CallerNotAllowed", "http_request_denied"),
    (errors.OriginNotAllowed("m."), 403, "Gateway.OriginNotAllowed", "http_request_denied"),
    (errors.RouteNotFound("m."), 404, "Gateway.RouteNotFound", "destination_not_found"),
    (errors.MethodNotAllowed("m."), 405, "Gateway.MethodNotAllowed", "http_request_error"),
    (errors.RequestTimeout("m."), 408, "Gateway.RequestTimeout", "http_request_error"),
    (errors.BodyTooLarge("m."), 413, "Gateway.BodyTooLarge", "http_request_error"),
    (errors.UriTooLong("m."), 414, "Gateway.UriTooLong", "http_request_error"),
    (errors.HeadersTooLarge("m."), 431, "Gateway.HeadersTooLarge", "http_request_error"),
    (errors.RateLimited("m."), 429, "Gateway.RateLimited", "http_request_denied"),
    (
        errors.UpstreamUnreachable("m.", proxy_status="dns_error", sent=False),
        502,
        "Gateway.UpstreamUnreachable",
        "dns_error",
    ),
    (errors.UpstreamProtocolError("m."), 502, "Gateway.UpstreamProtocolError", "http_protocol_error"),
    (errors.CredentialUnavailable("m."), 503, "Gateway.CredentialUnavailable", "proxy_internal_error"),
    (errors.Overloaded("m."), 503, "Gateway.Overloaded", "connection_limit_reached"),
    (errors.Draining("m."), 503, "Gateway.Draining", "destination_unavailable"),
    (errors.CircuitOpen("m."), 503, "Gateway.CircuitOpen", "destination_unavailable"),
    (errors.DeadlineExceeded("m."), 504, "Gateway.DeadlineExceeded", "http_response_timeout"),
    (errors.UpstreamTimeout("m."), 504, "Gateway.UpstreamTimeout", "http_response_timeout"),
    (errors.Loop("m."), 508, "Gateway.Loop", "proxy_loop_detected"),
    (errors.Internal("m."), 500, "Gateway.Internal", "proxy_internal_error"),
]


@pytest.mark.parametrize(("error", "status", "code", "proxy_status"), CASES, ids=[code for _, _, code, _ in CASES])
def test_each_error(error: GatewayError, status: int, code: str, proxy_status: str) -> None:
    """Status, code and RFC 9209 type; every status has its reason phrase."""
    assert (error.status, error.code, error.proxy_status) == (status, code, proxy_status)
    assert dict(error_fields(error, "id"))[b"Proxy-Status"] == f"modelarts-gateway; error={proxy_status}".encode()
    assert status in REASONS


def test_every_code_has_a_case() -> None:
    """No error can be added without its line in the table."""
    found = {
        value.code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, GatewayError) and value is not GatewayError
    }

    assert found == {code for _, _, code, _ in CASES}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "authentication_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (431, "invalid_request_error"),
        (500, "api_error"),
        (503, "api_error"),
        (508, "api_error"),
    ],
)
def test_types_for_openai_style_clients(status: int, kind: str) -> None:
    """The ``error`` member says what an OpenAI-style SDK understands."""
    body = json.loads(error_body(GatewayError("message.", status=status), "id-1"))

    assert body["error"]["type"] == kind


def test_the_body() -> None:
    """Huawei's members, and the same once more under ``error``; text outside ASCII is UTF-8."""
    error = errors.BodyTooLarge('Zu groß: "r".', setting="limits.body")

    assert json.loads(error_body(error, "id-1").decode()) == {
        "error_code": "Gateway.BodyTooLarge",
        "error_msg": 'Zu groß: "r".',
        "request_id": "id-1",
        "error": {"code": "Gateway.BodyTooLarge", "message": 'Zu groß: "r".', "type": "invalid_request_error"},
    }


def test_the_fields() -> None:
    """Setting, time and methods stand where clients look for them."""
    error = errors.MethodNotAllowed("m.", setting="methods", allow=("GET", "POST"), retry_after_seconds=0.2)

    assert error_fields(error, "id-1") == [
        (b"Content-Type", b"application/json"),
        (b"X-Request-Id", b"id-1"),
        (b"X-Gateway-Request-Id", b"id-1"),
        (b"Proxy-Status", b'modelarts-gateway; error=http_request_error; details="methods"'),
        (b"Retry-After", b"1"),
        (b"Allow", b"GET, POST"),
    ]


@pytest.mark.parametrize(("seconds", "sent"), [(0.0, b"1"), (0.1, b"1"), (1.0, b"1"), (1.1, b"2"), (899.5, b"900")])
def test_retry_after_is_rounded_up(seconds: float, sent: bytes) -> None:
    """Whole seconds, never too early, never 0."""
    assert dict(error_fields(errors.Overloaded("m.", retry_after_seconds=seconds), "id"))[b"Retry-After"] == sent
