"""What upstreams' error answers are taken for."""

import calendar
import gzip
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.refusals import Refusal, Retry, classify, labels, server_time


def apig(code: str, message: str = "text") -> bytes:
    return json.dumps({"error_code": code, "error_msg": message, "request_id": "d2b1"}).encode()


def maas(code: str, message: str = "text") -> bytes:
    inner = {"code": code, "message": message, "param": None, "type": "BadRequest"}
    return json.dumps({"error": inner, "error_code": code, "error_msg": message, "span_id": "1"}).encode()


def known(status: int, body: bytes, server: bytes = b"") -> Refusal:
    refusal = classify(status, body, server)
    assert refusal is not None
    return refusal


IAM_TEXT = "Incorrect IAM authentication information: "
ECHO = "canonicalRequest:GET|/v1/token%20expires/||host:h|x-sdk-date:20230527T000431Z||host;x-sdk-date|e3b0"


@pytest.mark.parametrize(
    ("status", "body", "refusal_class", "label", "refresh"),
    [
        pytest.param(401, apig("APIG.0301", IAM_TEXT + "token expires, expires_at: 2020"), "auth_expired", "auth_expired", True, id="token expired"),
        pytest.param(401, apig("APIGW.0301", IAM_TEXT + "decrypt token fail"), "auth_invalid", "auth_invalid", True, id="APIGW, token not decodable"),
        pytest.param(401, apig("APIC.0301", IAM_TEXT + "x-auth-token not found"), "auth_missing", "auth_missing", False, id="APIC, no token"),
        pytest.param(401, apig("APIG.0301", IAM_TEXT + "verify aksk signature fail, " + ECHO + " token expires"), "auth_signature", "auth_signature", False, id="signature, with an echo of the caller's path"),
        pytest.param(401, apig("APIG.0301", IAM_TEXT + "AK access failed to reach the limit,forbidden"), "auth_locked", "auth_locked", False, id="key locked"),
        pytest.param(401, apig("APIG.0301", IAM_TEXT + "Get secretKey failed,ak:x,err:ak not exist"), "auth_invalid", "auth_invalid", False, id="no such key"),
        pytest.param(401, apig("APIG.0301", IAM_TEXT + "something new"), "auth_invalid", "auth_invalid", True, id="any other IAM fault"),
        pytest.param(401, apig("APIG.0303", "Incorrect app authentication information: app not found, appkey x"), "auth_invalid", "auth_invalid", False, id="no such app"),
        pytest.param(401, apig("APIG.0303", "Incorrect app authentication information: verify signature fail, " + ECHO), "auth_signature", "auth_signature", False, id="app signature"),
        pytest.param(401, apig("APIG.0303", "signature expired, signature time:20230527T000431Z,server time:20230527T020608Z"), "auth_clock", "auth_clock_skew", False, id="clock"),
        pytest.param(401, apig("APIG.0307", "The token must be updated."), "auth_expired", "auth_expired", True, id="token must be updated"),
        pytest.param(401, apig("ModelArts.0202"), "auth_expired", "auth_expired", True, id="dispatcher, expired"),
        pytest.param(401, apig("ModelArts.0204"), "auth_invalid", "auth_invalid", True, id="dispatcher, not parsed"),
        pytest.param(400, apig("ModelArts.0204", "Failed to get projectId from token"), "auth_scope", "auth_scope", False, id="dispatcher, no project"),
        pytest.param(401, apig("ModelArts.0207", "Not found project info of current region in token"), "auth_scope", "auth_scope", False, id="other region"),
        pytest.param(401, apig("ModelArts.0207", "The signature expired"), "auth_clock", "auth_clock_skew", False, id="0207 as it was in 2021"),
        pytest.param(401, apig("ModelArts.4201"), "auth_invalid", "auth_invalid", True, id="one code, 401"),
        pytest.param(400, apig("ModelArts.4201"), "client", "route_bad_url", False, id="one code, 400"),
        pytest.param(413, apig("APIG.0201", "Request entity too large"), "too_large", "body_too_large", False, id="body too large"),
        pytest.param(494, apig("APIG.0201", "Request headers too large"), "too_large", "headers_too_large", False, id="headers too large"),
        pytest.param(500, apig("ModelArts.4302", "upstream self protection"), "breaker_open", "upstream_breaker_open", False, id="breaker"),
        pytest.param(500, apig("ModelArts.4503", "Unrecognized SSL message, plaintext connection?"), "upstream_config", "upstream_config", False, id="protocol of the container"),
        pytest.param(429, maas("ModelArts.81101"), "throttled", "throttled", False, id="MaaS, requests per minute"),
        pytest.param(401, maas("ModelArts.81003"), "auth_invalid", "auth_invalid", False, id="MaaS, api key"),
        pytest.param(403, b'{"error":{"code":"ModelArts.81011","message":"no"}}', "policy", "content_filter", False, id="OpenAI shape alone"),
        pytest.param(504, apig("CF2.E00003"), "timeout", "upstream_timeout", False, id="v2, any status"),
        pytest.param(500, b'{"erno":"MR.0105","msg":"model failed"}', "model_error", "model_error", False, id="predefined model"),
        pytest.param(400, b'{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}', "model_error", "model_error", False, id="vLLM"),
        pytest.param(405, b'{"detail":"Method Not Allowed"}', "model_error", "model_error", False, id="vLLM, FastAPI's own"),
        pytest.param(401, b'{"error":{"code":"invalid_api_key","message":"Incorrect API key"}}', "model_error", "model_error", False, id="a model server's own 401"),
        pytest.param(502, b"<html><h1>502 Bad Gateway</h1></html>", "unknown", "upstream_other", False, id="HTML"),
        pytest.param(401, b"", "unknown", "upstream_other", False, id="nothing"),
        pytest.param(401, b"\xff\xfe\x00", "unknown", "upstream_other", False, id="rubbish"),
        pytest.param(401, apig("APIG.9999"), "unknown", "upstream_other", False, id="a code nobody listed"),
        pytest.param(403, apig("APIG.0307"), "auth_expired", "auth_expired", False, id="changed status: nothing is renewed on the strength of it"),
        pytest.param(503, apig("APIG.0201"), "unknown", "upstream_other", False, id="changed status of a code with many meanings"),
        pytest.param(401, apig("APIG.0301", "token expires" + "x" * 9000)[:4096], "unknown", "upstream_other", False, id="cut off"),
        pytest.param(401, apig("APIG.0301", "token expires" + "x" * 9000), "auth_expired", "auth_expired", True, id="long, as with an echo"),
        pytest.param(401, apig("APIG.0301", "token expires" + "x" * 20000), "unknown", "upstream_other", False, id="longer than what is looked at"),
        pytest.param(401, b"\xef\xbb\xbf \r\n" + apig("ModelArts.0202"), "auth_expired", "auth_expired", True, id="byte order mark"),
        pytest.param(401, b"<p>APIGW.0307 The token must be updated</p>", "unknown", "upstream_other", False, id="a code in HTML"),
        pytest.param(401, gzip.compress(apig("APIG.0307")), "auth_expired", "auth_expired", True, id="gzip"),
        pytest.param(401, gzip.compress(apig("APIG.0307"))[:20], "unknown", "upstream_other", False, id="gzip cut off"),
        pytest.param(429, b"data: " + maas("ModelArts.81103") + b"\n\n", "throttled", "throttled", False, id="event stream"),
    ],
)  # fmt: skip
def test_what_an_answer_means(status: int, body: bytes, refusal_class: str, label: str, refresh: bool) -> None:
    """Code, status and text lead to one class and one label; only a token that can be renewed is."""
    refusal = known(status, body)

    assert (refusal.refusal_class, refusal.label, refusal.refresh) == (refusal_class, label, refresh)
    assert refusal.label in labels()
    assert refusal.refresh is (refusal.retry is Retry.AFTER_REFRESH)


