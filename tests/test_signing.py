"""SDK-HMAC-SHA256 against the vendor's published example, runs of its official signers, and its SDK installed here."""

import base64
import calendar
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer as SdkSigner
from hypothesis import given
from hypothesis import strategies as st

from gateway import signing
from gateway.errors import BadPath
from gateway.paths import canonical_path, canonical_query

VECTORS = json.loads((Path(__file__).parent / "vectors/signing.json").read_text())["vectors"]
BY_ID = {vector["id"]: vector for vector in VECTORS}


def of_tier(*tiers: str) -> list[Any]:
    return [
        pytest.param(vector, id=f"{vector['id']} {vector['description']}")
        for vector in VECTORS
        if vector["agreement"]["tier"] in tiers
    ]


def parts(vector: dict[str, Any]) -> tuple[str, str, str | None]:
    """Authority, path and query of the vector's URL as it is written; None where there is no query."""
    rest = vector["input"]["url"].partition("://")[2]
    target, mark, query = rest.partition("?")
    authority, slash, path = target.partition("/")
    return authority, slash + path, query if mark else None


def payload_hash(vector: dict[str, Any]) -> str:
    given_hash = [value for name, value in vector["input"]["headers"] if name.lower() == "x-sdk-content-sha256"]
    return given_hash[0] if given_hash else hashlib.sha256(base64.b64decode(vector["input"]["body_base64"])).hexdigest()


def fields(vector: dict[str, Any]) -> list[tuple[str, str]]:
    signed = [(name, value) for name, value in vector["input"]["headers"]]
    if not any(name.lower() == "host" for name, _ in signed):
        signed.append(("Host", parts(vector)[0]))
    return [*signed, ("X-Sdk-Date", vector["input"]["sdk_date"])]


def test_there_are_vectors() -> None:
    """The file that everything below is about is whole."""
    assert len(of_tier("all")) == 51
    assert len(VECTORS) == 68


@pytest.mark.parametrize("vector", of_tier("all"))
def test_vectors_all_signers_agree_on(vector: dict[str, Any]) -> None:
    """Canonical request, string to sign and Authorization are those of the official signers, byte for byte."""
    sent, expected = vector["input"], vector["expected"]
    _, path, query = parts(vector)

    canonical, signed_headers = signing.canonical_request(
        sent["method"], path, query or "", fields(vector), payload_hash(vector)
    )
    text = signing.string_to_sign(sent["sdk_date"], canonical)
    signature = signing.signature(sent["secret"], text)

    assert canonical == expected["canonical_request"]
    assert text == expected["string_to_sign"]
    assert signature == expected["signature"]
    assert signing.authorization(sent["key"], signed_headers, signature) == expected["authorization"]


# What becomes of inputs that official signers, or they and the guide, read differently.
REFUSED_AS_TARGET = {
    "S007": "empty segment",
    "S008": "empty segment",
    "S009": "dot segment",
    "S012": "raw text outside ASCII",
    "S014": "encoded slash",
    "S021": "empty pair",
    "S028": "raw text outside ASCII",
    "S034": "empty key",
    "S036": "broken escape",
    "S037": "not UTF-8",
    "S067": "fragment",
}
REWRITTEN = {"S024": "q=a%20b", "S035": "a=1%3Bb%3D2"}
# The gateway's form is the one that Python and all but one older signer give.
AS_PYTHON = {"S030", "S031", "S032", "S033", "S045", "S062", "S063"}
NEVER_SENT = {
    "S042": "names with an underscore are not signed",
    "S056": "no content hash header goes with an empty body",
    "S058": "Content-Type is not signed; the body is hashed, as the APIG signers do",
    "S061": "methods are upper case when they come in",
}


@pytest.mark.parametrize("vector_id", REFUSED_AS_TARGET)
def test_targets_that_are_refused(vector_id: str) -> None:
    """Paths and queries whose signature is not settled never leave on a signed route."""
    _, path, query = parts(BY_ID[vector_id])

    with pytest.raises(BadPath):
        (canonical_path(path), canonical_query(query or ""))


@pytest.mark.parametrize(("vector_id", "leaves_as"), REWRITTEN.items())
def test_targets_that_are_rewritten(vector_id: str, leaves_as: str) -> None:
    """A raw plus and a raw semicolon leave in the one spelling that every signer reads alike."""
    query = canonical_query(parts(BY_ID[vector_id])[2] or "")

    assert query == leaves_as
    assert signing.canonical_query_string(query) == query


@pytest.mark.parametrize("vector", of_tier("python", "differs"))
def test_every_disagreement_is_decided(vector: dict[str, Any]) -> None:
    """For each input that signers disagree about it is written down what the gateway does."""
    decided = [REFUSED_AS_TARGET, REWRITTEN, AS_PYTHON, NEVER_SENT]

    assert sum(vector["id"] in group for group in decided) == 1


def minimal(vector: dict[str, Any]) -> bool:
    """Whether the gateway could send this input: only headers it signs, and a target that it lets through."""
    names = {name.lower() for name, _ in vector["input"]["headers"]}
    return (
        names <= {"host", "x-stage", "x-security-token", "x-project-id", "x-sdk-content-sha256"}
        and vector["id"] not in {**REFUSED_AS_TARGET, **REWRITTEN, **NEVER_SENT}
        and payload_hash(vector) in (signing.UNSIGNED_PAYLOAD, hashlib.sha256(body(vector)).hexdigest())
    )


