"""What an upstream's error answer means: for the credential, for a second attempt, and for the metrics.

Rows come from the vendor's tables (APIG "Error Codes", ModelArts "Error Codes" and "Troubleshooting" of both inference
generations, MaaS "Error Codes") and from error texts quoted in public. Codes decide; texts, which the vendor says may
change, only where one code has several meanings.
"""

import calendar
import json
import re
import time
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# An error body is a few hundred bytes; what is beyond this says nothing more.
_LOOKED_AT_BYTES = 8192


class Retry(StrEnum):
    """When the same request may be sent once more."""

    NO = "no"
    AFTER_REFRESH = "after_refresh"  # a new token is there
    AFTER_CLOCK = "after_clock"  # the clock correction changed, so that a new signature differs
    IDEMPOTENT = "idempotent"  # the route says that it may be sent twice


@dataclass(frozen=True, slots=True)
class Refusal:
    """An upstream's refusal, classified. It holds no text of the upstream's, and is safe to log.

    ``refresh``: a new token may cure it (kinds that have one; others have nothing to renew). ``code`` is
    normalised, ``""`` when none was found.
    """

    status: int
    code: str
    refusal_class: str
    refresh: bool
    retry: Retry
    label: str


@dataclass(frozen=True, slots=True)
class _Row:
    status: int  # 0: any
    fragment: str  # lower case; "" fits every text
    refusal_class: str
    label: str
    retry: Retry = Retry.NO

    def refusal(self, status: int, code: str, *, certain: bool = True) -> Refusal:
        retry = self.retry if certain else Retry.NO
        return Refusal(status, code, self.refusal_class, retry is Retry.AFTER_REFRESH, retry, self.label)


def _row(
    status: int, refusal_class: str, label: str | None = None, fragment: str = "", retry: Retry = Retry.NO
) -> _Row:
    return _Row(status, fragment.lower(), refusal_class, label or refusal_class, retry)


_TOKEN = Retry.AFTER_REFRESH
_SAFE = Retry.IDEMPOTENT
_CLOCK = Retry.AFTER_CLOCK

