"""The models of the file's sections: what may stand where, its default, and what it means."""

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from gateway.config import places
from gateway.config.types import (
    ConnectionField,
    Count,
    CountOrNone,
    CredentialSettings,
    Delay,
    Duration,
    DurationOrNone,
    FileField,
    PemField,
    RateOrNone,
    SecretValue,
    Settings,
    SizeOrNone,
    SizeOrZero,
    UpstreamUrlField,
    Wait,
)
from gateway.config.units import found
from gateway.routes import Connection, Rate

# Names become metric labels and log fields, and "-" alone stands for "no route" there.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
_NAME = re.compile(NAME_PATTERN.replace("$", r"\Z"))
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110 section 5.6.2
# A serialised origin as browsers send it: lower case, no path (RFC 6454 section 6.2).
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^/?#@:\s\[\]*A-Z]+)(?::([0-9]{1,5}))?\Z")
_NEVER_PROXIED = {"CONNECT", "TRACE"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def checked_name(value: object) -> str:
    """A name of a route, credential or caller.

    Raises:
        ValueError: says what would be right.
    """
    if not isinstance(value, str) or not _NAME.match(value):
        raise ValueError("a name has 1 to 63 letters, digits, '.', '_' or '-', and begins with a letter or digit")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"this is text; found {found(value)}, which needs quotes to be text")  # noqa: TRY004
    if not value.strip():
        raise ValueError("this is empty")
    return value


def _prefix(value: object) -> str:
    text = _text(value)
    if "?" in text or "#" in text:
        raise ValueError("a path has no query and no fragment; routes are found by path alone")
    return places.plain_path(text)


def _method(value: object) -> str:
    text = _text(value)
    if text.upper() in _NEVER_PROXIED:
        raise ValueError(f"{text.upper()} is never passed on")
    if not _TOKEN.match(text):
        raise ValueError("this is not an HTTP method, as POST is")
    if text != text.upper():
        raise ValueError(f"methods are written in capitals: {text.upper()}")
    return text


def _origin(value: object) -> str:
    text = _text(value)
    if text == "*":
        return text
    match = _ORIGIN.match(text)
    if match is None:
        raise ValueError("an origin is scheme://host[:port] in lower case, without a path or a final /; or '*' alone")
    if (match[1], match[3]) in {("https", "443"), ("http", "80")}:
        raise ValueError(f"browsers leave the default port out of an origin; leave out :{match[3]}")
    return text


def _header_name(value: object) -> str:
    text = _text(value)
    if not _TOKEN.match(text):
        raise ValueError("this is not a header name, as Content-Type is")
    return text


def _network(value: object) -> Network:
    text = _text(value)
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        wide = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("this is an IP address or network, as 10.0.0.0/8") from None
    raise ValueError(f"bits are set behind the network's prefix; write {wide}")


def _workers(value: object) -> int | None:
    if value == "auto":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"this is a whole number from 1 up, or auto for one per core; found {found(value)}")
    return value


def _not_empty(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("this list is empty; name at least one, or leave the key out")
    return tuple(dict.fromkeys(values))


def _string(**keywords: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **keywords})


# Lists of the file become tuples (strict models would refuse them), repetitions dropped.
_Listed = (Field(strict=False), AfterValidator(_not_empty))

Name = Annotated[str, PlainValidator(checked_name), _string(pattern=NAME_PATTERN)]
Text = Annotated[str, PlainValidator(_text), _string(minLength=1)]
PathField = Annotated[str, PlainValidator(_prefix), _string(pattern=r"^/[^?#\s]*$")]
AddressField = Annotated[places.Address, PlainValidator(places.address), _string(pattern=r"^(?:unix:/.+|.+:[0-9]+)$")]
WorkersField = Annotated[
    int | None,
    PlainValidator(_workers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}),
]
Method = Annotated[str, PlainValidator(_method), _string(pattern=r"^[!#$%&'*+.^_`|~0-9A-Z-]+$")]
Origin = Annotated[str, PlainValidator(_origin), _string(pattern=r"^(?:\*|[a-z][a-z0-9+.-]*://[^/?#@\s]+)$")]
HeaderName = Annotated[str, PlainValidator(_header_name), _string(minLength=1)]
NetworkField = Annotated[Network, PlainValidator(_network), _string(minLength=2)]


