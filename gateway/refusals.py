"""What an upstream's error answer means: for the credential, for a second attempt, and for the metrics.

Rows come from the vendor's tables (APIG "Error Codes", ModelArts "Error Codes" and "Troubleshooting" of both inference
generations, MaaS "Error Codes") and from error texts quoted in public. Codes decide; texts, which the vendor says may
change, only where one code has several meanings.

Callers can make a model say almost anything: error answers quote their input (FastAPI, vLLM), and some services answer
with the very JSON they were sent. So a code counts only under a known key of a whole JSON object, and something is done
about a credential that others share, or the request sent again, only where the refusal is ``certain``. For credentials
that takes status 401: the model's own errors about input have others, and a service that answers 401 with its caller's
JSON was programmed to do so by its owner, who is trusted that far.
"""

import calendar
import json
import re
import time
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

# An error body is a few hundred bytes, one of a refused signature repeats the request's path and query besides. What is
# longer is no whole object, and says nothing.
_LOOKED_AT_BYTES = 16 * 1024


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
    normalised, ``""`` when none was found. ``certain``: the answer came whole, with the status that goes with its code
    (401 where it is about credentials; for ``model_error`` any other), so it cannot be a caller's words repeated by the
    model. Whoever holds a key, drops a token or believes a time asks for it; otherwise ``refresh`` and ``retry`` say no.
    """

    status: int
    code: str
    refusal_class: str
    refresh: bool
    retry: Retry
    label: str
    certain: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    status: int  # 0: any
    fragment: str  # lower case; "" fits every text
    refusal_class: str
    label: str
    retry: Retry = Retry.NO

    def refusal(self, status: int, code: str, *, certain: bool) -> Refusal:
        retry = self.retry if certain else Retry.NO
        return Refusal(status, code, self.refusal_class, retry is Retry.AFTER_REFRESH, retry, self.label, certain)


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
_CODE_KEYS = ("error_code", "code", "erno")
_MESSAGE_KEYS = ("error_msg", "message", "msg")
_EVENT_STREAM = ("data:", "event:", ":", "id:")
_EVENT_LINE_END = re.compile(r"\r\n|\n|\r")
_SERVER_TIME = re.compile(
    r"signature expired.{0,200}?server time:\s{0,4}([0-9]{8}T[0-9]{6})Z", re.IGNORECASE | re.DOTALL
)


class _Error(NamedTuple):
    """What an error object says; ``agreed`` when every code in it is the same one."""

    code: str  # normalised, "" for none
    message: str
    agreed: bool


def labels() -> tuple[str, ...]:
    """Every label a refusal can have, for a metric with a fixed set of them."""
    return _LABELS


def classify(status: int, body: bytes, server: bytes = b"") -> Refusal | None:
    """What an answer of this status and this (beginning of a) body means; None when it is no refusal.

    ``server`` is the answer's Server field. A body that is cut off, or longer than 16 KiB, has no code. Under a status
    below 400 only an error in the first event of an event stream counts, as some model services send it after 200; its
    row is then found by code alone, and it is never certain.
    """
    text = _text(body)
    streamed = text.startswith(_EVENT_STREAM)
    if status < 400 and not streamed:
        return None
    if streamed:
        text = _first_event(text)
    error = _error(text)
    if error is not None and error.code and not error.code.startswith("MR."):
        return _find(status, error, text, believed=error.agreed)
    if status < 400:
        told = '"error"' in text or (error is not None and error.code)
        return _MODEL_ERROR.refusal(status, "", certain=False) if told else None
    if error is None and server.strip().lower() != b"modelarts":
        return _OTHER.refusal(status, "", certain=False)
    # 401 may be the platform's in the words of a gateway's owner: it does not prove that the request came through.
    return _MODEL_ERROR.refusal(status, "" if error is None else error.code, certain=status != 401)


def server_time(body: bytes) -> float | None:
    """The upstream's clock, as Unix time, from the message of a refusal that says ``signature expired``.

    To be believed only where ``classify`` says of the same answer that it is ``auth_clock``, and ``certain``.
    """
    error = _error(_text(body))
    found = _SERVER_TIME.search(error.message) if error is not None else None
    if found is None:
        return None
    try:
        return float(calendar.timegm(time.strptime(found.group(1), "%Y%m%dT%H%M%S")))
    except ValueError:  # a 13th month
        return None


def _find(status: int, error: _Error, text: str, *, believed: bool) -> Refusal:
    rows = _TABLE.get(error.code)
    if rows is None:
        return _OTHER.refusal(status, error.code, certain=False)
    haystack = (error.message or text).lower()
    for row in rows:
        if row.status in (status, 0) and row.fragment in haystack:
            # Models answer 400 and 403 to what is in a body, so these prove nothing about a credential, although a
            # few rows have them.
            possible = row.status == status and (status == 401 or not row.refusal_class.startswith("auth_"))
            return row.refusal(status, error.code, certain=believed and possible)
    # Owners of custom gateways may change the status: the meaning still has its label, but nothing is done on the
    # strength of it.
    telling = [row for row in rows if row.fragment and row.fragment in haystack]
    general = [row for row in rows if not row.fragment]
    if not telling and len({row.label for row in general}) == 1:
        telling = general
    return (telling[0] if telling else _OTHER).refusal(status, error.code, certain=False)


def _error(text: str) -> _Error | None:
    """A whole JSON object's code and message in any of the known shapes; None where it is no whole object."""
    members = _parsed(text)
    if members is None:
        return None
    inner = members.get("error")
    places = (members, inner) if isinstance(inner, dict) else (members,)
    codes = [value for place in places for key in _CODE_KEYS if isinstance(value := place.get(key), str)]
    code = next((value for value in codes if _CODE.fullmatch(value)), "")
    messages = (value for place in places for key in _MESSAGE_KEYS if isinstance(value := place.get(key), str))
    return _Error(_normal(code), next(messages, ""), len(set(codes)) <= 1)


def _normal(code: str) -> str:
    """APIGW. (cloud services' own gateways) and APIC. (ROMA) are APIG's codes under other names."""
    family, _, number = code.partition(".")
    return f"APIG.{number}" if family in ("APIGW", "APIC") else code


def _parsed(text: str) -> dict[str, Any] | None:  # Any: whatever an upstream puts into its JSON
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _unrepeated(members: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: as above
    """A name that stands twice may have been broken out of a string that was not escaped; readers take either of them."""
    unrepeated = dict(members)
    if len(unrepeated) != len(members):
        raise ValueError("a name stands twice")
    return unrepeated


def _first_event(text: str) -> str:
    """The data of the first event of an event stream (WHATWG HTML, "Parsing an event stream")."""
    data: list[str] = []
    for line in _EVENT_LINE_END.split(text):  # splitlines() would break at what a caller may put into a string
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
