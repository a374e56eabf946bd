"""Fixtures for tests of the metrics: a server with several lanes, its admin server, and a reader of the text."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

from intralb_gevent import Route, WSGIServer
from intralb_gevent.observe.admin import AdminServer

SAMPLE = re.compile(r"(\w+)(?:\{(.*?)\})? (\S+)")
VALUE = re.compile(r'"(.*?)"')


@pytest.fixture
def samples(fetch: Any, admin: AdminServer) -> Callable[..., dict[str, float]]:
    """Return a function that returns the samples of a metric by the values of their labels, joined by blanks."""

    def read(name: str) -> dict[str, float]:
        found = {}
        for line in fetch(admin, "/metrics")[1].splitlines():
            match = None if line.startswith("#") else SAMPLE.fullmatch(line)
            if match is not None and match[1] == name:
                found[" ".join(VALUE.findall(match[2] or ""))] = float(match[3])
        return found

    return read


@pytest.fixture
def laned(serve) -> WSGIServer:
    """A server with five lanes; `/fail` raises, `/wait/0.2` waits, and every other path says hello."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
        if "/wait/" in path:
            gevent.sleep(float(path.rpartition("/")[2]))
        if path.endswith("/fail"):
            raise ValueError("on purpose")
        start_response("404 Not Found" if path.endswith("/none") else "200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    lanes = [Route(path=f"/lane{number}/*", max_workers=1) for number in range(1, 5)]
    server: WSGIServer = serve(application, routes=lanes)
    return server


@pytest.fixture
def admin(laned: WSGIServer) -> Iterator[AdminServer]:
    """The admin server of `laned`."""
    with AdminServer(("127.0.0.1", 0), laned.balancer) as admin:
        admin.start()
        yield admin


@pytest.fixture
def fetch() -> Callable[..., tuple[dict[str, str], str]]:
    """Return a function that requests a path of a server, and returns the headers and the body of the response."""

    def get(server: WSGIServer, path: str, *fields: str) -> tuple[dict[str, str], str]:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
            client.sendall("\r\n".join([f"GET {path} HTTP/1.0", *fields, "", ""]).encode())
            data = b"".join(iter(lambda: client.recv(65536), b""))
        head, _, body = data.decode().partition("\r\n\r\n")
        lines = head.split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        return {"status": lines[0].split()[1], **headers}, body

    return get


@pytest.fixture
def program() -> Callable[[str], str]:
    """Return a function that returns the path of an installed program.

    Without the program, the test is skipped, or fails if INTRALB_REQUIRE_SERVICES is 1.
    """

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            (pytest.fail if os.environ.get("INTRALB_REQUIRE_SERVICES") == "1" else pytest.skip)(f"{name} is missing")
        return path

    return find


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    from tests.observe.statuspage import CHROMIUM, sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a status page; the page must have caused no errors by the end of the test."""
    from tests.observe.statuspage import Page

    pages: list[Page] = []

    def opened(port: int, **look: Any) -> Page:
        pages.append(Page(browser, port, **look))
        return pages[-1]

    yield opened
    for each in pages:
        each.context.close()
        assert each.errors == []
