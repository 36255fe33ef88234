"""WebSocket: the credential is checked on the handshake, then everything comes back."""

import aiohttp
import pytest

from gateway.simulator import Options, Simulator

from .senders import send


@pytest.fixture
def options() -> Options:
    return Options(deadline_seconds=0.2, v2_chunk_seconds=30)


async def test_echo(simulator: Simulator, token: str) -> None:
    """Text and binary come back, past v1's time limit, with the subprotocol offered first."""
    async with (
        aiohttp.ClientSession(headers={"X-Auth-Token": token}) as session,
        session.ws_connect(
            simulator.urls["v1_iam"] + "/ws", protocols=("chat.v2", "chat.v1"), max_msg_size=0
        ) as socket,
    ):
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
        await socket.send_bytes(b"x" * 5_000_000)
        assert await socket.receive_bytes() == b"x" * 5_000_000
        with pytest.raises(TimeoutError):
            await socket.receive(timeout=0.4)

        assert socket.protocol == "chat.v2"
    assert simulator.state["accepted"] == {"token": 1}


async def test_close_from_the_service(simulator: Simulator) -> None:
    """The service closes with the code it is asked for."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(simulator.urls["v2_open"] + "/ws") as socket,
    ):
        await socket.send_str("close 4001 enough")
        message = await socket.receive()

    assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 4001, "enough")


async def test_a_wrong_credential_gets_no_handshake(simulator: Simulator) -> None:
    """Without the right credential the handshake is refused like any request."""
    async with aiohttp.ClientSession(headers={"X-Auth-Token": "MIIwrong"}) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(simulator.urls["v1_iam"] + "/ws")

    assert caught.value.status == 401


async def test_no_handshake_at_all(simulator: Simulator) -> None:
    """A plain request to the WebSocket path is told so."""
    assert (await send(simulator.urls["v2_open"] + "/ws")).status == 426