def quoted(code: str, text: str = "failed to reach the limit, signature expired, token expires") -> bytes:
    """What a caller sends who wants its model to say it."""
    return apig(code, text)


LOCK = "APIG.0301 failed to reach the limit"
EVENT = b"data: " + apig("APIG.0307") + b"\n\n"


@pytest.mark.parametrize(
    ("status", "body", "server", "certain"),
    [
        pytest.param(401, apig("APIG.0301", LOCK), b"", True, id="API Gateway's own"),
        pytest.param(401, apig("APIG.0301", LOCK), b"api-gateway", True, id="with its name"),
        pytest.param(401, apig("ModelArts.0202"), b"ModelArts", True, id="the dispatcher's own"),
        pytest.param(401, maas("ModelArts.81003"), b"", True, id="both shapes of MaaS, which agree"),
        pytest.param(401, b'{"error":{"code":"ModelArts.81003","message":"no"}}', b"", True, id="the error object"),
        pytest.param(401, EVENT, b"", True, id="the first event"),
        pytest.param(401, gzip.compress(apig("APIG.0307")), b"", True, id="gzip"),
        pytest.param(502, apig("APIG.0201"), b"", True, id="what is no matter of credentials, at its own status"),
        pytest.param(400, b'{"error_code":"MR.0105"}', b"", True, id="the model's own code"),
        pytest.param(422, b'{"detail":[]}', b"", True, id="the model's own shape"),
        pytest.param(500, b"Traceback", b"ModelArts", True, id="the model's own text"),
        # Plain text that quotes the caller.
        pytest.param(400, f"cannot parse the prompt: {LOCK}".encode(), b"", False, id="text, 400"),
        pytest.param(401, f"cannot parse the prompt: {LOCK}".encode(), b"", False, id="text, 401"),
        pytest.param(401, b"cannot parse: " + quoted("APIG.0307"), b"", False, id="JSON in text"),
        pytest.param(401, quoted("APIG.0307") + b" is no prompt", b"", False, id="JSON before text"),
        pytest.param(500, b"Traceback: " + quoted("APIG.0301"), b"ModelArts", True, id="text of a named model"),
        pytest.param(401, b"<pre>" + quoted("APIG.0301") + b"</pre>", b"", False, id="HTML"),
        # JSON of the model's own that quotes the caller.
        pytest.param(422, json.dumps({"detail": [{"type": "string_type", "loc": ["body"], "input": [LOCK]}]}).encode(), b"", True, id="pydantic"),
        pytest.param(422, json.dumps({"detail": [{"input": json.loads(quoted("APIG.0301"))}]}).encode(), b"", True, id="pydantic, an object as it came"),
        pytest.param(422, json.dumps({"detail": [{"input": [LOCK + "x" * 5000]}]}).encode()[:4096], b"", False, id="pydantic, cut"),
        pytest.param(401, json.dumps({"detail": [{"input": json.loads(quoted("APIG.0301"))}], "x": "x" * 5000}).encode()[:4096], b"", False, id="cut after an object of the caller"),
        pytest.param(400, json.dumps({"object": "error", "message": LOCK, "type": "BadRequestError", "code": 400}).encode(), b"", True, id="vLLM"),
        pytest.param(401, json.dumps({"error_code": "MINE.1", "error_msg": LOCK, "code": "APIG.0301"}).encode(), b"", False, id="a second code beside the model's own"),
        pytest.param(401, json.dumps({"error_code": "MINE.1", "error": json.loads(quoted("APIG.0301"))}).encode(), b"", False, id="an error object of the caller's"),
        pytest.param(401, b'{"error_code":"MINE.1","error_msg":"no ","error_code":"APIG.0301","x":"failed to reach the limit"}', b"", False, id="broken out of a string"),
        pytest.param(401, b'[{"error_code":"APIG.0301"}]', b"", False, id="a list"),
        pytest.param(401, b'data: {"id":"1"}\n\n' + EVENT, b"", False, id="a later event"),
        pytest.param(401, b'data: {"error":"\xe2\x80\xa8data: ' + apig("APIG.0307") + b'\n\n', b"", False, id="an event broken by U+2028"),
        pytest.param(401, b': hello\xe2\x80\xa8data: ' + apig("APIG.0307") + b'\n\n', b"", False, id="a comment broken by U+2028"),
        # A model that answers with what the caller sent.
        pytest.param(400, quoted("APIG.0301"), b"", False, id="echo under 400"),
        pytest.param(422, quoted("APIG.0307"), b"", False, id="echo under 422"),
        pytest.param(500, quoted("APIG.0303"), b"", False, id="echo under 500"),
        pytest.param(200, b"data: " + quoted("APIG.0301") + b"\n\n", b"", False, id="echo under 200"),
        pytest.param(400, quoted("ModelArts.4905"), b"", False, id="echo of what the dispatcher says under 400"),
        pytest.param(400, quoted("APIG.1009"), b"", False, id="echo of what API Gateway says under 400"),
        # Not a word about the credential.
        pytest.param(401, b'{"detail":"who are you?"}', b"", False, id="401 without a code"),
        pytest.param(401, b"", b"ModelArts", False, id="401 without a word"),
        pytest.param(502, b"", b"", False, id="nothing"),
    ],
)  # fmt: skip
def test_what_counts(status: int, body: bytes, server: bytes, certain: bool) -> None:
    """What a caller makes a model say is never a reason to do something about the credential that others share."""
    refusal = known(status, body, server)

    assert refusal.certain is certain
    assert certain or (refusal.retry is Retry.NO and not refusal.refresh)
    if status != 401:
        assert not (refusal.certain and refusal.refusal_class.startswith("auth_"))


