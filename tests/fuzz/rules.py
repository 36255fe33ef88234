"""What may cross the gateway, and how: written a second time, from what it promises and not from its code."""

import hashlib
import re
from urllib.parse import unquote, unquote_to_bytes

from gateway.simulator import signature
from tests.fuzz.places import BASE, OPEN_BODY_BYTES, ROUTES, SECRETS
from tests.fuzz.strict import Read, Verdict, read_answer
from tests.fuzz.upstream import Seen

# What authenticates or could pass for a credential, in lower case and with hyphens.
_CREDENTIALS = frozenset(
    [
        "authorization",
        "proxy-authorization",
        "x-auth-token",
        "x-subject-token",
        "x-apig-appcode",
        "apikey",
        "x-api-key",
        "x-security-token",
        "x-project-id",
        "x-domain-id",
        "x-apig-mode",
    ]
)
_CREDENTIAL_PREFIXES = ("x-sdk-", "x-hw-")
_HOP_BY_HOP = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ]
)
_REQUEST_OURS = frozenset(
    [
        "host",
        "content-length",
        "expect",
        "via",
        "x-request-id",
        "x-gateway-request-id",
        "x-request-timeout",
        "x-envoy-expected-rq-timeout-ms",
        "x-stage",
        "forwarded",
        "x-real-ip",
    ]
)
_ANSWER_OURS = frozenset(["content-length", "proxy-status", "x-gateway-request-id", "alt-svc"])
# Fields that the gateway adds behind the caller's own.
_TAIL = frozenset(
    b"x-request-id via x-stage connection upgrade transfer-encoding content-length "
    b"x-apig-appcode authorization x-sdk-date x-sdk-content-sha256".split()
)


def folded(name: bytes) -> str:
    """A field name as a server may read it that treats ``_`` and ``-`` alike."""
    return name.decode("latin-1").lower().replace("_", "-")


def is_credential(name: str) -> bool:
    return name in _CREDENTIALS or name.startswith(_CREDENTIAL_PREFIXES)


def said_by(attempt: Seen) -> Read:
    """What the upstream answered, read strictly."""
    return read_answer(
        bytes(attempt.emitted), 0, attempt.read.method, closed=attempt.closed, upgrade=attempt.read.upgrade
    )


def check_request(request: Read, seen: Seen) -> list[str]:
    """What is wrong with a request that reached the upstream, given what the caller sent."""
    left = seen.read
    if left.verdict is Verdict.MALFORMED:
        return [f"left malformed: {left.why}"]
    if not left.sound_head:
        return []
    if not request.sound_head:
        return [f"was refused by RFC 9112 ({request.why}) and yet forwarded"]
    problems = []
    if left.method != request.method:
        problems.append(f"method {request.method!r} became {left.method!r}")
    credential, found = _check_target(request.target, left.target)
    problems += found
    problems += _check_lines(request, left)
    problems += _check_credential(credential, seen)
    if left.whole and not left.upgrade:
        if not request.whole:
            problems.append(f"was completed upstream, though it is {request.verdict.value} ({request.why})")
        elif left.body != request.body:
            problems.append(f"body of {len(request.body)} bytes became {len(left.body)} bytes")
        elif credential == "" and len(left.body) > OPEN_BODY_BYTES:
            problems.append("body over the limit of its route was completed upstream")
    elif not request.body.startswith(left.body):
        problems.append("body bytes changed on their way")
    return problems


def _check_target(came: bytes, left: bytes) -> tuple[str, list[str]]:
    """The credential that belongs to the path, and what is wrong with the target that left."""
    if not came.startswith(b"/"):
        authority_and_path = came.partition(b"://")[2]
        slash = re.search(rb"[/?#]", authority_and_path)
        came = authority_and_path[slash.start() :] if slash else b"/"
        came = came if came.startswith(b"/") else b"/" + came
    path, mark, query = came.decode("latin-1").partition("?")
    found = next(((prefix, kind) for prefix, kind in ROUTES if path == prefix or path.startswith(prefix + "/")), None)
    if found is None:
        return "", [f"path {path!r} belongs to no route"]
    prefix, kind = found
    base = BASE + prefix
    target = left.decode("latin-1")
    problems = below(base, target.partition("?")[0])
    if kind == "sig":
        left_path, _, left_query = target.partition("?")
        if unquote_to_bytes(left_path) != unquote_to_bytes(base + path[len(prefix) :]):
            problems.append(f"path {path!r} became {left_path!r}")
        if _pairs_of(left_query) != _pairs_of(query.replace("+", "%20")):
            problems.append(f"query {query!r} became {left_query!r}")
    elif target != base + path[len(prefix) :] + mark + query:
        problems.append(f"target {came!r} became {target!r}")
    return kind, problems


def _pairs_of(query: str) -> list[tuple[bytes, bytes]]:
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return sorted((unquote_to_bytes(key), unquote_to_bytes(value)) for key, _, value in pairs)


def below(base: str, path: str) -> list[str]:
    """What lets a path escape its base, after any number of decodings."""
    text = path
    for _ in range(12):
        if text != base and not text.startswith(base + "/"):
            return [f"path {path!r} is not below {base!r}"]
        segments = re.split(r"[/\\]", text)
        if any(segment.partition(";")[0] in {".", ".."} for segment in segments):
            return [f"path {path!r} holds a dot segment"]
        if "\\" in text and text == path:
            return [f"path {path!r} holds a backslash"]
        decoded = unquote(text, errors="replace")
        if decoded == text:
            break
        text = decoded
    return []


