"""The vendor's own signer as a judge of what arrived at a socket."""

from urllib.parse import unquote

from fake_modelarts import Received
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer

ALGORITHM = "SDK-HMAC-SHA256"


def signed_headers(request: Received) -> list[str]:
    """The names that the Authorization of a request says are signed."""
    authorization = request.get("Authorization") or ""
    assert authorization.startswith(f"{ALGORITHM} Access="), authorization
    return authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")


def verifies(request: Received, key: str, secret: str) -> bool:
    """Whether ``huaweicloudsdkcore`` computes the same Authorization over the received bytes, and would send the same target."""
    names = signed_headers(request)
    fields = {name: request.all(name) for name in names}
    assert all(len(values) == 1 for values in fields.values()), fields
    pairs = [pair.partition("=") for pair in request.query.split("&")] if request.query else []
    sdk = SdkRequest(
        request.method,
        "http",
        request.get("Host"),
        request.path,
        query_params=[(unquote(name), unquote(value)) for name, _, value in pairs],
        header_params={name: values[0] for name, values in fields.items()},
        body=request.body,
    )
    Signer(BasicCredentials(key, secret, "unused")).sign(sdk)
    return bool(sdk.header_params["Authorization"] == request.get("Authorization") and sdk.uri == request.target)