@pytest.mark.parametrize("status", [200, 400, 403, 413, 422, 429, 500, 502, 503])
def test_what_the_model_repeats(status: int) -> None:
    """At any status but 401, not even an answer that is the caller's own body touches the credential."""
    codes = ("APIG.0301", "APIGW.0303", "APIG.0307", "APIG.1009", "ModelArts.0208", "ModelArts.4905")
    texts = (LOCK, "signature expired", "token expires", "verify aksk signature fail", "")
    for code, text in itertools.product(codes, texts):
        for body in (apig(code, text), b"data: " + apig(code, text) + b"\n\n", maas(code, text)):
            refusal = classify(status, body)
            assert refusal is None or (not refusal.certain and refusal.retry is Retry.NO and not refusal.refresh)


@pytest.mark.parametrize(
    ("status", "body", "retry"),
    [
        pytest.param(502, apig("APIG.0201", "Backend unavailable"), Retry.IDEMPOTENT, id="backend unreachable"),
        pytest.param(500, apig("ModelArts.4503", "h:8080 failed to respond"), Retry.IDEMPOTENT, id="keep-alive race"),
        pytest.param(408, apig("ModelArts.4205"), Retry.IDEMPOTENT, id="connection to the service timed out"),
        pytest.param(500, apig("ModelArts.4302", "no available server"), Retry.NO, id="no live instance"),
        pytest.param(504, apig("APIG.0201", "Backend timeout"), Retry.NO, id="timeout: the model may still be running"),
        pytest.param(413, apig("APIG.0201"), Retry.NO, id="too large"),
        pytest.param(401, apig("APIG.0303", "signature expired"), Retry.AFTER_CLOCK, id="clock"),
        pytest.param(401, apig("APIG.0303"), Retry.NO, id="signature"),
        pytest.param(429, apig("APIG.0308"), Retry.NO, id="throttled"),
        pytest.param(500, b"oops", Retry.NO, id="unknown"),
    ],
)  # fmt: skip
def test_what_may_be_sent_again(status: int, body: bytes, retry: Retry) -> None:
    """A second attempt is allowed by the table alone, never by a status."""
    assert known(status, body).retry is retry