def crossing(lines: list[bytes], ours: frozenset[str], *, credentials: bool) -> list[bytes]:
    """The field lines that must cross, in order: end-to-end, not ours to write, and no credential."""
    named: set[str] = set()
    for line in lines:
        raw_name, _, value = line.partition(b":")
        if raw_name.lower() == b"connection":
            named |= {folded(token.strip(b" \t")) for token in value.split(b",")}
    named -= {"", "close", "keep-alive", "upgrade"}
    kept = []
    for line in lines:
        name = folded(line.partition(b":")[0])
        if name in _HOP_BY_HOP or name in ours or name in named:
            continue
        if credentials and (is_credential(name) or name.startswith("x-forwarded-")):
            continue
        kept.append(line)
    return kept


def _check_lines(request: Read, left: Read) -> list[str]:
    expected = crossing(request.lines, _REQUEST_OURS, credentials=True)
    if not left.lines or not left.lines[0].lower().startswith(b"host:"):
        return ["Host does not come first"]
    count = len(expected)
    if left.lines[1 : 1 + count] != expected:
        changed = [line for line in expected if line not in left.lines][:3]
        return [f"field lines changed: missing {changed!r}, left {left.lines[1 : 1 + count]!r}"[:600]]
    tail = [line.partition(b":")[0].lower() for line in left.lines[1 + count :]]
    problems = []
    if strangers := sorted(set(tail) - _TAIL):
        problems.append(f"field lines came from nowhere: {strangers!r}")
    if len(tail) != len(set(tail)):
        problems.append(f"field lines written twice: {tail!r}")
    return problems


def _check_credential(kind: str, seen: Seen) -> list[str]:
    """Exactly one credential, ours; a signature covers what arrived."""
    left = seen.read
    found = [(name, value) for name, value in left.fields if is_credential(folded(name))]
    names = [name for name, _ in found]
    if kind == "code":
        wanted = [(b"x-apig-appcode", SECRETS["APP_CODE"].encode())]
    elif kind == "maas":
        wanted = [(b"authorization", b"Bearer " + SECRETS["MAAS_KEY"].encode())]
    elif kind == "sig":
        return _check_signature(left, names)
    else:
        wanted = []
    return [] if found == wanted else [f"credential fields {names!r} where {kind or 'none'} belongs"]


def _check_signature(left: Read, names: list[bytes]) -> list[str]:
    if names.count(b"authorization") != 1 or names.count(b"x-sdk-date") != 1:
        return [f"credential fields {names!r} where one signature belongs"]
    if set(names) - {b"authorization", b"x-sdk-date", b"x-sdk-content-sha256"} or len(names) != len(set(names)):
        return [f"credential fields {names!r} beside a signature"]
    if not left.whole:
        return []
    presented = signature.parse((left.value(b"authorization") or b"").decode("latin-1"))
    hashed = signature.payload_hash(left.fields, presented.signed, hashlib.sha256(left.body).hexdigest())
    canonical = signature.canonical_request(left.method.decode(), left.target, left.fields, presented.signed, hashed)
    date = (left.value(b"x-sdk-date") or b"").decode("latin-1")
    computed = signature.compute(SECRETS["APP_SECRET"], date, canonical)
    if presented.access != SECRETS["APP_KEY"] or computed != presented.signature:
        return [f"the signature does not cover what left ({left.target!r})"]
    return []


def check_answer(answer: Read, attempt: Seen) -> list[str]:
    """What is wrong with an upstream's answer as the caller got it, given what the upstream said."""
    said = said_by(attempt)
    if not said.sound_head:
        return [f"the upstream's answer was {said.verdict.value} ({said.why}) and yet passed on as {answer.status}"]
    problems = []
    if (answer.status, answer.reason) != (said.status, said.reason):
        problems.append(f"{said.status} {said.reason!r} became {answer.status} {answer.reason!r}")
    problems += _check_answer_lines(answer, said)
    if answer.status == 101:
        return problems
    if answer.whole:
        if not said.whole:
            problems.append(f"looks whole, though the upstream's was {said.verdict.value} ({said.why})")
        elif answer.body != said.body:
            problems.append(f"body of {len(said.body)} bytes became {len(answer.body)} bytes")
    elif not said.body.startswith(answer.body):
        problems.append("body bytes changed on their way")
    passed = [interim.status for interim in answer.interims if interim.status != 100]
    offered = iter([interim.status for interim in said.interims])
    if not all(status in offered for status in passed):
        problems.append(f"informational answers {passed!r} came from nowhere")
    return problems


def _check_answer_lines(answer: Read, said: Read) -> list[str]:
    crossed = crossing(said.lines, _ANSWER_OURS, credentials=False)
    cors = [line for line in crossed if folded(line.partition(b":")[0]).startswith("access-control-")]
    expected = [line for line in crossed if line not in cors] + cors
    ours = {b"content-length", b"transfer-encoding", b"connection", b"x-gateway-request-id"}
    if answer.status == 101:
        ours.add(b"upgrade")
    if not said.values(b"x-request-id"):
        ours.add(b"x-request-id")
    actual = [line for line in answer.lines if line.partition(b":")[0].lower() not in ours]
    if actual != expected:
        return [f"field lines changed: upstream {expected!r}, caller {actual!r}"[:600]]
    return []
