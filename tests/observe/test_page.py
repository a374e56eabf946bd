"""The status page in a real browser: it names the cause of each incident, and raises no alarm when all is well."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.observe.statuspage import PATIENCE, Clients, Page, needs_chromium, sync_api

pytestmark = needs_chromium


SMALL = ("--max-concurrent-per-router=4", "--max-workers=1", "--queue-size=4", "--limiter=fixed")


@pytest.fixture
def open_server(serve_app: Callable[..., Any], open_page: Callable[..., Page]) -> Callable[..., tuple[Any, Page]]:
    """Return a function that serves an application and opens its status page."""

    def begin(*parts: str, flags: tuple[str, ...] = (), **look: Any) -> tuple[Any, Page]:
        server = serve_app(*parts, flags=("--admin-bind", "127.0.0.1:0", *flags))
        server.admin = json.loads(server.ready_file.read_text())["admin"]["port"]
        return server, open_page(server.admin, **look)

    return begin


# The incidents.


def test_all_is_well(open_server) -> None:
    server, page = open_server()
    with Clients(server.port, "/", 2):
        page.verdict(r"All is well: \d+ requests a second, \d of \d+ slots busy", "well")
        page.text("#goodput-legend", r"completed [1-9]")
        assert page.page.locator("#refused").inner_text() == "No request has been rejected."


def test_overload(open_server) -> None:
    server, page = open_server(
        """
        @at
        def report():
            time.sleep(0.3)
        """,
        flags=(*SMALL, "--max-wait-seconds=0.5"),
    )
    with Clients(server.port, "/report", 20):
        page.verdict(r"Overloaded: the general lane has had all 4 slots busy for .* are rejected", "alarm")
        page.text("#place", r"[34] of 4 handlers wait in gevent.sleep at served.py:\d+")
        page.text("#refused", r"GET /report")
        page.text("#reasons", r"(overloaded|queue_full) \d+")
        page.text("#waiting-text", "Nothing is interrupted")
        page.page.click("#flames")
        page.text("#waiting", r"report \(served.py\)")
        page.page.get_by_role("button", name="report (served.py)", exact=True).click()
        page.text("#waiting-requests", r"The latest requests in report \(served.py\):\s*GET /report.*request id \w+")


def test_a_framework_that_answers_500(open_server) -> None:
    server, page = open_server(
        """
        from flask import Flask

        app = Flask(__name__)

        @app.get("/cart")
        def cart():
            raise ValueError
        """
    )
    with Clients(server.port, "/cart", 1):
        page.verdict(r"Failing: (\d+) of \1 requests of the general lane failed in the last 10 s", "warning")


def test_a_stuck_database(open_server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:
        server, page = open_server(
            f"""
            import pymysql

            @at
            def orders():
                pymysql.connect(host="127.0.0.1", port={database.getsockname()[1]}, user="shop", connect_timeout=60)
            """,
            flags=SMALL,
        )
        with Clients(server.port, "/orders", 6):
            text = page.verdict("Stuck: the general lane has completed nothing for", "alarm")
        assert re.search(r"4 of 4 handlers wait in pymysql\.\S+ at served.py:\d+", text), text


def test_a_blocked_loop(open_server) -> None:
    server, page = open_server(
        """
        @at
        def pdf():
            end = time.monotonic() + 0.8
            while time.monotonic() < end:
                pass
        """
    )
    with Clients(server.port, "/pdf", 1):
        text = page.verdict("Blocked: code kept the event loop from all other work", "(warning|alarm)")
        assert re.search(r"GET /pdf, in served.py:\d+", page.text("#place", "GET /pdf")), text
        page.text("#blocks", r"GET /pdf.*served.py")


def test_a_flooding_client(open_server) -> None:
    server, page = open_server(
        """
        @at
        def search():
            time.sleep(0.2)
        """,
        flags=SMALL,
    )
    with (
        Clients(server.port, "/search", 20, pause=0.005, address="127.0.0.7"),
        Clients(server.port, "/search", 1, address="127.0.0.8"),
        Clients(server.port, "/search", 1, address="127.0.0.9"),
    ):
        page.verdict(r"Flooded: client 127.0.0.7 has sent \d+ % of the", "warning")


def test_a_leak_of_slots(open_server) -> None:
    server, page = open_server(
        """
        @at
        def swallow():
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    pass
        """,
        flags=("--request-timeout-seconds=0.2", "--cleanup-seconds=0.05"),
    )
    with Clients(server.port, "/swallow", 1):
        text = page.verdict("Leaking slots: .* abandoned in the last 10 min", "(warning|alarm)")
        assert "catch Exception instead" in text
        page.text("#place", r"wait in gevent.sleep at served.py:\d+")


def test_a_reload(open_page, begin_serving) -> None:
    server = begin_serving("time.sleep(0.5)", flags=("--admin-bind", "127.0.0.1:0", "--processes=2"))
    end = time.monotonic() + 3 * PATIENCE
    while not server.ready_file.exists():
        assert time.monotonic() < end, server.said
        time.sleep(0.05)
    page = open_page(json.loads(server.ready_file.read_text())["admin"]["port"])
    page.text("#site-text", "All processes together: 0 running, 0 queued, .* 2 of 2 serve")
    server.signal(signal.SIGHUP)
    page.has_shown("Reloading: ", "notice")
    page.text("#site-text", "Generation 2; 2 of 2 serve; latest reload: done")


# The page.


def test_the_stack_is_shown_and_a_request_is_ended_with_the_token_only(open_server) -> None:
    server, page = open_server(
        """
        @at
        def export():
            time.sleep(60)
        """,
        flags=("--admin-actions",),
    )
    (token,) = re.findall(r"token (\S+)", server.said)
    status = server.asked("/export")
    page.text("#running", "GET /export")
    page.page.get_by_role("button", name="Stack", exact=True).click()
    page.text("#running", r"served.py:\d+ in export")
    for given, answer in [("wrong", "The token is wrong"), (token, "")]:
        page.page.get_by_role("button", name="End", exact=True).click()
        page.page.locator("#token").fill(given)
        page.page.get_by_role("button", name="End it").click()
        if given != token:
            page.text("#answer", answer)
    assert status() == 503
    server.until(lambda: "GET /export was ended by an operator" in server.said)
    server.signal(signal.SIGTERM)
    assert server.ended() == 0


def test_a_click_counts_although_a_frame_arrives_meanwhile(open_server) -> None:
    server, page = open_server()
    server.asked("/wait/20")
    page.text("#running", "GET /wait/20")
    page.page.get_by_role("button", name="Stack", exact=True).hover()
    page.page.mouse.down()
    for _ in range(2):
        shown = page.page.locator("#link").inner_text()
        sync_api.expect(page.page.locator("#link")).not_to_have_text(shown)
    page.page.mouse.up()
    page.text("#running", r"served.py:\d+ in app")


def test_without_the_flag_there_is_no_button_and_no_action(open_server) -> None:
    server, page = open_server()
    server.asked("/wait/5")
    page.text("#running", "GET /wait/5")
    assert page.page.get_by_role("button", name="End", exact=True).count() == 0
    connection = http.client.HTTPConnection("127.0.0.1", server.admin, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", "/end?request=1-1", headers={"X-Intralb-Token": ""})
        assert connection.getresponse().status == 403


def test_the_page_fits_every_screen_has_words_for_pictures_and_needs_no_mouse(open_server) -> None:
    server, page = open_server()
    server.asked("/wait/20")
    page.text("#running", "GET /wait/20")
    for width, height in [(390, 844), (1280, 900), (2560, 1440)]:
        page.page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.page.emulate_media(color_scheme=scheme)
            assert max(box["x"] + box["width"] for box in boxes(page, "section")) <= width
    for canvas in page.page.locator("canvas").all():
        assert canvas.get_attribute("aria-label")
    reached = {focused(page) for _ in range(9)}
    assert {"To the verdict", "10 min", "6 h", "Stack", "request-id", "Search", "Collect stacks"} <= reached


def focused(page: Page) -> str:
    """Press Tab; return the text or the id of the element that has the focus then."""
    page.page.keyboard.press("Tab")
    found = page.page.locator(":focus")
    return (found.inner_text() or str(found.get_attribute("id"))) if found.count() else ""


def test_a_page_reconnects_to_a_server_that_has_restarted_and_says_so_meanwhile(open_server, serve_app) -> None:
    server, page = open_server()
    server.process.kill()
    page.text("#link", "trying again|nothing received")
    again = serve_app(flags=("--admin-bind", f"127.0.0.1:{server.admin}"))
    page.text("#process", f"process {again.process.pid}")
    page.verdict("All is well", "well")


def boxes(page: Page, selector: str) -> list[dict[str, float]]:
    found = [each.bounding_box() for each in page.page.locator(selector).all()]
    return [each for each in found if each is not None]


def test_a_slow_viewer_delays_no_request(open_server) -> None:
    server, page = open_server()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.admin))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        end, worst = time.monotonic() + 2, 0.0
        while time.monotonic() < end:
            began = time.monotonic()
            assert server.get() == 200
            worst = max(worst, time.monotonic() - began)
    assert worst < 1.0
    page.verdict("All is well", "well")
