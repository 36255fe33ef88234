"""The verdict on one case: everything that left on either side, re-read strictly and compared with what came in.

The rules stand here a second time, written from what the gateway promises and not from its code.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from gateway.simulator import signature
from tests.fuzz.case import Case
from tests.fuzz.pair import BASE, OPEN_BODY_BYTES, SECRETS, Observation, Seen
from tests.fuzz.strict import Read, Verdict, read_answer, read_requests

# Route prefix, and what is attached there; longest first.
ROUTES = (("/code/deep", "maas"), ("/code", "code"), ("/sig", "sig"), ("/key", "maas"), ("/open", ""), ("/ws", "code"))

# What authenticates or could pass for a credential, in lower case and with hyphens.
_CREDENTIALS = frozenset(
    "authorization proxy-authorization x-auth-token x-subject-token x-apig-appcode apikey x-api-key x-security-token "
    "x-project-id x-domain-id x-apig-mode".split()
)
_CREDENTIAL_PREFIXES = ("x-sdk-", "x-hw-")
_HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-connection proxy-authenticate te trailer transfer-encoding upgrade http2-settings".split()
)
_REQUEST_OURS = frozenset(
    "host content-length expect via x-request-id x-gateway-request-id x-request-timeout x-envoy-expected-rq-timeout-ms "
    "x-stage forwarded x-real-ip".split()
)
_ANSWER_OURS = frozenset("content-length proxy-status x-gateway-request-id".split())
# Fields that the gateway adds behind the caller's own.
_TAIL = frozenset(
    b"x-request-id via x-stage connection upgrade transfer-encoding content-length "
    b"x-apig-appcode authorization x-sdk-date x-sdk-content-sha256".split()
)
_TAG = re.compile(rb"<c[0-9]+-[0-9]+>")
# Answers after which the gateway itself may send a request once more (a token or a clock was wrong).
_RETRIED = frozenset({401})
_ERROR_STATUSES = frozenset({400, 403, 404, 405, 408, 413, 414, 417, 429, 431, 501, 502, 503, 504, 505, 508})


@dataclass
class Judgement:
    """``violations`` are broken promises; ``verdict`` is what a corpus file expects; ``novelty`` tells cases apart."""

    violations: list[str] = field(default_factory=list)
    verdict: dict[str, Any] = field(default_factory=dict)  # Any: JSON
    novelty: tuple[Any, ...] = ()
    refused_though_sound: list[str] = field(default_factory=list)


def folded(name: bytes) -> str:
    """A field name as a server may read it that treats ``_`` and ``-`` alike."""
    return name.decode("latin-1").lower().replace("_", "-")


def is_credential(name: str) -> bool:
    return name in _CREDENTIALS or name.startswith(_CREDENTIAL_PREFIXES)


def judge(case: Case, seen: Observation) -> Judgement:
    """Everything that can be said about what left in this case."""
    judgement = Judgement(violations=list(seen.problems))
    wrong = judgement.violations.append
    requests = read_requests(seen.sent)
    answers = _read_answers(seen, requests, wrong)
    _check_secrets(seen, wrong)
    _check_foreign(seen, wrong)
    pairs = _pair(answers, requests, seen.seen, wrong)
    for number, (answer, request, attempts) in enumerate(pairs):
        for attempt in attempts:
            if request is None:
                wrong(f"request {number} reached the upstream, but the caller sent no such request")
            else:
                for problem in check_request(request, attempt):
                    wrong(f"request {number}: {problem}")
        if answer is not None:
            _check_answer(number, answer, request, attempts, judgement)
    if case.clean:
        _check_clean(pairs, requests, wrong)
    judgement.verdict = {
        "answers": [[answer.status, _code(answer), answer.verdict.value] for answer in answers],
        "upstream": [
            [each.read.method.decode("latin-1"), each.read.target.decode("latin-1"), each.read.verdict.value]
            for each in seen.seen
        ],
        "ended": seen.ended,
    }
    judgement.novelty = _novelty(seen, requests, answers)
    return judgement


def _read_answers(seen: Observation, requests: list[Read], wrong: Any) -> list[Read]:  # Any: list.append
    """The answers that the caller got, each checked by itself."""
    answers: list[Read] = []
    at = 0
    while True:
        number = len(answers)
        request = requests[number] if number < len(requests) else None
        method = request.method if request is not None and request.sound_head else b"GET"
        answer = read_answer(
            seen.received,
            at,
            method,
            closed=seen.ended == "eof",
            upgrade=request is not None and request.upgrade,
            ours=True,
        )
        for interim in answer.interims:
            if request is not None and request.sound_head and not request.minor:
                wrong(f"answer {number}: an informational answer to HTTP/1.0")
            if interim.status == 101:
                wrong(f"answer {number}: 101 as an informational answer")
        if answer.verdict is Verdict.NOTHING:
            return answers
        if answer.verdict is Verdict.MALFORMED:
            wrong(f"answer {number} to the caller is malformed: {answer.why}")
            return answers
        if not answer.sound_head:
            return answers  # the caller left inside a head, or it was cut there
        if request is None:
            wrong(f"answer {number} to nothing: the caller sent {len(requests)} requests")
            return answers
        answers.append(answer)
        if len(answer.values(b"x-gateway-request-id")) != 1:
            wrong(f"answer {number} carries {len(answer.values(b'x-gateway-request-id'))} X-Gateway-Request-Id")
        if not answer.whole or answer.status == 101:
            return answers
        at = answer.end
        if b"close" in (answer.value(b"connection") or b"").lower() and at < len(seen.received):
            rest = seen.received[at : at + 60]
            wrong(f"bytes follow answer {number} ({answer.status}), which said Connection: close: {rest!r}")
            return answers


def _check_secrets(seen: Observation, wrong: Any) -> None:  # Any: list.append
    for name, secret in SECRETS.items():
        if secret.encode() in seen.received:
            wrong(f"the caller was shown {name}")
    hidden = SECRETS["APP_SECRET"].encode()
    if any(hidden in bytes(each.link.buffer) for each in seen.seen):
        wrong("APP_SECRET left towards the upstream")


def _check_foreign(seen: Observation, wrong: Any) -> None:  # Any: list.append
    """Nothing of another case: every tag that the caller got was said in this one."""
    own = set(_TAG.findall(b"".join(bytes(each.emitted) for each in seen.seen))) | set(_TAG.findall(seen.sent))
    foreign = set(_TAG.findall(seen.received)) - own
    if foreign:
        wrong(f"bytes of another exchange reached this caller: {sorted(foreign)[:3]}")


def _pair(
    answers: list[Read], requests: list[Read], seen: list[Seen], wrong: Any  # Any: list.append
) -> list[tuple[Read | None, Read | None, list[Seen]]]:
    """Each answer with the request that it belongs to and the attempts that were made for it, in order."""
    pairs: list[tuple[Read | None, Read | None, list[Seen]]] = []
    at = 0
    for number, answer in enumerate(answers):
        gateway_id = answer.value(b"x-gateway-request-id")
        attempts: list[Seen] = []
        while at < len(seen) and seen[at].request_id == gateway_id and (not attempts or _may_repeat(attempts[-1])):
            attempts.append(seen[at])
            at += 1
        pairs.append((answer, requests[number], attempts))
    left: list[Seen] = []
    while at < len(seen) and (not left or (_may_repeat(left[-1]) and seen[at].request_id == left[-1].request_id)):
        left.append(seen[at])
        at += 1
    if left:
        pairs.append((None, requests[len(answers)] if len(answers) < len(requests) else None, left))
    if at < len(seen):
        wrong(f"{len(seen) - at} requests too many reached the upstream")
    return pairs


def _may_repeat(attempt: Seen) -> bool:
    said = read_answer(bytes(attempt.emitted), 0, attempt.read.method, closed=True)
    return said.status in _RETRIED


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
    found = next(
        ((prefix, kind) for prefix, kind in ROUTES if path == prefix or path.startswith(prefix + "/")), None
    )
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
        name, _, value = line.partition(b":")
        if name.lower() == b"connection":
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
    canonical = signature.canonical_request(
        left.method.decode(), left.target, left.fields, presented.signed, hashed
    )
    date = (left.value(b"x-sdk-date") or b"").decode("latin-1")
    computed = signature.compute(SECRETS["APP_SECRET"], date, canonical)
    if presented.access != SECRETS["APP_KEY"] or computed != presented.signature:
        return [f"the signature does not cover what left ({left.target!r})"]
    return []


def _code(answer: Read) -> str:
    """The error_code of an answer of the gateway's own, "" otherwise."""
    return _error(answer).get("error_code", "") if answer.values(b"proxy-status") else ""


