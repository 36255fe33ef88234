"""What upstreams and callers say does not become a label: nobody can write into an alert, or make series without end."""

import json
import re

import pytest
from fake_modelarts import Call, FakeModelArts
from prometheus_client.parser import text_string_to_metric_families
from raw_caller import ask
from running import StartGateway, document, route

from gateway.metrics.counts import METHODS
from gateway.refusals import labels

MARK = "Forged"  # stands in everything that is not ours
ALLOWED = {
    "route": re.compile("echo|-"),
    "method": re.compile("|".join([*METHODS, "other"])),
    "code": re.compile(r"[1-9]\d\d"),
    "error": re.compile(r"Gateway\.[A-Za-z]+"),
    "class": re.compile("|".join(labels())),
}


async def repeats(call: Call) -> None:
    """A model that says, with the status that its caller names, what its caller sent."""
    body = await call.body()
    status = call.request.get("X-Status") or "200 OK"
    await call.reply(status, body, "Content-Type: application/json", f"Server: {MARK}", f"X-Request-Id: {MARK}")


@pytest.mark.parametrize("status", ["400 Forged", "401 Forged", "403 Forged", "405 Forged", "500 Forged", "299 Forged"])
async def test_labels_are_ours(start_gateway: StartGateway, status: str) -> None:
    """Whatever a model repeats, the labels of /metrics are of the configuration and of fixed sets."""
    said = [
        {"error_code": "APIG.0303", "error_msg": MARK},
        {"error_code": f"APIG.{MARK}", "error_msg": MARK},
        {"error": {"code": f"ModelArts.{MARK}", "message": MARK, "type": MARK}, "class": MARK},
        {"error_code": f'"}}\nforged_total{{alert="{MARK}"}} 1\n'},
    ]
    async with FakeModelArts(repeats) as fake:
        gateway = await start_gateway(document(route("echo", fake.url)))
        for one in said:
            fields = {"X-Status": status, "X-Request-Id": MARK, "Content-Type": MARK}
            await gateway.ask("POST", f"/echo/{MARK}?{MARK}", fields, body=json.dumps(one).encode())
        await gateway.ask(MARK.upper(), f"/{MARK}")
        text = (await ask(gateway.admin_port, "GET", "/metrics")).body.decode()

    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    ours = [sample for sample in samples if sample.name.startswith("gateway_")]
    odd = [
        (sample.name, name, value)
        for sample in ours
        for name, value in sample.labels.items()
        if name in ALLOWED and not ALLOWED[name].fullmatch(value)
    ]
    assert odd == []
    assert sum(sample.value for sample in ours if sample.name == "gateway_upstream_errors_total") == (
        0 if status.startswith("2") else len(said)
    )
    assert MARK.lower() not in text.lower()
