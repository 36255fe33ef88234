"""Web pages and the running program: who may, what browsers are told, and what the upstream never sees."""

from fake_modelarts import FakeModelArts, says
from running import StartProcess, document, route

PAGE = "https://console.example.com"
OTHER = {"Origin": "https://evil.example"}
CALLERS = [{"name": "known", "token": {"env": "TOKEN"}, "routes": ["*"]}]
TOKEN = {"TOKEN": "token-of-the-page"}


async def test_pages(start_process: StartProcess, fake: FakeModelArts) -> None:
    """Preflights are answered here, ``Vary`` names Origin always, the upstream's CORS is replaced, errors can be read."""
    fake.behaviour = says(
        "200 OK", b"ok", "Access-Control-Allow-Origin: *", "Access-Control-Allow-Credentials: true", "Vary: Accept"
    )
    process = await start_process(
        document(
            route("r", fake.url, cors={"origins": [PAGE]}, methods=["POST"]), route("plain", fake.url), callers=CALLERS
        ),
        TOKEN,
    )
    known = {"Authorization": f"Bearer {TOKEN['TOKEN']}"}
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-a"}

    preflight = await process.ask("OPTIONS", "/r/x", {"Origin": PAGE, **asks})
    denied = await process.ask("OPTIONS", "/r/x", {**OTHER, **asks})
    foreign = [
        await process.ask("POST", "/r", {**known, **OTHER}, body=b"x"),
        await process.ask("POST", "/plain", {**known, "Origin": PAGE}, body=b"x"),
        await process.ask("GET", "/plain", {**known, "Sec-Fetch-Site": "cross-site"}),
    ]
    before = len(fake.received)
    answer = await process.ask("POST", "/r", {**known, "Origin": PAGE}, body=b"x")
    unread = await process.ask("POST", "/r", known, body=b"x")
    unknown = await process.ask("POST", "/r", {"Origin": PAGE}, body=b"x")
    wrong = await process.ask("GET", "/r", {**known, "Origin": PAGE})

    assert preflight.status == 204
    assert preflight.get("Access-Control-Allow-Origin") == PAGE
    assert preflight.get("Access-Control-Allow-Methods") == "POST"
    assert preflight.get("Access-Control-Allow-Headers") == "authorization, x-a"
    assert preflight.get("Access-Control-Max-Age") == "600"
    assert [reply.status for reply in (denied, *foreign)] == [403] * 4
    assert foreign[0].code == "Gateway.OriginNotAllowed"
    assert foreign[0].get("Access-Control-Allow-Origin") is None
    assert before == 0
    assert answer.all("Access-Control-Allow-Origin") == [PAGE]
    assert answer.all("Access-Control-Allow-Credentials") == []
    assert {"Accept", "Origin"} <= {name.strip() for line in answer.all("Vary") for name in line.split(",")}
    assert "X-Gateway-Request-Id" in (answer.get("Access-Control-Expose-Headers") or "")
    assert unread.get("Access-Control-Allow-Origin") is None
    assert "Origin" in unread.all("Vary")
    assert (unknown.status, unknown.get("Access-Control-Allow-Origin")) == (401, PAGE)
    assert (wrong.status, wrong.get("Access-Control-Allow-Origin")) == (405, PAGE)
    assert len(fake.received) == 2
