"""Credentials outside the running gateway: what they are given, and how long they are waited for."""

import asyncio
import logging
import time

from gateway.credentials.base import Credential, Services

_LOOK_SECONDS = 0.02


def services() -> Services:
    """The real clocks; nobody counts refreshes. What the gateway would log is said in the command's own words."""
    logging.getLogger("gateway").addHandler(logging.NullHandler())
    return Services(
        wall=time.time,
        monotonic=asyncio.get_running_loop().time,
        sleep=asyncio.sleep,
        refreshed=lambda _name, _outcome: None,
    )


async def until_usable(credential: Credential, seconds: float) -> None:
    """Wait until a started credential is usable or has an error to show, at most ``seconds``."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    state = credential.state()
    while not state.usable and state.last_error is None and loop.time() < end:
        await asyncio.sleep(_LOOK_SECONDS)  # a state has nobody who could call us
        state = credential.state()
