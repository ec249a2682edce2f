"""A real Chromium: Debian's, or the one that Playwright brings; a test that has neither is skipped and says so."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

DEBIAN = Path("/usr/bin/chromium")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A headless browser for the length of the block."""
    async with async_playwright() as playwright:
        path = DEBIAN if DEBIAN.exists() else Path(playwright.chromium.executable_path)
        if not path.exists():
            pytest.skip(f"no Chromium: neither {DEBIAN} (apt-get install chromium) nor Playwright's own is installed")
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium's own sandbox refuses root
        browser = await playwright.chromium.launch(executable_path=path, args=sandbox)
        try:
            yield browser
        finally:
            await browser.close()
