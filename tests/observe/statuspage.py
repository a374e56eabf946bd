"""An open status page, and clients of the server that the page is about."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import threading
import time
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")
PATIENCE = 45.0
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

RECORD_VERDICTS = """
    window.verdicts = [];
    const verdict = document.querySelector("#verdict");
    const record = () => verdicts.push(`${verdict.dataset.level}: ${document.querySelector("#text").textContent}`);
    const parts = {attributes: true, childList: true, characterData: true, subtree: true};
    new MutationObserver(record).observe(verdict, parts);
"""


class Page:
    """An open status page."""

    def __init__(self, browser: Any, port: int, **look: Any) -> None:
        self.context = browser.new_context(**look)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{port}/")
        self.text("#figures", "completed")
        self.page.evaluate(RECORD_VERDICTS)

    def text(self, selector: str, expected: str) -> str:
        """Wait until an element contains a text that matches `expected`; return the whole text."""
        found = self.page.locator(selector).first
        sync_api.expect(found).to_contain_text(re.compile(expected), timeout=1000 * PATIENCE)
        return str(found.inner_text())

    def verdict(self, expected: str, level: str) -> str:
        self.text("#text", expected)
        sync_api.expect(self.page.locator("#verdict")).to_have_attribute("data-level", re.compile(level))
        return str(self.page.locator("#verdict").inner_text())

    def has_shown(self, expected: str, level: str) -> None:
        """Wait until the page shows a verdict or has shown it, if only for a moment."""
        end = time.monotonic() + PATIENCE
        while not re.search(f"^{level}: {expected}", shown := "\n".join(self.page.evaluate("verdicts")), re.MULTILINE):
            assert time.monotonic() < end, shown
            self.page.wait_for_timeout(100)


class Clients:
    """Threads that send requests one after the other until the end of the block."""

    def __init__(self, port: int, path: str, count: int, pause: float = 0.02, address: str = "127.0.0.1") -> None:
        self._port, self._path, self._pause, self._address = port, path, pause, address
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self._pause):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, PATIENCE, (self._address, 0))
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                connection.request("GET", self._path)
                connection.getresponse().read()
