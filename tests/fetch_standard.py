"""What a browser concludes from the answers to a page's cross-origin request, to the letter of the Fetch Standard."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from raw_caller import Reply

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
SAFELISTED_METHODS = frozenset({"GET", "HEAD", "POST"})
# "CORS-safelisted response-header name", and the one that no page may ever read.
_ALWAYS_READABLE = frozenset(
    {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}
)
_NEVER_READABLE = frozenset({"set-cookie", "set-cookie2"})
_MAX_AGE_SECONDS = 5  # where the answer has none


@dataclass(frozen=True)
class Asked:
    """A page's request. ``unsafe_names`` are, in lower case, the fields it sets that need a preflight."""

    origin: str
    method: str
    unsafe_names: frozenset[str] = frozenset()
    credentials: bool = False  # credentials mode "include"

    @property
    def needs_preflight(self) -> bool:
        return self.method not in SAFELISTED_METHODS or bool(self.unsafe_names)


def _value(reply: Reply, name: str) -> str | None:
    """A field's combined value, None without one ("get" of a header list)."""
    found = reply.all(name)
    return ", ".join(found) if found else None


def _tokens(reply: Reply, name: str) -> list[str] | None:
    """The tokens of a list field, [] without one, None where it is malformed ("extract header list values")."""
    value = _value(reply, name)
    if value is None:
        return []
    found = [part.strip(" \t") for part in value.split(",")]
    found = [part for part in found if part]
    return found if all(_TOKEN.fullmatch(part) for part in found) else None


def may_read(asked: Asked, reply: Reply) -> bool:
    """The answer passes the "CORS check"."""
    origin = _value(reply, "Access-Control-Allow-Origin")
    if origin is None:
        return False
    if origin == "*" and not asked.credentials:
        return True
    if origin != asked.origin:
        return False
    return not asked.credentials or _value(reply, "Access-Control-Allow-Credentials") == "true"


def may_send(asked: Asked, preflight: Reply) -> bool:
    """The answer to the preflight lets the request go out ("CORS-preflight fetch", step 7)."""
    if not may_read(asked, preflight) or not 200 <= preflight.status <= 299:
        return False
    methods = _tokens(preflight, "Access-Control-Allow-Methods")
    names = _tokens(preflight, "Access-Control-Allow-Headers")
    if methods is None or names is None:
        return False
    star = not asked.credentials
    if asked.method not in {*methods, *SAFELISTED_METHODS} and not (star and "*" in methods):
        return False
    left = asked.unsafe_names - {name.lower() for name in names}
    # Authorization has to be named; "*" does not mean it.
    return not left or (star and "*" in names and "authorization" not in left)


def remembered_seconds(preflight: Reply) -> int:
    """How long the answer to a preflight is kept."""
    value = _value(preflight, "Access-Control-Max-Age")
    return int(value) if value is not None and value.isascii() and value.isdigit() else _MAX_AGE_SECONDS


def readable(asked: Asked, reply: Reply, names: Iterable[str]) -> frozenset[str]:
    """Those of ``names`` that the page may read, where it may read the answer ("CORS filtered response")."""
    exposed = {name.lower() for name in _tokens(reply, "Access-Control-Expose-Headers") or []}
    if "*" in exposed and not asked.credentials:
        exposed |= {name.lower() for name in names}
    return frozenset(name for name in names if name.lower() in (exposed | _ALWAYS_READABLE) - _NEVER_READABLE)