# Rows of one code and status are tried in order; a row without a fragment comes last. What stands first wins where a
# text could hold two fragments: APIG's signature refusals repeat the caller's own path and query.
_TABLE: dict[str, tuple[_Row, ...]] = {
    # APIG, the front of v1 services. Shared instances write APIGW. or APIC. for APIG.
    "APIG.0101": (_row(404, "not_found", "route_unknown"),),
    "APIG.0103": (_row(500, "upstream_config"),),
    "APIG.0104": (_row(500, "upstream_config"),),
    "APIG.0105": (_row(500, "upstream_config"),),
    "APIG.0106": (_row(400, "client", "bad_request"),),
    "APIG.0201": (
        _row(400, "client", "bad_request"),
        _row(413, "too_large", "body_too_large"),
        _row(414, "too_large", "uri_too_large"),
        _row(494, "too_large", "headers_too_large"),
        _row(502, "upstream_down", "upstream_unavailable", retry=_SAFE),
        _row(504, "timeout", "upstream_timeout"),
        _row(500, "upstream_error", "upstream_internal", retry=_SAFE),
    ),
    "APIG.0202": (_row(502, "upstream_down", "upstream_unavailable", retry=_SAFE),),
    "APIG.0203": (_row(504, "timeout", "upstream_timeout"),),
    "APIG.0204": (_row(400, "client", "tls"),),
    "APIG.0301": (
        _row(401, "auth_locked", fragment="failed to reach the limit"),
        _row(401, "auth_signature", fragment="verify aksk signature fail"),
        _row(401, "auth_clock", "auth_clock_skew", "signature expired", _CLOCK),
        _row(401, "auth_invalid", fragment="get secretkey failed"),
        _row(401, "auth_expired", fragment="token expires", retry=_TOKEN),
        _row(401, "auth_missing", fragment="x-auth-token not found"),
        _row(401, "auth_invalid", fragment="decrypt token fail", retry=_TOKEN),
        _row(401, "auth_invalid", retry=_TOKEN),
    ),
    "APIG.0302": (_row(403, "forbidden"),),
    "APIG.0303": (
        _row(401, "auth_locked", fragment="failed to reach the limit"),
        _row(401, "auth_clock", "auth_clock_skew", "signature expired", _CLOCK),
        _row(401, "auth_invalid", fragment="app not found"),
        _row(401, "auth_signature"),
    ),
    "APIG.0304": (_row(403, "app_not_authorised"),),
    "APIG.0305": (_row(401, "auth_invalid"),),
    "APIG.0306": (_row(403, "forbidden"),),
    "APIG.0307": (_row(401, "auth_expired", retry=_TOKEN),),
    "APIG.0308": (_row(429, "throttled"),),
    "APIG.0310": (_row(403, "forbidden", "project_unavailable"),),
    "APIG.0401": (_row(403, "forbidden", "ip_denied"),),
    "APIG.0402": (_row(403, "forbidden", "ip_denied"),),
    "APIG.0405": (_row(403, "forbidden", "ip_denied"),),
    "APIG.0501": (_row(405, "quota"),),
    "APIG.0502": (_row(405, "account"),),
    "APIG.0601": (_row(500, "upstream_error", "upstream_internal", retry=_SAFE),),
    "APIG.0602": (_row(400, "client", "bad_request"),),
    "APIG.0605": (_row(500, "upstream_config"),),
    "APIG.1009": (_row(400, "auth_invalid"),),
    # The ModelArts dispatcher behind APIG.
    "ModelArts.0201": (_row(401, "auth_missing"),),
    "ModelArts.0202": (_row(401, "auth_expired", retry=_TOKEN),),
    "ModelArts.0203": (_row(401, "auth_invalid", retry=_TOKEN),),  # on v2: not the owner's token, see iam_token
    "ModelArts.0204": (_row(401, "auth_invalid", retry=_TOKEN), _row(400, "auth_scope")),
    "ModelArts.0205": (_row(401, "auth_missing"),),
    "ModelArts.0206": (_row(401, "auth_invalid"),),
    "ModelArts.0207": (
        _row(401, "auth_clock", "auth_clock_skew", "signature expired", _CLOCK),
        _row(401, "auth_scope", fragment="project info of current region"),
        _row(401, "auth_invalid"),  # the code changed its meaning between two editions
    ),
    "ModelArts.0208": (_row(401, "auth_signature"),),
    "ModelArts.0209": (_row(401, "auth_missing"),),
    "ModelArts.0210": (_row(403, "auth_scope"),),
    "ModelArts.0212": (_row(401, "auth_scope"),),
    "ModelArts.4104": (_row(413, "too_large", "body_too_large"),),
    "ModelArts.4106": (_row(400, "account"),),
    "ModelArts.4127": (_row(401, "auth_expired", retry=_TOKEN),),
    "ModelArts.4201": (_row(400, "client", "route_bad_url"), _row(401, "auth_invalid", retry=_TOKEN)),
    "ModelArts.4202": (_row(400, "client", "route_bad_url"),),
    "ModelArts.4203": (_row(400, "not_running", "service_not_running"), _row(401, "forbidden")),
    "ModelArts.4204": (_row(404, "not_found", "route_unknown"), _row(400, "forbidden")),
    "ModelArts.4205": (_row(408, "timeout", "upstream_timeout", retry=_SAFE),),
    "ModelArts.4206": (_row(429, "throttled"),),
    "ModelArts.4301": (_row(500, "upstream_error", "upstream_internal", retry=_SAFE),),
    "ModelArts.4302": (
        _row(500, "breaker_open", "upstream_breaker_open", "self protection"),
        _row(500, "upstream_down", "upstream_unavailable", "connection refused", _SAFE),
        _row(500, "upstream_down", "upstream_unavailable"),
        _row(503, "upstream_down", "upstream_unavailable", retry=_SAFE),
    ),
    "ModelArts.4503": (
        _row(500, "upstream_down", "upstream_unavailable", "failed to respond", _SAFE),
        _row(500, "upstream_config", fragment="ssl"),
        _row(500, "upstream_down", "upstream_unavailable"),
        _row(504, "timeout", "upstream_timeout"),
    ),
    "ModelArts.4505": (_row(500, "timeout", "upstream_timeout"),),
    "ModelArts.4506": (_row(400, "not_found", "route_unknown"),),
    "ModelArts.4901": (_row(404, "not_found", "route_unknown"),),
    "ModelArts.4902": (_row(400, "app_not_authorised"),),
    "ModelArts.4903": (_row(400, "upstream_config"),),
    "ModelArts.4904": (_row(400, "upstream_config"),),
    "ModelArts.4905": (_row(400, "auth_signature"),),
    # v2 services; their statuses are not documented.
    "ModelArts.8803": (_row(0, "unknown", "upstream_other"),),
    "ModelArts.8909": (_row(0, "upstream_down", "upstream_unavailable"),),
    "ModelArts.8910": (_row(0, "upstream_config", "upstream_protocol"),),
    "CF2.E00003": (_row(0, "timeout", "upstream_timeout"),),
    # MaaS.
    "ModelArts.81001": (_row(400, "client", "bad_request"),),
    "ModelArts.81002": (_row(400, "auth_missing"),),
    "ModelArts.81003": (_row(401, "auth_invalid"),),
    "ModelArts.81004": (_row(401, "forbidden"),),
    "ModelArts.81005": (_row(401, "quota"),),
    "ModelArts.81006": (_row(401, "account"),),
    "ModelArts.81009": (_row(404, "not_found", "model_unknown"),),
    "ModelArts.81011": (_row(403, "policy", "content_filter"),),
    "ModelArts.81101": (_row(429, "throttled"),),
    "ModelArts.81103": (_row(429, "throttled"),),
}
_MODEL_ERROR = _row(0, "model_error")
_OTHER = _row(0, "unknown", "upstream_other")
_LABELS = tuple(sorted({row.label for rows in _TABLE.values() for row in rows} | {_MODEL_ERROR.label, _OTHER.label}))

