"""The admin paths: what happened, what shall go wrong, what time it is."""

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.simulator.answers import Refused
from gateway.simulator.options import CREDENTIALS

if TYPE_CHECKING:
    from gateway.simulator.server import Simulator


def admin_application(simulator: "Simulator") -> web.Application:
    """``/_simulator/state``, ``/faults``, ``/tokens/revoke``, ``/credentials``, ``/clock`` and ``/locks``, JSON each."""
    admin = _Admin(simulator)
    application = web.Application()
    application.add_routes(
        [
            web.get("/_simulator/state", admin.state),
            web.get("/_simulator/faults", admin.faults),
            web.post("/_simulator/faults", admin.plan),
            web.delete("/_simulator/faults", admin.forget),
            web.post("/_simulator/tokens/revoke", admin.revoke),
            web.post("/_simulator/credentials", admin.accept),
            web.post("/_simulator/clock", admin.clock),
            web.delete("/_simulator/locks", admin.unlock),
        ]
    )
    return application


class _Admin:
    def __init__(self, simulator: "Simulator") -> None:
        self._simulator = simulator

    async def state(self, _: web.Request) -> web.Response:
        return web.json_response(self._simulator.state)

    async def faults(self, _: web.Request) -> web.Response:
        return web.json_response({"faults": self._simulator.faults.listing()})

    async def plan(self, request: web.Request) -> web.Response:
        """``{"fault": "status=503", "family": "v1_iam", "path": "/x", "times": 2}``; all but ``fault`` may be left out."""
        value = await _object(request)
        times = value.get("times")
        if not isinstance(value.get("fault"), str) or not (times is None or (isinstance(times, int) and times > 0)):
            raise _bad('expected {"fault": "words", "family": …, "path": …, "times": a number of at least 1}')
        try:
            self._simulator.faults.add(value["fault"], family=value.get("family"), path=value.get("path"), times=times)
        except Refused as refused:
            raise _bad(refused.message) from refused
        return web.json_response({"faults": self._simulator.faults.listing()}, status=201)

    async def forget(self, _: web.Request) -> web.Response:
        self._simulator.faults.clear()
        return web.json_response({"faults": []})

    async def revoke(self, _: web.Request) -> web.Response:
        return web.json_response({"revoked": self._simulator.tokens.revoke_all()})

    async def accept(self, request: web.Request) -> web.Response:
        """``{"password": "another"}``: what is accepted from now on; tokens of a changed password die."""
        value = await _object(request)
        if not value or not set(value) <= set(CREDENTIALS) or not all(isinstance(text, str) for text in value.values()):
            raise _bad(f"expected an object with text for some of {', '.join(CREDENTIALS)}")
        self._simulator.accept(**value)
        return web.json_response({"accepted": self._simulator.credentials})

    async def clock(self, request: web.Request) -> web.Response:
        value = await _object(request)
        offset = value.get("offset_seconds")
        if not isinstance(offset, int | float):
            raise _bad('expected {"offset_seconds": a number}')
        self._simulator.clock_offset_seconds = float(offset)
        return web.json_response({"offset_seconds": self._simulator.clock_offset_seconds})

    async def unlock(self, _: web.Request) -> web.Response:
        self._simulator.clear_locks()
        return web.json_response({"locked": {"access_keys": [], "users": []}})


async def _object(request: web.Request) -> dict[str, Any]:  # Any: JSON
    try:
        value = json.loads(await request.read())
    except ValueError as error:
        raise _bad("the body is not JSON") from error
    if not isinstance(value, dict):
        raise _bad("the body is not a JSON object")
    return value


def _bad(message: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=json.dumps({"error": message}), content_type="application/json")
