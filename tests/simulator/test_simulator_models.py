"""The services behind the gate, called as the user guide shows it."""

import asyncio
import base64
import io
from typing import Any

import pytest
import requests

from gateway.simulator import Simulator

from .senders import JSON, Wall, send, signed

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20


async def post(url: str, **arguments: Any) -> requests.Response:
    """``requests.post`` as in the guide's samples, beside the event loop."""
    return await asyncio.to_thread(requests.post, url, timeout=20, **arguments)


async def test_file_input_of_the_guide(simulator: Simulator, token: str) -> None:
    """The token sample with file input: ``files={'images': …}`` gets a label and scores."""
    response = await post(
        simulator.urls["v1_iam"], headers={"X-Auth-Token": token}, files={"images": ("test.png", io.BytesIO(IMAGE))}
    )

    assert response.status_code == 200
    assert set(response.json()) == {"predicted_label", "scores"}


async def test_base64_input_of_the_guide(simulator: Simulator) -> None:
    """The AppCode samples: the image as base64 in JSON is the same image as in a form."""
    headers = {"X-Apig-AppCode": simulator.credentials["app_code"]}
    url = simulator.urls["v1_app"]

    text = await post(url, headers=headers, json={"image": base64.b64encode(IMAGE).decode()})
    file = await post(url, headers=headers, files={"images": io.BytesIO(IMAGE)})
    other = await post(url, headers=headers, files={"images": io.BytesIO(IMAGE[:-1])})

    assert text.json() == file.json() != other.json()


async def test_signed_file_input_of_the_guide(simulator: Simulator, wall: Wall) -> None:
    """The AppKey/AppSecret sample: signed with UNSIGNED-PAYLOAD before the form is made, sent with it."""
    credentials = simulator.credentials
    url, fields = signed(
        simulator.urls["v1_app"],
        "POST",
        credentials["app_key"],
        credentials["app_secret"],
        wall.now,
        body=b"anything",
        headers=[("x-sdk-content-sha256", "UNSIGNED-PAYLOAD")],
    )

    response = await post(url, headers=dict(fields), files={"images": io.BytesIO(IMAGE)})

    assert response.status_code == 200, response.text
    assert simulator.state["accepted"] == {"app_signature": 1}


async def test_text_input_of_the_guide(simulator: Simulator, token: str) -> None:
    """The predictor's sample: meta.uuid comes back, and each row with its result."""
    row = {"sepal_length": 3, "sepal_width": 1, "petal_length": 2.2, "petal_width": 4}
    body = {"meta": {"uuid": "10eb0091-887f-4839-9929-cbc884f1e20e"}, "data": {"req_data": [row]}}

    response = await post(simulator.urls["v1_iam"], headers={"X-Auth-Token": token}, json=body)

    assert response.json() == {
        "meta": {"uuid": "10eb0091-887f-4839-9929-cbc884f1e20e"},
        "data": {"resp_data": [{**row, "predictresult": "Iris-setosa"}]},
    }


async def test_uuid_may_be_left_out(simulator: Simulator) -> None:
    """Without meta the uuid is blank."""
    response = await post(simulator.urls["v2_open"], json={"data": {"req_data": [{"petal_length": 5}]}})

    assert response.json()["meta"] == {"uuid": ""}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_custom_paths(simulator: Simulator, method: str) -> None:
    """A path of the model's own is served, with any method."""
    reply = await send(
        simulator.urls["v2_open"] + "/predictions/poetry", method, [("Content-Type", JSON)], b'{"text": "moon"}'
    )

    assert reply.json() == {"path": "/predictions/poetry", "result": {"text": "moon"}}


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        pytest.param(JSON, b"{", id="broken json"),
        pytest.param(JSON, b"[]", id="no object"),
        pytest.param(JSON, b'{"image": "%"}', id="broken base64"),
        pytest.param(JSON, b'{"data": {"req_data": 1}}', id="no rows"),
        pytest.param("multipart/form-data; boundary=x", b"--x--", id="no such part"),
    ],
)
async def test_the_models_own_refusals(simulator: Simulator, content_type: str, body: bytes) -> None:
    """A predefined model says ``erno`` and ``msg``."""
    reply = await send(simulator.urls["v2_open"], "POST", [("Content-Type", content_type)], body)

    assert reply.status == 400
    assert set(reply.json()) == {"erno", "msg"}


async def test_echo_shows_what_arrived(simulator: Simulator) -> None:
    """Method, raw target, fields in order and as spelt, size and hash of the body."""
    url = simulator.urls["v2_open"] + "/echo/..%2f/%41?b=2&a=%20+"

    reply = await send(url.replace("/echo/..%2f/%41", "/echo"), "PUT", [("X-Two", "1"), ("x-two", "2")], b"abc")

    echoed = reply.json()
    assert echoed["method"] == "PUT"
    assert echoed["target"].endswith("/echo?b=2&a=%20+")
    assert [field for field in echoed["headers"] if field[0].lower() == "x-two"] == [["X-Two", "1"], ["x-two", "2"]]
    assert echoed["body_bytes"] == 3
    assert echoed["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


async def test_head_has_no_body(simulator: Simulator) -> None:
    """HEAD gets the head alone."""
    reply = await send(simulator.urls["v2_open"], "HEAD")

    assert (reply.status, reply.body) == (200, b"")