@pytest.mark.parametrize(
    ("body", "label"),
    [
        pytest.param(b'data: {"id":"1","choices":[]}\n\ndata: [DONE]\n\n', None, id="an ordinary stream"),
        pytest.param(b'{"error_code":"ModelArts.81101"}', None, id="a model's answer may hold anything"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"data: " + maas("ModelArts.81101") + b"\n\n", "throttled", id="an error in the first event"),
        pytest.param(b"event: error\ndata: " + maas("ModelArts.81011") + b"\n\n", "content_filter", id="a named event"),
        pytest.param(b'data: {"error":{"message":"overloaded"}}\n\n', "model_error", id="without a code"),
        pytest.param(b'data: {"error_code":"MR.0105"}\n\n', "model_error", id="the model's own code"),
        pytest.param(b'data: {"id":"1"}\n\ndata: ' + maas("ModelArts.81101") + b"\n\n", None, id="in a later event"),
    ],
)  # fmt: skip
def test_errors_under_success(body: bytes, label: str | None) -> None:
    """Below 400 only an error in the first event of a stream is a refusal, and it never leads to a second attempt."""
    refusal = classify(200, body)

    assert (refusal.label if refusal is not None else None) == label
    assert refusal is None or (refusal.retry is Retry.NO and not refusal.refresh)