class NoCredential(CredentialSettings):
    """An upstream that takes no credential."""

    kind: Literal["none"]


class TlsSettings(Settings):
    """HTTPS for callers; files are read again when they change."""

    certificate: Annotated[FileField, Field(description="PEM file: certificate and its chain.")]
    key: Annotated[FileField, Field(description="PEM file: the unencrypted private key.")]
    client_ca: Annotated[
        PemField | None, Field(description="PEM file: who signs callers' certificates. With it a caller must show one.")
    ] = None


class ProcessSettings(Settings):
    """Limits of the whole process."""

    in_flight: Annotated[CountOrNone, Field(description="Requests at once; above it 503 at once.")] = 1000
    head: Annotated[DurationOrNone, Field(description="A request head must be there within this: 408.")] = 10.0
    head_bytes: Annotated[SizeOrNone, Field(description="Request line and headers together: 431.")] = 64 * 1024
    keep_alive: Annotated[DurationOrNone, Field(description="How long an idle caller connection is kept.")] = 75.0
    body_memory: Annotated[SizeOrNone, Field(description="All buffered bodies together.")] = 256 * 1024 * 1024
    drain: Annotated[Wait, Field(description="How long SIGTERM waits for running requests; none is for ever.")] = 45.0
    drain_delay: Annotated[Delay, Field(description="How long readiness fails before listening stops.")] = 5.0


class LimitSettings(Settings):
    """Limits of one route; none switches one off."""

    body: Annotated[SizeOrNone, Field(description="Request body, as received: 413.")] = 12 * 1024 * 1024
    connect: Annotated[DurationOrNone, Field(description="DNS, TCP, TLS and a proxy's CONNECT together: 504.")] = 5.0
    first_byte: Annotated[DurationOrNone, Field(description="Request sent to response head: 504.")] = None
    idle: Annotated[DurationOrNone, Field(description="Longest silence while a body flows, either way.")] = 60.0
    deadline: Annotated[DurationOrNone, Field(description="Request head received to last byte answered: 504.")] = 40.0
    in_flight: Annotated[CountOrNone, Field(description="Requests at once on this route: 503.")] = None
    rate: Annotated[RateOrNone, Field(description="Requests on average on this route (50/s burst 100): 429.")] = None


class RetrySettings(Settings):
    """What may be tried twice."""

    attempts: Annotated[Count, Field(description="Attempts in all; 1 switches retries off.")] = 2
    idempotent: Annotated[bool, Field(description="The upstream may get the same request twice.")] = False


class BreakerSettings(Settings):
    """When a failing upstream is left alone: 503 at once, then one probe."""

    failures: Annotated[Count, Field(description="So many failures in a row open the breaker.")] = 5
    open: Annotated[Duration, Field(description="How long the route answers 503 before one probe.")] = 10.0


class CorsSettings(Settings):
    """Which web pages may use the route."""

    origins: Annotated[
        tuple[Origin, ...],
        *_Listed,
        Field(description="Origins of web pages, as https://console.example.com; '*' opens the route."),
    ]
    headers: Annotated[
        tuple[HeaderName, ...], *_Listed, Field(description="Request headers a page may set; '*' is any.")
    ] = ("*",)
    credentials: Annotated[bool, Field(description="Pages may send cookies.")] = False
    max_age: Annotated[Delay, Field(description="How long a browser may remember a preflight.")] = 600.0

    @model_validator(mode="after")
    def _open_or_trusted(self) -> "CorsSettings":
        if "*" in self.origins and len(self.origins) > 1:
            raise ValueError("origins '*' stands alone; it names every origin already")
        if "*" in self.origins and self.credentials:
            raise ValueError(
                "credentials: true with origins '*' would let every web page act for its visitor; name the origins"
            )
        return self


