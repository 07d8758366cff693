"""One Chromium for all tests of the page: starting it takes longer than most of them."""

import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright, expect

expect.set_options(timeout=30_000)  # what is waited for comes at once, or late on a loaded machine, or never
BROWSER = os.environ.get("A1_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="package")
def anyio_backend() -> str:
    return "asyncio"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """All skip at one place, so that pytest tells of them in one line."""
    if BROWSER is None and "browser" in getattr(item, "fixturenames", ()):
        pytest.skip("no Chromium: apt-get install chromium, or name one in A1_CHROMIUM, to test the page")


@pytest.fixture(scope="package")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    # Names of other hosts are not even looked up: what the page needs it has from its own server.
    args = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=BROWSER, args=args)
        yield launched
        await launched.close()