def _error(answer: Read) -> dict[str, str]:
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _check_answer(
    number: int, answer: Read, request: Read | None, attempts: list[Seen], judgement: Judgement
) -> None:
    wrong = judgement.violations.append
    if answer.values(b"proxy-status"):
        code = _code(answer)
        if code == "Gateway.Internal" or answer.status == 500:
            wrong(f"answer {number} is {code or answer.status}: a fault of the gateway")
        elif answer.status not in _ERROR_STATUSES:
            wrong(f"answer {number}: status {answer.status} beside Proxy-Status")
        if answer.whole and answer.body and not code.startswith("Gateway."):
            wrong(f"answer {number}: an error without error_code")
        if request is not None and request.whole:
            judgement.refused_though_sound.append(re.sub(r"[0-9]+", "N", _error(answer).get("error_msg", ""))[:160])
        return
    if not attempts:
        wrong(f"answer {number} ({answer.status}) came from no upstream")
        return
    attempt = attempts[-1]
    if attempt.tainted:
        return
    for problem in check_answer(answer, attempt):
        wrong(f"answer {number}: {problem}")


def check_answer(answer: Read, attempt: Seen) -> list[str]:
    """What is wrong with an upstream's answer as the caller got it, given what the upstream said."""
    said = read_answer(
        bytes(attempt.emitted), 0, attempt.read.method, closed=attempt.closed, upgrade=attempt.read.upgrade
    )
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


