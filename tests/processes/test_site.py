"""Each process answers for the whole site, and its sums never fall when processes are replaced."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

RELOADS = int(os.environ.get("INTRALB_TEST_RELOADS", "1"))

PATIENCE = 120.0
"""Seconds for a step that starts processes, on a busy machine."""


def summary(site: Any) -> dict[str, Any]:
    """Return the sums of the site, from the process that answers; {} if that ends meanwhile."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        status, text = site.get("/snapshot", site.admin)
        assert status == 200
        return dict(json.loads(text)["site"])
    return {}


def test_each_process_answers_for_the_whole_site(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    served = {int(site.get()[1].split()[0]) for _ in range(40)}
    assert served <= set(site.ready())
    # Each process publishes its sums within a second.
    site.until(lambda: summary(site).get("submitted") == 40)
    for _ in range(5):
        found = summary(site)
        assert (found["serving"], found["submitted"], found["outcomes"]["completed"]) == (2, 40, 40)
        assert {each["pid"] for each in found["processes"]} == set(site.ready())
        text = site.get("/metrics", site.admin)[1]
        assert 'intralb_requests_total{lane="general",outcome="completed"} 40' in text
        assert 'intralb_run_seconds_count{lane="general"} 40' in text
        assert {line[:-2] for line in text.splitlines() if line.startswith("intralb_ready")}
    assert {each["free_slots"] for each in site.state()["processes"]} == {found["free_slots"] // 2}
    waits = [site.asked("/wait/600") for _ in range(2)]
    site.until(lambda: summary(site)["running"] == 2)
    assert len(waits) == 2
    assert summary(site)["free_slots"] == found["free_slots"] - 2


def test_the_sums_never_fall_while_processes_are_replaced(serve_site: Callable[..., Any], clients: Any) -> None:
    site = serve_site()
    over = threading.Event()
    seen: list[tuple[int, int]] = []

    def watch() -> None:
        while not over.wait(0.02):
            found = summary(site)
            if found:
                seen.append((found["submitted"], found["outcomes"]["completed"]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with clients(site, 2) as crowd:
            for generation in range(2, RELOADS + 2):
                site.signal(signal.SIGHUP)
                site.until(lambda generation=generation: site.serves(2, generation), PATIENCE)
        # Each process publishes its sums within a second.
        site.until(lambda: summary(site).get("submitted") == crowd.answers)
        killed = site.ready()[0]
        site.signal(signal.SIGKILL, killed)
        site.until(lambda: killed not in site.ready() and site.serves(2), PATIENCE)
    finally:
        over.set()
        watcher.join()
    assert crowd.errors == []
    for earlier, later in itertools.pairwise(seen):
        assert all(before <= after for before, after in zip(earlier, later, strict=True)), (earlier, later)
    assert summary(site)["submitted"] == summary(site)["outcomes"]["completed"] == crowd.answers


def test_the_site_is_ready_while_any_process_serves(serve_site: Callable[..., Any]) -> None:
    site = serve_site("--drain-delay-seconds", "600")
    assert site.get("/ready", site.admin) == (200, "serving\n")
    first = site.ready()[0]
    kept = http.client.HTTPConnection("127.0.0.1", site.admin, timeout=20)
    kept.request("GET", "/ready")
    assert kept.getresponse().read() == b"serving\n"
    site.signal(signal.SIGTERM, first)
    site.until(lambda: any(each["pid"] == first and each["state"] == "draining" for each in site.state()["processes"]))
    kept.request("GET", "/ready")
    response = kept.getresponse()
    assert (response.status, response.read()) == (200, b"serving\n")
    kept.close()
