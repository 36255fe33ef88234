"""Which header fields cross the gateway, decided once per name.

Names are compared without case and with ``_`` read as ``-``: a server behind us may fold the two, so a look-alike of a
name that we drop is dropped too. What a name means is remembered by its raw spelling, because real callers repeat
a handful of spellings for ever.
"""

import enum
import re
from collections.abc import Iterable

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2


class Kind(enum.IntFlag):
    """What is done with a field: nothing (it passes), NOTE (we need its value), DROP (it does not travel)."""

    PASS = 0
    NOTE = 1
    DROP = 2
    FORWARDED = 4  # dropped unless the route passes it


# Dropped from every caller, whatever credential the route has: what authenticates a caller to us, or could
# pass for a credential, a project or a signature to Huawei Cloud.
CALLER_CREDENTIALS = frozenset(
    {
        b"authorization",
        b"proxy-authorization",
        b"x-auth-token",
        b"x-subject-token",
        b"x-apig-appcode",
        b"apikey",
        b"x-api-key",
        b"x-security-token",
        b"x-project-id",
        b"x-domain-id",
        b"x-apig-mode",
    }
)
CALLER_CREDENTIAL_PREFIXES = (b"x-sdk-", b"x-hw-")

# RFC 9110 section 7.6.1, and the older names that still occur.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",  # RFC 7540 section 3.2.1: named in Connection, but Java's client offers it everywhere
    }
)

_NOTED_DROP = Kind.NOTE | Kind.DROP

# Written anew by us on the way out.
_REWRITTEN = frozenset(
    {
        b"host",
        b"content-length",
        b"expect",
        b"via",
        b"x-request-id",
        b"x-gateway-request-id",
        b"x-request-timeout",
        b"x-envoy-expected-rq-timeout-ms",
        b"x-stage",  # part of what a signature covers
    }
)
_FORWARDED = frozenset({b"forwarded", b"x-real-ip"})
_NOTED_REQUEST = frozenset(
    {
        b"origin",
        b"access-control-request-headers",
        b"access-control-request-method",
        b"sec-fetch-site",
        b"sec-websocket-key",
        b"sec-websocket-version",
    }
)

# In answers: ours to write, or not the upstream's to claim. Alt-Svc would send callers past us (RFC 7838 section 2).
_RESPONSE_REWRITTEN = frozenset({b"content-length", b"proxy-status", b"x-gateway-request-id", b"alt-svc"})
_RESPONSE_NOTED = frozenset({b"x-request-id", b"date", b"server"})

_REMEMBERED_NAMES = 2048


def request_kind(name: bytes) -> Kind:
    """What is done with a caller's field of this lower-case, hyphenated name."""
    if name in CALLER_CREDENTIALS or name.startswith(CALLER_CREDENTIAL_PREFIXES):
        return _NOTED_DROP
    if name in HOP_BY_HOP or name in _REWRITTEN:
        return _NOTED_DROP
    if name in _FORWARDED or name.startswith(b"x-forwarded-"):
        return Kind.FORWARDED
    if name in _NOTED_REQUEST:
        return Kind.NOTE
    return Kind.PASS


def response_kind(name: bytes) -> Kind:
    """What is done with an upstream's field of this lower-case, hyphenated name."""
    if name in HOP_BY_HOP or name in _RESPONSE_REWRITTEN:
        return _NOTED_DROP
    if name in _RESPONSE_NOTED:
        return Kind.NOTE
    if name.startswith(b"access-control-"):
        return Kind.FORWARDED  # replaced on CORS routes, passed elsewhere
    return Kind.PASS


class Names:
    """A bounded memory from a field name's raw spelling to its lower-case name and Kind."""

    def __init__(self, *, response: bool) -> None:
        self._kind_of = response_kind if response else request_kind
        self.known: dict[bytes, tuple[bytes, int]] = {}

    def verdict(self, raw_name: bytes) -> tuple[bytes, int] | None:
        """The lower-case name, and what is done with it; None when it is no field name at all."""
        return self.known.get(raw_name) or self.learn(raw_name)

    def learn(self, raw_name: bytes) -> tuple[bytes, int] | None:
        """Classify a spelling that is not remembered; None when it is no field name at all."""
        if TOKEN.fullmatch(raw_name) is None:
            return None
        name = raw_name.lower()
        kind = self._kind_of(name)
        if b"_" in name:
            # A look-alike is never read as the real field, but it does not travel where the real one would not.
            kind = self._kind_of(name.replace(b"_", b"-")) & ~Kind.NOTE
        if len(self.known) >= _REMEMBERED_NAMES:
            self.known.clear()
        if len(raw_name) <= 64:
            self.known[raw_name] = (name, int(kind))
        return name, int(kind)


def field_line(name: bytes, value: bytes) -> bytes:
    return name + b": " + value


def named_in_connection(value: bytes) -> set[bytes]:
    """The lower-case field names that a Connection value makes hop-by-hop (RFC 9110 section 7.6.1)."""
    return {token.strip().lower() for token in value.split(b",")} - {b"", b"close", b"keep-alive", b"upgrade"}


def without(lines: Iterable[bytes], names: set[bytes]) -> list[bytes]:
    """Field lines but those with one of these lower-case names, ``_`` read as ``-``."""
    hyphenated = {name.replace(b"_", b"-") for name in names}
    return [line for line in lines if line.partition(b":")[0].lower().replace(b"_", b"-") not in hyphenated]