class RouteSettings(Settings):
    """One route: a path prefix of ours, an upstream, the credential it takes."""

    name: Annotated[Name, Field(description="The route's name, also its metrics label.")]
    path: Annotated[
        PathField,
        Field(description="Path prefix on segment boundaries, as /poetry; the longest wins, / takes the rest."),
    ]
    upstream: Annotated[UpstreamUrlField, Field(description="Where requests go, as https://host/v1/infers/ID.")]
    credential: Annotated[Text, Field(description="The name of a credential, or none where the upstream takes none.")]
    methods: Annotated[
        tuple[Method, ...], *_Listed, Field(description="Methods the route takes, in capitals; any without it.")
    ] = ()
    limits: LimitSettings = LimitSettings()
    replay: Annotated[
        SizeOrZero, Field(description="Bodies up to this size are kept for a second attempt; none keeps none.")
    ] = 1024 * 1024
    retry: RetrySettings = RetrySettings()
    websocket: Annotated[bool, Field(description="WebSocket handshakes are passed on.")] = False
    breaker: BreakerSettings | None = None
    cors: CorsSettings | None = None
    connection: ConnectionField = Connection()
    forwarded: Annotated[bool, Field(description="Pass Forwarded and X-Forwarded-* on to the upstream.")] = False


class CallerLimits(Settings):
    """Limits of one caller."""

    in_flight: Annotated[CountOrNone, Field(description="Requests of this caller at once: 503.")] = None
    rate: Annotated[RateOrNone, Field(description="Requests of this caller on average (50/s burst 100): 429.")] = None


class CallerSettings(CallerLimits):
    """One caller: how it is known, and the routes it may use. ``in_flight`` and ``rate`` stand here or under ``limits``."""

    name: Annotated[Name, Field(description="The caller's name, for the log.")]
    token: Annotated[SecretValue | None, Field(description="Sent as Authorization: Bearer …, or X-API-Key.")] = None
    certificate: Annotated[Text | None, Field(description="URI, DNS name or CN of the client certificate.")] = None
    addresses: Annotated[
        tuple[NetworkField, ...] | None, Field(description="Networks it comes from, as 10.0.0.0/8.", strict=False)
    ] = None
    routes: Annotated[
        tuple[Text, ...], *_Listed, Field(description="Names of the routes it may use, or ['*'] for all.")
    ]
    limits: CallerLimits = CallerLimits()

    @model_validator(mode="after")
    def _known_somehow(self) -> "CallerSettings":
        if self.token is None and self.certificate is None and not self.addresses:
            raise ValueError("nothing identifies this caller; give it a token, a certificate or addresses")
        for field in self.limits.model_fields_set & self.model_fields_set:
            raise ValueError(f"{field} stands here and under limits; write it once")
        if "*" in self.routes and len(self.routes) > 1:
            raise ValueError("routes '*' stands alone; it names every route already")
        return self

    @property
    def in_flight_limit(self) -> int | None:
        return self.limits.in_flight if "in_flight" in self.limits.model_fields_set else self.in_flight

    @property
    def rate_limit(self) -> Rate | None:
        return self.limits.rate if "rate" in self.limits.model_fields_set else self.rate


class TopSettings(Settings):
    """The file's top. Entries of credentials, routes and callers are validated one by one, so that one that is
    wrong does not hide what is wrong with the others."""

    listen: Annotated[AddressField, Field(description="Where callers connect: host:port or unix:/path.")] = (
        places.Address("127.0.0.1", 8080)
    )
    admin: Annotated[AddressField, Field(description="Health, readiness, metrics, status page.")] = places.Address(
        "127.0.0.1", 8081
    )
    workers: Annotated[WorkersField, Field(description="Processes sharing the port; auto is one per core.")] = 1
    tls: TlsSettings | None = None
    process: ProcessSettings = ProcessSettings()
    credentials: Annotated[dict[str, Any] | None, Field(description="What upstreams want to see, by name.")] = None
    routes: Annotated[list[Any], Field(description="At least one: name, path, upstream, credential.")]
    callers: Annotated[
        list[Any] | None, Field(description="Who may use which routes; without it, everybody who can reach the port.")
    ] = None
