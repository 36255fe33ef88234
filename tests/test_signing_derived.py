"""V11-HMAC-SHA256 against the vendor's published example and runs of its official signers."""

import base64
import calendar
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from gateway import signing

VECTORS = json.loads((Path(__file__).parent / "vectors/signing_other_algorithms.json").read_text())["vectors"]
DERIVED = [pytest.param(vector, id=vector["id"]) for vector in VECTORS if vector["algorithm"] == "V11-HMAC-SHA256"]


def test_there_are_vectors() -> None:
    """The file that everything below is about is whole; what else it holds is not signed here."""
    assert len(DERIVED) == 8
    assert {vector["algorithm"] for vector in VECTORS} == {"V11-HMAC-SHA256", "SDK-HMAC-SM3"}


@pytest.mark.parametrize("vector", DERIVED)
def test_vectors(vector: dict[str, Any]) -> None:
    """Canonical request, string to sign and Authorization are those of the official signers, byte for byte."""
    sent, expected = vector["input"], vector["expected"]
    target = sent["url"].partition("://")[2]
    authority, slash, rest = target.partition("/")
    path, _, query = (slash + rest).partition("?")
    fields = [(name, value) for name, value in sent["headers"]]
    if not any(name.lower() == "host" for name, _ in fields):
        fields.append(("Host", authority))
    fields.append(("X-Sdk-Date", sent["sdk_date"]))
    payload_hash = hashlib.sha256(base64.b64decode(sent["body_base64"])).hexdigest()

    canonical, signed_headers = signing.canonical_request(sent["method"], path, query, fields, payload_hash)
    info = signing.derived_info(sent["sdk_date"], vector["region_id"])
    text = signing.derived_string_to_sign(sent["sdk_date"], info, canonical)
    key = signing.derived_key(sent["key"], sent["secret"], info)

    assert canonical == expected["canonical_request"]
    assert text == expected["string_to_sign"]
    authorization = signing.derived_authorization(sent["key"], info, signed_headers, signing.signature(key, text))
    assert authorization == expected["authorization"]


@pytest.mark.parametrize("token", [None, "the-token"])
def test_the_signer_and_the_rules_agree(token: str | None) -> None:
    """What is prepared for speed gives what the rules give, also on the day after."""
    signer = signing.DerivedSigner("AK", "SK", security_token=token, project_id="p1", region="cn-north-4")
    for text_date in ("20231114T235959Z", "20231115T000000Z"):
        date, authorization = signer.sign(
            "POST",
            "/v1/infers/S",
            "a=1",
            "h.example.com",
            payload_hash=signing.EMPTY_HASH,
            instant_seconds=calendar.timegm(time.strptime(text_date, "%Y%m%dT%H%M%SZ")),
        )
        fields = [("Host", "h.example.com"), ("X-Sdk-Date", date), ("X-Project-Id", "p1")]
        if token is not None:
            fields.append(("X-Security-Token", token))
        canonical, signed = signing.canonical_request("POST", "/v1/infers/S", "a=1", fields, signing.EMPTY_HASH)
        info = signing.derived_info(text_date, "cn-north-4")
        key = signing.derived_key("AK", "SK", info)
        expected = signing.signature(key, signing.derived_string_to_sign(text_date, info, canonical))

        assert date == text_date
        assert authorization == signing.derived_authorization("AK", info, signed, expected)