def _check_clean(
    pairs: list[tuple[Read | None, Read | None, list[Seen]]], requests: list[Read], wrong: Any  # Any: list.append
) -> None:
    """Nothing was wrong, so everything must have arrived."""
    answered = [(answer, attempts) for answer, _, attempts in pairs if answer is not None]
    if len(answered) != len(requests):
        wrong(f"clean: {len(requests)} requests, {len(answered)} answers")
    for number, (answer, attempts) in enumerate(answered):
        if answer.values(b"proxy-status"):
            wrong(f"clean: request {number} was answered {answer.status} {_error(answer)}")
        elif not answer.whole:
            wrong(f"clean: answer {number} was cut")
        elif len(attempts) != 1 or not attempts[0].read.whole:
            wrong(f"clean: request {number} did not arrive whole and once")


def _novelty(seen: Observation, requests: list[Read], answers: list[Read]) -> tuple[Any, ...]:
    """What this case did, coarsely: two cases of the same novelty took the same way through the gateway."""
    said = [
        read_answer(bytes(each.emitted), 0, each.read.method, closed=each.closed, upgrade=each.read.upgrade)
        for each in seen.seen
    ]
    messages = [re.sub(r"[0-9]+", "N", _error(each).get("error_msg", "")) for each in answers[-1:]]
    return (
        seen.ended,
        tuple((each.status // 100, _code(each), each.verdict.value, len(each.interims) > 0) for each in answers[-2:]),
        tuple((each.read.verdict.value, each.read.chunked, each.over) for each in seen.seen[-2:]),
        tuple((each.verdict.value, each.why, each.chunked, each.minor) for each in requests[-1:]),
        tuple((each.verdict.value, each.why, each.status // 100, each.chunked) for each in said[-1:]),
        *messages,
    )
