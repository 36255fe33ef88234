"""The user guide's own calls, with the URL changed: with their credential lines deleted, and with them left in."""

import asyncio
import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import requests
from running import InProcess, StartGateway

from flows.setups import environ, everything
from gateway.simulator import Simulator

# The lines that the guide has callers write for each way of authentication.
CREDENTIAL_LINES = [
    pytest.param({}, id="credential lines deleted"),
    pytest.param({"X-Auth-Token": "MIISkAY***80T9wHQ=="}, id="token line left in"),
    pytest.param({"X-Apig-AppCode": "an-app-code-of-theirs"}, id="AppCode line left in"),
    pytest.param(
        {
            "x-sdk-content-sha256": "UNSIGNED-PAYLOAD",
            "X-Sdk-Date": "20240101T000000Z",
            "Authorization": "SDK-HMAC-SHA256 Access=theirs, SignedHeaders=host;x-sdk-date, Signature=00",
        },
        id="signature left in",
    ),
]
ROUTES = ["token", "app", "code", "aksk", "key"]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file to be classified: bytes that are neither text nor JSON."""
    path = tmp_path / "test.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2000)
    return path


@pytest.fixture
async def gateway(start_gateway: StartGateway, modelarts: Simulator, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    monkeypatch.setenv("NO_PROXY", "*")  # whatever proxy this machine names, the examples stay on loopback
    gateway = await start_gateway(everything(modelarts), environ(modelarts))
    await gateway.until_ready()
    return gateway


def expected_label(picture: Path) -> str:
    """What the classifier says of a picture that arrived whole."""
    digest = hashlib.sha256(picture.read_bytes()).digest()
    labels = ("cat", "dog", "flower", "lorry", "ship")
    return max(zip(digest, labels, strict=False))[1]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("lines", CREDENTIAL_LINES)
async def test_file_upload_by_requests(gateway: InProcess, picture: Path, lines: dict[str, str], path: str) -> None:
    """The guide's upload of a local file as form field ``images``."""

    def example() -> requests.Response:
        url = f"{gateway.url}/{path}"
        file_path = str(picture)
        with open(file_path, "rb") as file:
            files = {"images": file}
            return requests.post(url, headers=dict(lines), files=files, timeout=10)

    response = await asyncio.to_thread(example)

    assert response.status_code == 200, response.text
    assert response.json()["predicted_label"] == expected_label(picture)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("lines", CREDENTIAL_LINES)
async def test_base64_json_by_requests(gateway: InProcess, picture: Path, lines: dict[str, str], path: str) -> None:
    """The guide's JSON body with the picture as base64 text under ``image``."""

    def example() -> requests.Response:
        url = f"{gateway.url}/{path}"
        base64_data = base64.b64encode(picture.read_bytes()).decode("utf-8")
        headers = {"Content-Type": "application/json", **lines}
        return requests.post(url, headers=headers, json={"image": base64_data}, timeout=10)

    response = await asyncio.to_thread(example)

    assert response.status_code == 200, response.text
    assert response.json()["predicted_label"] == expected_label(picture)


async def test_signing_lines_left_in_altogether(gateway: InProcess, picture: Path) -> None:
    """The guide's signed example run as it is, signer included: its signature is dropped for the gateway's own."""
    from huaweicloudsdkcore.auth.credentials import BasicCredentials
    from huaweicloudsdkcore.sdk_request import SdkRequest
    from huaweicloudsdkcore.signer.signer import Signer

    def example() -> requests.Response:
        body = json.dumps({"image": base64.b64encode(picture.read_bytes()).decode()}).encode()
        request = SdkRequest(
            "POST",
            "http",
            f"127.0.0.1:{gateway.port}",
            "/app",
            query_params=[],
            header_params={"Content-Type": "application/json"},
            body=body,
        )
        Signer(BasicCredentials("their-key", "their-secret", "unused")).sign(request)
        return requests.request(
            "POST", f"{gateway.url}{request.uri}", headers=request.header_params, data=request.body, timeout=10
        )

    response = await asyncio.to_thread(example)

    assert response.status_code == 200, response.text
    assert response.json()["predicted_label"] == expected_label(picture)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("path", ["token", "app", "code"])
@pytest.mark.parametrize("lines", CREDENTIAL_LINES)
async def test_curl(gateway: InProcess, picture: Path, lines: dict[str, str], path: str) -> None:
    """The guide's curl lines: a file as form field, and text input as JSON."""
    headers = [argument for name, value in lines.items() for argument in ("-H", f"{name}:{value}")]
    iris = '{"data":{"req_data":[{"sepal_length":3,"sepal_width":1,"petal_length":2.2,"petal_width":4}]}}'

    form = await curl("-F", f"images=@{picture}", *headers, "-X", "POST", f"{gateway.url}/{path}")
    text = await curl(
        "-d", iris, *headers, "-H", "Content-type: application/json", "-X", "POST", f"{gateway.url}/{path}"
    )

    assert json.loads(form)["predicted_label"] == expected_label(picture)
    assert json.loads(text)["data"]["resp_data"][0]["predictresult"] == "Iris-setosa"


async def curl(*arguments: str) -> bytes:
    """What curl prints, called with the guide's ``-k`` and without its ``-v``."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-ks", "--noproxy", "*", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output


async def test_predictor_of_the_documents(gateway: InProcess) -> None:
    """The predictor's JSON: ``req_data`` in, ``resp_data`` out, ``meta`` kept."""
    request: Any = {"meta": {"uuid": "10eb0091"}, "data": {"req_data": [{"petal_length": 4.9}, {"petal_length": 1.1}]}}

    response = await asyncio.to_thread(requests.post, f"{gateway.url}/code/predictions", json=request, timeout=10)

    answer = response.json()
    assert answer["meta"] == {"uuid": "10eb0091"}
    assert [row["predictresult"] for row in answer["data"]["resp_data"]] == ["Iris-virginica", "Iris-setosa"]
