"""Processes that fail, are stuck, or reach a limit for recycling are replaced."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest


def test_a_killed_process_is_replaced_within_two_seconds(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    before = site.ready()
    killed = before[0]
    site.signal(signal.SIGKILL, killed)
    began = time.monotonic()
    site.until(lambda: len(set(site.ready()) - set(before)) == 1)
    print("replaced after", time.monotonic() - began)
    assert time.monotonic() - began < 4, "2 seconds on a machine that has nothing else to do"
    assert f"process {killed} (generation 1) was killed by SIGKILL, perhaps" in site.state()["failure"]


def test_a_blocked_process_writes_its_stacks_and_is_replaced(serve_site: Callable[..., Any]) -> None:
    site = serve_site("--process-timeout-seconds", "2")
    before = site.ready()
    result = site.asked("/block/600")
    site.until(lambda: len(set(site.ready()) - set(before)) == 1)
    assert result() is None
    assert "had no iteration of its event loop for 2 s" in site.said
    print(site.said)
    assert re.search(r"Fatal Python error: Aborted\n(.*\n)+.*served.py\", line \d+ in app", site.said)
    assert len(set(site.ready()) & set(before)) == 1


def test_a_stopped_process_is_replaced(serve_site: Callable[..., Any]) -> None:
    site = serve_site("--process-timeout-seconds", "1")
    (stopped, other) = site.ready()
    site.signal(signal.SIGSTOP, stopped)
    site.until(lambda: site.is_over(stopped))
    site.until(lambda: "SIGABRT" in site.said or len(site.ready()) == 2)
    assert other in site.ready()


LIMITS = {
    "requests": ("--process-max-requests", "40"),
    "seconds": ("--process-max-seconds", "2"),
    "rss": ("--process-max-rss", "200M"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_process_that_has_served_enough_is_replaced(serve_site: Callable[..., Any], clients: Any, limit: str) -> None:
    site = serve_site(*LIMITS[limit])
    before = set(site.ready())
    if limit == "rss":
        site.get("/grow")
    with clients(site, 2) as crowd:
        site.until(lambda: f"it has reached process_max_{limit}" in site.said)
        site.until(lambda: any(map(site.is_over, before)))
    assert crowd.errors == []


def test_the_processes_of_a_killed_supervisor_drain_and_end(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    pids = site.ready()
    result = site.asked("/wait/3")
    site.signal(signal.SIGKILL)
    site.process.process.wait()
    assert result() == 200
    site.until(lambda: all(map(site.is_over, pids)))
    assert "the supervisor has ended; shutting down" in site.said


@pytest.mark.parametrize("late", ["import", "ready path"])
def test_a_process_that_is_still_starting_ends_with_its_supervisor(
    serve_site: Callable[..., Any], app_text: str, late: str
) -> None:
    """Otherwise a start that hangs would keep the listeners open, and the next supervisor could not listen."""
    stuck = "import os, time\nif os.path.exists('late'):\n    time.sleep(1000)\n"
    app = app_text.replace('STATUS = "200 OK"', 'STATUS = "500 No" if os.path.exists("late") else "200 OK"')
    site = serve_site("--ready-path", "/ready", app=app + stuck if late == "import" else app)
    imported = site.directory / "imported"
    before = len(imported.read_text().split())
    (site.directory / "late").touch()
    site.signal(signal.SIGHUP)
    site.until(lambda: len(imported.read_text().split()) > before)
    pid = int(imported.read_text().split()[-1])
    if late == "ready path":
        site.until(lambda: "not ready: /ready is answered 500" in site.said)
    site.signal(signal.SIGKILL)
    site.process.process.wait()
    site.until(lambda: site.is_over(pid))
    assert "the supervisor has ended during the start of this process" in site.said
