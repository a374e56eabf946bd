"""The status page of several processes: it shows all of them, or the selected one, whichever process serves it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.observe.statuspage import PATIENCE, Clients, Page, needs_chromium

pytestmark = needs_chromium


def begun(open_page: Callable[..., Page], begin_serving: Any, *parts: str, flags: tuple[str, ...] = ()) -> Any:
    """Serve an application with two processes, open the page, and wait until it shows both processes."""
    server = begin_serving(*parts, flags=("--admin-bind", "127.0.0.1:0", "--processes=2", *flags))
    server.is_ready()
    page = open_page(json.loads(server.ready_file.read_text())["admin"]["port"])
    page.text("#of", "all 2 processes")
    return server, page


def served_by(page: Page) -> int:
    return int(page.text("#process", r"served by process \d+").split()[-1])


def other(page: Page) -> int:
    """Return the id of the process that does not serve the page."""
    ids = [int(each.get_attribute("value") or 0) for each in page.page.locator("#of option").all()]
    (found,) = set(ids) - {0, served_by(page)}
    return found


def completed(page: Page) -> int:
    """Return the number of completed requests in the chart of the last ten minutes."""
    return int(page.page.evaluate("total(series.short[hello.series.indexOf('completed')])"))


def until(page: Page, condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < end, page.page.locator("main").inner_text()
        page.page.wait_for_timeout(100)
    return result


def processes_of(page: Page, table: str) -> set[int]:
    """Return the process ids in a table."""
    return {int(each.inner_text()) for each in page.page.locator(f"{table} td[data-name=process]").all()}


ONE_SLOT = (
    "--max-concurrent-per-router=1",
    "--max-workers=1",
    "--worker-group-size=1",
    "--queue-size=0",
    "--request-timeout-seconds=200",
)


def hold(server: Any) -> None:
    """Occupy the slot of each process; a busy process may reject a request, which is then repeated."""
    Clients(server.port, "/wait/100", 2).__enter__()


def test_charts_figures_and_lists_cover_all_processes_or_the_selected_one(open_page, begin_serving) -> None:
    server, page = begun(open_page, begin_serving, flags=ONE_SLOT)
    for _ in range(40):
        assert server.get() == 200
    until(page, lambda: completed(page) == 40)
    both = {served_by(page), other(page)}
    hold(server)
    until(page, lambda: processes_of(page, "#running") == both)
    page.text("#figures", r"slots busy\s*2 of 2")
    page.text("#board-legend", "busy 2 of 2")
    page.text("#lanes", "2 of 2")
    shares = []
    for process in sorted(both):
        page.page.select_option("#of", str(process))
        until(page, lambda process=process: processes_of(page, "#running") == {process})
        page.text("#figures", r"slots busy\s*1 of 1")
        page.text("#board-legend", "busy 1 of 1")
        until(page, lambda process=process: page.page.evaluate("hello.of") == process and completed(page))
        shares.append(completed(page))
    assert sum(shares) == 40
    page.page.select_option("#of", "")
    page.text("#figures", r"slots busy\s*2 of 2")
    until(page, lambda: completed(page) == 40)


def test_the_rejections_of_all_processes_are_listed_and_found(open_page, begin_serving) -> None:
    server, page = begun(open_page, begin_serving, flags=ONE_SLOT)
    both = {served_by(page), other(page)}
    hold(server)
    until(page, lambda: processes_of(page, "#running") == both)
    for stopped in both:
        # Only the other process can accept the request.
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert server.get("/") == 503
        finally:
            os.kill(stopped, signal.SIGCONT)
    until(page, lambda: processes_of(page, "#refused") == both)
    row = page.page.locator("#refused tr", has_text=str(other(page))).last.inner_text()
    page.page.fill("#request-id", row.split()[-1])
    page.page.get_by_role("button", name="Search").click()
    page.text("#refused-text", "1 found")
    assert processes_of(page, "#refused") == {other(page)}


def test_the_stack_of_a_request_in_another_process_is_shown_and_the_request_is_ended(open_page, begin_serving) -> None:
    server, page = begun(open_page, begin_serving, flags=(*ONE_SLOT, "--admin-actions"))
    (token,) = re.findall(r"token (\S+)", server.said)
    hold(server)
    row = page.page.locator("#running tr", has_text=str(other(page))).first
    row.get_by_role("button", name="Stack", exact=True).click(timeout=1000 * PATIENCE)
    page.text("#running", r"served.py:\d+ in app")
    row.get_by_role("button", name="End", exact=True).click()
    page.page.locator("#token").fill(token)
    page.page.get_by_role("button", name="End it").click()
    page.text("#answer", "The request was ended")
    server.until(lambda: "GET /wait/100 was ended by an operator" in server.said)


def test_the_flame_graphs_name_their_process(open_page, begin_serving) -> None:
    server, page = begun(open_page, begin_serving, flags=ONE_SLOT)
    hold(server)
    page.page.click("#flames")
    page.text("#waiting-text", f"handlers of process {served_by(page)} in")
    page.page.select_option("#of", str(other(page)))
    page.text("#waiting-text", f"handlers of process {other(page)} in")
    page.text("#waiting", r"app \(served.py\)")


def test_the_charts_still_have_the_past_after_a_reload(open_page, begin_serving) -> None:
    server, page = begun(open_page, begin_serving)
    for _ in range(20):
        assert server.get() == 200
    until(page, lambda: completed(page) == 20)
    earlier = {served_by(page), other(page)}
    server.signal(signal.SIGHUP)
    page.text("#site-text", "Generation 2; 2 of 2 serve; latest reload: done")
    until(page, lambda: not earlier & {served_by(page), *page.page.evaluate("[...parts.keys()]")})
    assert completed(page) == 20


def test_the_verdict_is_that_of_the_whole_site(open_page, begin_serving) -> None:
    application = """
        @at
        def pdf():
            # Block the event loop of each process but the one that the page shows.
            if str(os.getpid()) != open("shown").read():
                end = time.monotonic() + 0.8
                while time.monotonic() < end:
                    pass
        """
    server, page = begun(open_page, begin_serving, application)
    page.verdict(r"All is well: .* in 2 processes", "well")
    shown = str(served_by(page))
    (server.directory / "shown").write_text(shown)
    with Clients(server.port, "/pdf", 1):
        text = page.verdict(r"Blocked in process \d+: code kept", "(warning|alarm)")
    assert shown not in text
    assert "The other process is well." in text
    assert re.search(r"GET /pdf, in served.py:\d+", text)


def test_a_process_that_stands_still_is_in_the_verdict(open_page, begin_serving) -> None:
    _, page = begun(open_page, begin_serving)
    page.verdict(r"in 2 processes", "well")
    stopped = other(page)
    os.kill(stopped, signal.SIGSTOP)
    try:
        page.text("#late", rf"Process {stopped} has not reported for .*: its requests are those of")
        page.verdict(rf"Blocked in process {stopped}: the event loop has not run for", "alarm")
    finally:
        os.kill(stopped, signal.SIGCONT)
