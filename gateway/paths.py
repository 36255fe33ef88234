"""Paths and queries: what is refused because it has two readings, and the canonical form that is signed.

Everything here works on text that holds the raw bytes as Latin-1, and never answers a problem by cleaning it up.
"""

import re
from urllib.parse import quote, unquote, unquote_to_bytes

from gateway.errors import BadPath

# What makes a second look necessary: anything but visible ASCII, and the characters that rules are about.
_SUSPECT_IN_PATH = re.compile(r"[^!-~]|[%\\#?]|/\.")
_SUSPECT_IN_QUERY = re.compile(r"[^!-~]|[%\\#]")
_BROKEN_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_ENCODED_CONTROL = re.compile("%(?:[01][0-9A-Fa-f]|7[Ff])")
_ENCODED_BACKSLASH = re.compile("%5[Cc]")
_ENCODED_SLASH = re.compile("%2[Ff]")

# "." and "..", also with a path parameter ("..;v=1"), which Java servers cut off before they resolve dots.
_DOT_SEGMENT = re.compile(r"(?:^|[/\\])\.\.?(?:;[^/\\]*)?(?=[/\\]|$)")

# More servers in a row than this do not each decode once; without an end, "%25252525…" would cost its length squared.
_DECODINGS = 6

# What is its own canonical form; pairs but for their order.
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+/?")
_PLAIN_PAIRS = re.compile(r"[A-Za-z0-9._~-]+=[A-Za-z0-9._~-]*(?:&[A-Za-z0-9._~-]+=[A-Za-z0-9._~-]*)*")


def refuse_ambiguous_path(raw_path: str) -> None:
    """Refuse a raw path that two servers may read differently.

    Raises:
        BadPath: it does not start with ``/``, holds a dot segment however (and however often) encoded, a backslash
            or control byte raw or encoded, a byte outside visible ASCII, ``#`` or ``?``, or an escape that is broken
            or not UTF-8. The message says which, and never repeats the path.
    """
    if raw_path[:1] != "/":
        raise BadPath("The path must start with '/'.")
    if _SUSPECT_IN_PATH.search(raw_path) is None:
        return
    if "?" in raw_path:
        raise BadPath("The path holds a '?'.")
    _refuse_bytes(raw_path, "path")
    _refuse_dot_segments(raw_path)


def refuse_ambiguous_query(raw_query: str) -> None:
    """Refuse a raw query that two servers may read differently.

    Raises:
        BadPath: it holds a backslash or control byte raw or encoded, a byte outside visible ASCII, ``#``, or an
            escape that is broken or not UTF-8. The message says which, and never repeats the query.
    """
    if _SUSPECT_IN_QUERY.search(raw_query) is not None:
        _refuse_bytes(raw_query, "query")


def canonical_path(path: str) -> str:
    """The path as it leaves on a signed route: decoded once and encoded again, with upper-case escapes.

    Only ``A-Z a-z 0-9 - _ . ~`` stay as they are; an empty path is ``/``. The slash that a signature appends is not
    here: it is signed and never sent (API Request Signing Guide, "Constructing a Standard Request").

    Raises:
        BadPath: as ``refuse_ambiguous_path``; also for ``//`` and an encoded slash, on whose canonical form the
            vendor's guide and signers disagree.
    """
    if _PLAIN_PATH.fullmatch(path) is None or "/." in path:
        path = path or "/"
        refuse_ambiguous_path(path)
        if "//" in path:
            raise BadPath("The path holds an empty segment ('//'), which cannot be signed in one agreed way.")
        if _ENCODED_SLASH.search(path) is not None:
            raise BadPath("The path holds an encoded slash ('%2F'), which cannot be signed in one agreed way.")
        return quote(unquote(path, errors="strict"), safe="/~")
    return path


def canonical_query(raw_query: str) -> str:
    """The query as it leaves and is signed on a signed route; ``""`` means that no query leaves, not even ``?``.

    Pairs are split at ``&`` and at the first ``=`` and sorted by decoded key, then by decoded value, in code-point
    order. A raw ``+`` is read as a space, as forms write it, and leaves as ``%20``; ``;`` is text; a key without
    ``=`` gets one. Only ``A-Z a-z 0-9 - _ . ~`` stay unescaped.
    Source: API Request Signing Guide, "Constructing a Standard Request".

    Raises:
        BadPath: as ``refuse_ambiguous_query``; also for an empty pair or key, which signers read differently.
    """
    if _PLAIN_PAIRS.fullmatch(raw_query) is not None:
        if "&" not in raw_query:
            return raw_query
        plain = [pair.partition("=") for pair in raw_query.split("&")]
        return "&".join([f"{key}={value}" for key, _, value in sorted(plain)])
    if not raw_query:
        return ""
    refuse_ambiguous_query(raw_query)
    pairs = [_decoded_pair(pair) for pair in raw_query.replace("+", "%20").split("&")]
    return "&".join([f"{quote(key, safe='~')}={quote(value, safe='~')}" for key, value in sorted(pairs)])


def _decoded_pair(pair: str) -> tuple[str, str]:
    key, _, value = pair.partition("=")
    if not pair:
        raise BadPath("The query holds an empty pair ('&&', or '&' at an end), which cannot be signed.")
    if not key:
        raise BadPath("The query holds a pair with an empty key ('=value'), which cannot be signed.")
    return unquote(key, errors="strict"), unquote(value, errors="strict")


def _refuse_bytes(raw: str, part: str) -> None:
    """Refuse what no part of a request target may hold."""
    for character in raw:
        if not "!" <= character <= "~":
            kind = "a byte outside ASCII" if character >= "\x80" else "a control byte or a space"
            raise BadPath(f"The {part} holds {kind}; it must be percent-encoded UTF-8 text.")
    if "\\" in raw:
        raise BadPath(f"The {part} holds a backslash.")
    if "#" in raw:
        raise BadPath(f"The {part} holds a '#'; a fragment is never sent.")
    if "%" not in raw:
        return
    if _BROKEN_ESCAPE.search(raw) is not None:
        raise BadPath(f"The {part} holds a '%' that is not followed by two hexadecimal digits.")
    if _ENCODED_CONTROL.search(raw) is not None:
        raise BadPath(f"The {part} holds an encoded control byte (%00 to %1F, or %7F).")
    if _ENCODED_BACKSLASH.search(raw) is not None:
        raise BadPath(f"The {part} holds an encoded backslash (%5C).")
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise BadPath(f"The {part} holds percent-escapes that are not UTF-8.") from error


def _refuse_dot_segments(raw_path: str) -> None:
    """Refuse ``.`` and ``..`` segments after any number of decodings, as each server on the way may decode once."""
    text = raw_path
    for _ in range(_DECODINGS):
        if _DOT_SEGMENT.search(text) is not None:
            raise BadPath("The path holds a '.' or '..' segment, plain or encoded.")
        decoded = unquote(text, errors="replace")
        if decoded == text:
            return
        text = decoded
    raise BadPath("The path is percent-encoded over and over.")
