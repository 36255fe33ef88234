"""Debian's Chromium, for tests that look at what a browser makes of us."""

import contextlib
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright

_PROGRAM = "/usr/bin/chromium"
_ARGUMENTS = [
    "--no-sandbox",  # tests run as root in containers, and the pages are our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

needs_chromium = pytest.mark.skipif(
    shutil.which(_PROGRAM) is None, reason="needs Debian's chromium (apt-get install chromium fonts-dejavu-core)"
)


@contextlib.asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=_PROGRAM, args=_ARGUMENTS)
        yield browser
        await browser.close()
