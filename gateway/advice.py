"""What to do about an error that the status page shows, in a sentence; ``docs/errors.md`` and ``docs/operating.md`` say more."""

from collections.abc import Mapping
from types import MappingProxyType

_LOOK_AT_SERVICE = "Is the service running, and is this its address and protocol? The console's service page says."
_LOOK_AT_MODEL = "The model is too slow or not well: look at the service's own log and its instances."
_CALLER_SENDS = "The caller has to send something else; its access log line has the path."

# By error_code, for answers of our own.
_OURS = {
    "Gateway.BadRequest": "Mend the caller, or a proxy between it and us: the message is not exact HTTP/1.1.",
    "Gateway.BadPath": "The caller must send clean, percent-encoded UTF-8; `explain` names the rule it broke.",
    "Gateway.CallerUnknown": "The caller needs its token for the gateway (callers:), not one of Huawei Cloud's.",
    "Gateway.CallerNotAllowed": "Add the route to this caller's `routes`, if it may use it.",
    "Gateway.OriginNotAllowed": "Name the page's origin in the route's `cors.origins`, if it may spend the credential.",
    "Gateway.RouteNotFound": "Run `explain METHOD PATH`: it says of each route why it does not match.",
    "Gateway.MethodNotAllowed": "Use a method that the route lists, or extend its `methods`.",
    "Gateway.RequestTimeout": "Look at the caller and the network to it: it stopped sending, or reading its answer.",
    "Gateway.BodyTooLarge": "Send less, or raise `limits.body` where the upstream takes more (v1 services end at 12 MB).",
    "Gateway.UriTooLong": "Move data from the query into the body.",
    "Gateway.HeadersTooLarge": "Look for grown cookies or tokens among the caller's headers.",
    "Gateway.RateLimited": "The `rate` is used up: slow the caller down, or raise it.",
    "Gateway.Internal": "A fault of the gateway: its log names the place under this request id. Please report it.",
    "Gateway.UpstreamUnreachable": "Run `check --online`: it says whether DNS, the connection or TLS fails.",
    "Gateway.UpstreamProtocolError": "Is it https behind an http:// URL, or the reverse? Otherwise the service's answer is broken.",
    "Gateway.CredentialUnavailable": "See Credentials above for the reason; nothing was sent.",
    "Gateway.Overloaded": "Raise the limit that the caller was told of, or run more replicas.",
    "Gateway.Draining": "Nothing: this process is stopping, and another one answers.",
    "Gateway.CircuitOpen": "Mend the upstream: it failed too often in a row. The breaker's probe notices by itself.",
    "Gateway.DeadlineExceeded": "Is the upstream slow, or `limits.deadline` (or the caller's own) short?",
    "Gateway.UpstreamTimeout": "`limits.connect`, `first_byte` or `idle` has passed; the caller was told which.",
    "Gateway.Loop": "The route's upstream leads back to this gateway: correct it.",
}
# By class, for the upstream's error answers, which were passed on.
_UPSTREAM = {
    "account": "The account or resource is frozen, usually for arrears: see the console's billing page.",
    "app_not_authorised": "Authorise the app for this service in the console; that takes one to two minutes to work.",
    "auth_clock_skew": "Signatures are corrected for it by themselves; set this machine's clock right (NTP).",
    "auth_expired": "A new token was sent for by itself. If it goes on: run `check --online`.",
    "auth_invalid": "Run `check --online`. Is the credential of this account and region, and for this kind of address?",
    "auth_locked": "Somebody signs with a wrong secret for the same key. Locks end after five minutes.",
    "auth_missing": "App addresses take app credentials; IAM addresses take tokens and AK/SK.",
    "auth_scope": "The token's `project` is not the service's: set it on the credential.",
    "auth_signature": "The secret is not the one of its key, or something on the way changes path or Host. See `explain`.",
    "bad_request": _CALLER_SENDS,
    "body_too_large": "The platform's own limit (12 MB for v1 services): send less.",
    "content_filter": "The platform's content check refused what the caller or the model said.",
    "forbidden": "Give the IAM user or the app permission for this service, or enable MaaS for the account.",
    "headers_too_large": "The platform's own limit for headers: send less.",
    "ip_denied": "Add this gateway's address to the API's access list.",
    "model_error": "The model itself answered with an error: look at its own log.",
    "model_unknown": "Correct the model's name in the request.",
    "project_unavailable": "The project is not to be had: see its state in the console.",
    "quota": "The quota of the app or model is used up: raise it in the console.",
    "route_bad_url": "The URL holds no service id: correct the route's `upstream`, or what the caller adds to it.",
    "route_unknown": "No such API at this address: correct the route's `upstream`, or the caller's path or method.",
    "service_not_running": "Start the service in the console.",
    "throttled": "The platform's flow control: raise its limit, add instances, or slow callers down with `rate`.",
    "tls": "Give the route's `upstream` the protocol that the API declares.",
    "upstream_breaker_open": "The platform protects the service for a while: it failed too often. Look at its log.",
    "upstream_config": "API Gateway or the service is incompletely set up: see it in the console.",
    "upstream_internal": "The platform failed. If it goes on, tell Huawei Cloud its own request id (access log).",
    "upstream_other": "The access log line has the status; the answer itself went to the caller.",
    "upstream_protocol": _LOOK_AT_SERVICE,
    "upstream_timeout": _LOOK_AT_MODEL,
    "upstream_unavailable": _LOOK_AT_SERVICE,
    "uri_too_large": "The platform's own limit: move data from the query into the body.",
}

ADVICE: Mapping[str, str] = MappingProxyType(
    {**_OURS, **{f"upstream {label}": advice for label, advice in _UPSTREAM.items()}}
)
"""By what ``recent_errors`` calls an error: our ``error_code``, or ``upstream`` and the class of its answer."""