def body(vector: dict[str, Any]) -> bytes:
    return base64.b64decode(vector["input"]["body_base64"])


@pytest.mark.parametrize("vector", [entry for entry in of_tier("all", "python") if minimal(entry.values[0])])
def test_the_prepared_signer_gives_the_same(vector: dict[str, Any]) -> None:
    """What the gateway really uses gives the official Authorization for every vector that it could send."""
    sent = vector["input"]
    given_fields = {name.lower(): value for name, value in sent["headers"]}
    authority, path, query = parts(vector)
    signer = signing.Signer(
        sent["key"],
        sent["secret"],
        security_token=given_fields.get("x-security-token"),
        project_id=given_fields.get("x-project-id"),
    )

    x_sdk_date, authorization = signer.sign(
        sent["method"],
        canonical_path(path),
        canonical_query(query or ""),
        given_fields.get("host", authority),
        payload_hash=payload_hash(vector),
        instant_seconds=calendar.timegm(time.strptime(sent["sdk_date"], "%Y%m%dT%H%M%SZ")) + 0.9,
        content_sha256=given_fields.get("x-sdk-content-sha256"),
        stage=given_fields.get("x-stage"),
    )

    assert x_sdk_date == sent["sdk_date"]
    assert authorization == vector["expected"]["authorization"]


WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@given(
    segments=st.lists(
        st.text("ab.-~:@ é中😀%+", min_size=1, max_size=5).filter(lambda s: s not in (".", "..")), max_size=4
    ),
    pairs=st.lists(
        st.tuples(st.text("ab/.é中% +", min_size=1, max_size=3), st.text("ab=&é+ ", max_size=3)), max_size=4
    ),
    content=st.binary(max_size=50),
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]),
    keys=st.tuples(WORDS, WORDS),
    token=st.none() | WORDS,
    project=st.none() | WORDS,
    stage=st.none() | WORDS,
    unsigned=st.booleans(),
    instant=st.integers(0, 4_000_000_000),
)
def test_against_the_vendors_sdk(
    segments: list[str],
    pairs: list[tuple[str, str]],
    content: bytes,
    method: str,
    keys: tuple[str, str],
    token: str | None,
    project: str | None,
    stage: str | None,
    unsigned: bool,
    instant: int,
) -> None:
    """For any target, body and header set, the vendor's own SDK signs what we send just as we do."""
    from urllib.parse import quote

    try:
        path = canonical_path("/" + "/".join(quote(segment, safe=":@") for segment in segments))
    except BadPath:  # a text that decodes to dots
        return
    query = canonical_query("&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in pairs))
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(instant))
    unsigned = unsigned and bool(content)
    headers = {"X-Sdk-Date": date, "Host": "h.example.com:8443"}
    headers |= {"X-Security-Token": token} if token is not None else {}
    headers |= {"X-Project-Id": project} if project is not None else {}
    headers |= {"x-stage": stage} if stage is not None else {}
    headers |= {"X-Sdk-Content-Sha256": "UNSIGNED-PAYLOAD"} if unsigned else {}
    request = SdkRequest(
        method=method,
        schema="https",
        host="h.example.com:8443",
        resource_path=path,
        query_params=list(pairs),
        header_params=headers,
        body=content,
    )
    expected = SdkSigner(BasicCredentials(*keys)).sign(request)
    hashed = "UNSIGNED-PAYLOAD" if unsigned else hashlib.sha256(content).hexdigest()

    signed = signing.Signer(*keys, security_token=token, project_id=project).sign(
        method,
        path,
        query,
        "h.example.com:8443",
        payload_hash=hashed,
        instant_seconds=instant,
        content_sha256="UNSIGNED-PAYLOAD" if unsigned else None,
        stage=stage,
    )
    canonical, names = signing.canonical_request(method, path, query, expected_fields(headers), hashed)
    general = signing.signature(keys[1], signing.string_to_sign(date, canonical))

    assert signed == (date, expected.header_params["Authorization"])
    assert signing.authorization(keys[0], names, general) == signed[1]
    assert expected.uri == (f"{path}?{query}" if query else path)


def expected_fields(headers: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name != "Authorization"]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_secrets_of_any_length(length: int) -> None:
    """Secrets around the block size of the hash sign as HMAC says (RFC 2104)."""
    secret = "s" * length
    canonical, names = signing.canonical_request(
        "GET", "/", "", [("Host", "h"), ("X-Sdk-Date", "19700101T000000Z")], signing.EMPTY_HASH
    )
    expected = signing.signature(secret, signing.string_to_sign("19700101T000000Z", canonical))

    _, authorization = signing.Signer("a", secret).sign(
        "GET", "/", "", "h", payload_hash=signing.EMPTY_HASH, instant_seconds=0
    )

    assert authorization == signing.authorization("a", names, expected)


def test_the_date_follows_the_second() -> None:
    """A prepared date is used within its second and never beyond it, also when the clock goes back."""
    signer = signing.Signer("a", "s")

    dates = [
        signer.sign("GET", "/", "", "h", payload_hash=signing.EMPTY_HASH, instant_seconds=instant)[0]
        for instant in (0.0, 0.999, 1.0, 86400.0, 0.5)
    ]

    assert dates == ["19700101T000000Z", "19700101T000000Z", "19700101T000001Z", "19700102T000000Z", "19700101T000000Z"]


def test_a_signer_shows_no_secret() -> None:
    """Printing a signer tells nothing of its key."""
    assert "secretsecret" not in repr(signing.Signer("key", "secretsecret"))
