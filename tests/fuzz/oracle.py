"""The verdict on one case: everything that left on either side, re-read strictly and compared with what came in.

What is looked at in one exchange stands in rules.py; here is which request, attempt and answer belong together.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.pair import Observation
from tests.fuzz.places import SECRETS
from tests.fuzz.rules import check_answer, check_request, said_by
from tests.fuzz.strict import Read, Verdict, read_answer, read_requests
from tests.fuzz.upstream import Seen

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


def judge(case: Case, seen: Observation) -> Judgement:
    """Everything that can be said about what left in this case."""
    judgement = Judgement(violations=list(seen.problems))
    wrong = judgement.violations.append
    requests = read_requests(seen.sent)
    answers = _read_answers(seen, requests, wrong)
    _check_secrets(seen, wrong)
    _check_foreign(seen, wrong)
    pairs = _pair(answers, requests, seen.seen, wrong, caller_left=seen.ended != "eof")
    for number, (answer, request, attempts) in enumerate(pairs):
        for attempt in attempts:
            if request is None:
                wrong(f"request {number} reached the upstream, but the caller sent no such request")
            else:
                for problem in check_request(request, attempt):
                    wrong(f"request {number}: {problem}")
        if answer is not None:
            _check_answer(number, answer, request, attempts, judgement, raced=seen.raced)
            if answer.status == 101 and request is not None and attempts:
                _check_tunnel(answer, request, attempts[-1], seen, wrong)
    if case.clean:
        _check_clean(pairs, requests, wrong)
    judgement.verdict = {
        "answers": [[answer.status, _code(answer), answer.verdict.value] for answer in answers],
        "upstream": [
            [each.read.method.decode("latin-1"), each.read.target.decode("latin-1"), each.read.verdict.value]
            for each in seen.seen
        ],
        "ended": seen.ended,  # only compared where a case says so: a machine that is busy may hear of it too late
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
        method = request.method if request is not None else b"GET"
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
    own = set(_TAG.findall(seen.sent))
    for each in seen.seen:
        own |= set(_TAG.findall(bytes(each.emitted) + each.stray))
        own |= set(_TAG.findall(said_by(each).body))  # a tag may be cut by chunk framing
    for read in read_requests(seen.sent):
        own |= set(_TAG.findall(read.body))
    foreign = set(_TAG.findall(seen.received)) - own
    if foreign:
        wrong(f"bytes of another exchange reached this caller: {sorted(foreign)[:3]}")


def _pair(
    answers: list[Read],
    requests: list[Read],
    seen: list[Seen],
    wrong: Any,  # Any: list.append
    *,
    caller_left: bool,
) -> list[tuple[Read | None, Read | None, list[Seen]]]:
    """Each answer with the request that it belongs to and the attempts that were made for it, in order."""
    pairs: list[tuple[Read | None, Read | None, list[Seen]]] = []
    at = 0
    # Callers choose request ids, and may choose one twice; then only the request itself tells.
    chosen = [value for request in requests for value in request.values(b"x-request-id")]
    doubtful = {value for value in chosen if chosen.count(value) > 1}
    for number, answer in enumerate(answers):
        gateway_id = answer.value(b"x-gateway-request-id")
        attempts: list[Seen] = []
        while (
            at < len(seen)
            and seen[at].request_id == gateway_id
            and (not attempts or _may_repeat(attempts[-1]))
            and (gateway_id not in doubtful or not check_request(requests[number], seen[at]))
        ):
            attempts.append(seen[at])
            at += 1
        pairs.append((answer, requests[number], attempts))
    # What got no answer that the caller read: the one under way when it was cut, or all since the caller left.
    number = len(answers)
    while at < len(seen):
        left = [seen[at]]
        at += 1
        while at < len(seen) and _may_repeat(left[-1]) and _is_repeated(left[-1], seen[at]):
            left.append(seen[at])
            at += 1
        if not caller_left and number > len(answers):
            wrong("requests too many reached the upstream")
            break
        fitting = (each for each in range(number, len(requests)) if not check_request(requests[each], left[0]))
        number = next(fitting, number) if caller_left else number
        pairs.append((None, requests[number] if number < len(requests) else None, left))
        number += 1
    return pairs


def _is_repeated(one: Seen, other: Seen) -> bool:
    """By the id alone two requests of a caller that chose one id twice would be taken for attempts of one."""
    return (one.request_id, one.read.method, one.read.target) == (
        other.request_id,
        other.read.method,
        other.read.target,
    )


def _may_repeat(attempt: Seen) -> bool:
    return said_by(attempt).status in _RETRIED


def _code(answer: Read) -> str:
    """The error_code of an answer of the gateway's own, ``Gateway`` where HEAD hides it, "" for an upstream's."""
    if not answer.values(b"proxy-status"):
        return ""
    return _error(answer).get("error_code", "Gateway")


def _error(answer: Read) -> dict[str, str]:
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _check_answer(
    number: int, answer: Read, request: Read | None, attempts: list[Seen], judgement: Judgement, *, raced: bool
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
        if not raced:
            wrong(f"answer {number} ({answer.status}) came from no upstream")
        return
    attempt = attempts[-1]
    if attempt.tainted:
        return
    for problem in check_answer(answer, attempt):
        wrong(f"answer {number}: {problem}")


def _check_tunnel(
    answer: Read, request: Read, attempt: Seen, seen: Observation, wrong: Any
) -> None:  # Any: list.append
    """Behind a handshake both directions are bytes, and nothing else came of them."""
    inward = bytes(attempt.emitted)[said_by(attempt).end :]
    if not inward.startswith(seen.received[answer.end :]):
        wrong("tunnel: bytes changed on their way to the caller")
    if not seen.sent[request.end :].startswith(attempt.tunnel or b""):
        wrong("tunnel: bytes changed on their way to the upstream")


def _check_clean(
    pairs: list[tuple[Read | None, Read | None, list[Seen]]],
    requests: list[Read],
    wrong: Any,  # Any: list.append
) -> None:
    """Nothing was wrong, so everything must have arrived."""
    answered = [(answer, attempts) for answer, _, attempts in pairs if answer is not None]
    if any(answer.status == 503 and answer.values(b"proxy-status") for answer, _ in answered):
        return  # earlier cases said often enough that a signature was wrong
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
    said = [said_by(each) for each in seen.seen]
    messages = [re.sub(r"[0-9]+", "N", _error(each).get("error_msg", "")) for each in answers[-1:]]
    return (
        seen.ended,
        tuple((each.status // 100, _code(each), each.verdict.value, len(each.interims) > 0) for each in answers[-2:]),
        tuple((each.read.verdict.value, each.read.chunked, each.over) for each in seen.seen[-2:]),
        tuple((each.verdict.value, each.why, each.chunked, each.minor) for each in requests[-1:]),
        tuple((each.verdict.value, each.why, each.status // 100, each.chunked) for each in said[-1:]),
        *messages,
    )
