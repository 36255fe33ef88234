"""The models behind the services: a predictor, an image classifier, and an echo for tests."""

import base64
import binascii
import hashlib
import json
import re
from typing import Any

from gateway.simulator.answers import Answer, Refused, json_answer
from gateway.simulator.received import Body, Head

_LABELS = ("cat", "dog", "flower", "lorry", "ship")


def answer(head: Head, inner_path: str, body: Body) -> Answer:
    """What the model answers on its own address or on a custom path such as ``/predictions/poetry``, any method.

    Raises:
        Refused: 400 in the shape of a predefined model, as its own code would.
    """
    media_type = (head.get("Content-Type") or "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return _classify(_part(head.get("Content-Type") or "", body.content, "images"))
    if not body.length:
        return json_answer(200, {"status": "Running", "method": head.method, "path": inner_path or "/"})
    if media_type != "application/json":
        return json_answer(200, {"path": inner_path or "/", "body_bytes": body.length, "sha256": body.sha256})
    value = _json(body.content)
    if "image" in value or "images" in value:
        return _classify(_base64(value.get("image", value.get("images"))))
    if isinstance(value.get("data"), dict):
        return _predict(value)
    return json_answer(200, {"path": inner_path or "/", "result": value})


def echo(head: Head, family: str, kind: str, body: Body) -> Answer:
    """What arrived, with credentials masked."""
    return json_answer(200, received(head, family, kind, body))


def received(head: Head, family: str, kind: str, body: Body) -> dict[str, Any]:  # Any: JSON
    """A request as a test wants to see it; header names and order are as received."""
    return {
        "family": family,
        "credential": kind,
        "method": head.method,
        "target": head.target.decode("utf-8", "replace"),
        "headers": head.masked(),
        "body_bytes": body.length,
        "sha256": body.sha256,
    }


def _json(content: bytes) -> dict[str, Any]:  # Any: JSON
    try:
        value = json.loads(content)
    except ValueError as error:
        raise Refused(400, "MR.0105", "The request body is not JSON.") from error
    if not isinstance(value, dict):
        raise Refused(400, "MR.0105", "The request body is not a JSON object.")
    return value


def _predict(value: dict[str, Any]) -> Answer:  # Any: JSON
    """Iris species by petal length; ``meta.uuid`` comes back, blank if there was none."""
    rows = value["data"].get("req_data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Refused(400, "MR.0105", "data.req_data is not an array of objects.")
    meta = value.get("meta")
    uuid = meta.get("uuid", "") if isinstance(meta, dict) else ""
    answers = [{**row, "predictresult": _species(row.get("petal_length"))} for row in rows]
    return json_answer(200, {"meta": {"uuid": uuid}, "data": {"resp_data": answers}})


def _species(petal_length: object) -> str:
    if not isinstance(petal_length, int | float):
        return "unknown"
    if petal_length < 2.45:
        return "Iris-setosa"
    return "Iris-versicolor" if petal_length < 4.75 else "Iris-virginica"


def _classify(image: bytes) -> Answer:
    """Scores drawn from the image's hash: the same image scores the same, however it was sent."""
    digest = hashlib.sha256(image).digest()
    weights = [1 + digest[position] for position in range(len(_LABELS))]
    scores = {label: weight / sum(weights) for label, weight in zip(_LABELS, weights, strict=True)}
    ranking = sorted(scores, key=lambda label: scores[label], reverse=True)
    return json_answer(
        200, {"predicted_label": ranking[0], "scores": [[label, f"{scores[label]:.3f}"] for label in ranking]}
    )


def _base64(text: object) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except binascii.Error as error:
        raise Refused(400, "MR.0105", "The image is not base64.") from error


def _part(content_type: str, content: bytes, name: str) -> bytes:
    """One part of a multipart/form-data body (RFC 7578), found by its name."""
    boundary = re.search(r'boundary="?([^";]+)"?', content_type)
    if boundary is not None:
        delimiter = b"\r\n--" + boundary[1].encode()
        for part in (b"\r\n" + content).split(delimiter)[1:]:
            head, separator, rest = part.partition(b"\r\n\r\n")
            if separator and re.search(rf'name="{re.escape(name)}"'.encode(), head):
                return rest
    raise Refused(400, "MR.0105", f"The form has no part named {name}.")