_CODE = re.compile(r"(?:APIGW?|APIC|ModelArts|CF2|MR)\.[A-Za-z0-9]{1,16}")
# For bodies that are cut off or not JSON: the first code after a key that holds codes, else the first code at all.
_KEYED_CODE = re.compile(r'"(?:error_code|code|erno)"\s*:\s*"(' + _CODE.pattern + ')"')
_KEYED_MESSAGE = re.compile(r'"(?:error_msg|message|msg)"\s*:\s*"((?:[^"\\]|\\.)*)')
_SERVER_TIME = re.compile(r"signature expired.{0,200}?server time:\s*([0-9]{8}T[0-9]{6})Z", re.IGNORECASE | re.DOTALL)


def labels() -> tuple[str, ...]:
    """Every label a refusal can have, for a metric with a fixed set of them."""
    return _LABELS


def classify(status: int, body: bytes, server: bytes = b"") -> Refusal | None:
    """What an answer of this status and this (beginning of a) body means; None when it is no refusal.

    ``server`` is the answer's Server field. Under a status below 400 only an error in the first event of an event
    stream counts, as some model services send it after 200; its row is then found by code alone.
    """
    text = _text(body)
    if status < 400:
        if not text.startswith(("data:", "event:", ":", "id:")):
            return None
        event = _first_event(text)
        code, message = _code_and_message(event)
        if code is None and '"error"' not in event:
            return None
        return _find(status, code, message, event) if code else _MODEL_ERROR.refusal(status, "")
    if text.startswith(("data:", "event:")):
        text = _first_event(text)
    code, message = _code_and_message(text)
    if code is None:
        own = _parsed(text) is not None or server.strip().lower() == b"modelarts"
        return (_MODEL_ERROR if own else _OTHER).refusal(status, "")
    return _find(status, code, message, text)


def server_time(body: bytes) -> float | None:
    """The upstream's clock, as Unix time, from the text of a refusal that says ``signature expired``."""
    found = _SERVER_TIME.search(_text(body))
    if found is None:
        return None
    try:
        return float(calendar.timegm(time.strptime(found.group(1), "%Y%m%dT%H%M%S")))
    except ValueError:  # a 13th month
        return None


def _find(status: int, code: str, message: str, text: str) -> Refusal:
    if code.startswith("MR."):
        return _MODEL_ERROR.refusal(status, code)
    rows = _TABLE.get(code)
    if rows is None:
        return _OTHER.refusal(status, code)
    haystack = (message or text).lower()
    for row in rows:
        if row.status in (status, 0) and row.fragment in haystack:
            return row.refusal(status, code)
    # Owners of custom gateways may change the status: the meaning still counts, but nothing is renewed or
    # sent again on the strength of it.
    telling = [row for row in rows if row.fragment and row.fragment in haystack]
    general = [row for row in rows if not row.fragment]
    if not telling and len({row.label for row in general}) == 1:
        telling = general
    return (telling[0] if telling else _OTHER).refusal(status, code, certain=False)


def _code_and_message(text: str) -> tuple[str | None, str]:
    """The normalised code and the message of an error text in any of the known shapes."""
    members = _parsed(text)
    if members is not None:
        inner = members.get("error")
        places = (members, inner) if isinstance(inner, dict) else (members,)
        code = _first(places, ("error_code", "code", "erno"), only=_CODE)
        return _normal(code), _first(places, ("error_msg", "message", "msg")) or ""
    found = _KEYED_CODE.search(text)
    code = found.group(1) if found is not None else None
    if code is None:
        anywhere = _CODE.search(text)
        code = anywhere.group() if anywhere is not None else None
    message = _KEYED_MESSAGE.search(text)
    return _normal(code), message.group(1) if message is not None else ""


def _first(
    places: tuple[dict[str, Any], ...], keys: tuple[str, ...], only: re.Pattern[str] | None = None
) -> str | None:
    for place in places:
        for key in keys:
            value = place.get(key)
            if isinstance(value, str) and (only is None or only.fullmatch(value)):
                return value
    return None


def _normal(code: str | None) -> str | None:
    """APIGW. (cloud services' own gateways) and APIC. (ROMA) are APIG's codes under other names."""
    if code is None:
        return None
    family, _, number = code.partition(".")
    return f"APIG.{number}" if family in ("APIGW", "APIC") else code


def _parsed(text: str) -> dict[str, Any] | None:  # Any: whatever an upstream puts into its JSON
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _first_event(text: str) -> str:
    """The data of the first event of an event stream (WHATWG HTML, "Parsing an event stream")."""
    data: list[str] = []
    for line in text.splitlines():
        if line.startswith("data:"):
            data.append(line[5:].strip())
        elif not line and data:
            break
    return "\n".join(data)


def _text(body: bytes) -> str:
    if body.startswith(b"\x1f\x8b"):  # gzip (RFC 1952): callers' Accept-Encoding reaches the upstream
        try:
            body = zlib.decompressobj(wbits=31).decompress(body, _LOOKED_AT_BYTES)
        except zlib.error:
            return ""
    return body[:_LOOKED_AT_BYTES].decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