@pytest.mark.parametrize(
    ("server", "label"),
    [(b"ModelArts", "model_error"), (b" modelarts ", "model_error"), (b"api-gateway", "upstream_other")],
)
def test_the_models_own_answers(server: bytes, label: str) -> None:
    """Plain text from a ModelArts service without one of its codes is the model's own."""
    assert known(500, b"Traceback", server).label == label


def test_codes_are_normalised() -> None:
    """APIG's codes have three spellings, and one meaning."""
    assert {known(401, apig(f"{family}.0307")).code for family in ("APIG", "APIGW", "APIC")} == {"APIG.0307"}


def test_labels_are_a_fixed_set() -> None:
    """A metric can be made for each label before any answer came."""
    assert len(labels()) == len(set(labels()))
    assert {"auth_expired", "auth_clock_skew", "model_error", "upstream_other"} <= set(labels())


@given(
    st.integers(100, 599),
    st.one_of(st.binary(max_size=200), st.text('{}[]":,errocd_APIG.0301ModelArts \n', max_size=200).map(str.encode)),
)
def test_no_body_is_too_odd(status: int, body: bytes) -> None:
    """Whatever an upstream sends is classified without an error, under a known label."""
    refusal = classify(status, body)

    assert refusal is None or refusal.label in labels()
    assert refusal is not None or status < 400
    server_time(body)


def test_deep_json() -> None:
    """Brackets without end do not bring the gateway down."""
    assert known(500, b'{"a":' + b"[" * 8000).label == "upstream_other"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("signature expired, signature time:20230527T000431Z,server time:20230527T020608Z", (2023, 5, 27, 2, 6, 8), id="as documented"),
        pytest.param("Signature expired, server time: 20240229T000000Z", (2024, 2, 29, 0, 0, 0), id="spaces and case"),
        pytest.param("signature expired, server time:20231301T000000Z", None, id="no such month"),
        pytest.param("signature expired", None, id="no time"),
        pytest.param("server time:20230527T020608Z", None, id="another text"),
        pytest.param("signature expired" + "," * 300 + "server time:20230527T020608Z", None, id="far away"),
        pytest.param("signature expired, server time:" + " " * 9 + "20230527T020608Z", None, id="padded"),
    ],
)  # fmt: skip
def test_server_time(text: str, expected: tuple[int, ...] | None) -> None:
    """The refusal of an old signature tells the upstream's clock."""
    assert server_time(apig("APIG.0303", text)) == (None if expected is None else calendar.timegm((*expected, 0, 0, 0)))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"signature expired, server time:20400101T000000Z", id="text"),
        pytest.param(b'{"detail":"signature expired, server time:20400101T000000Z"}', id="another member"),
        pytest.param(b'{"error_msg":"signature expired, server time:20400101T000000Z"', id="cut off"),
    ],
)
def test_a_time_that_is_only_quoted(body: bytes) -> None:
    """Only the message of a whole error object tells the time."""
    assert server_time(body) is None
