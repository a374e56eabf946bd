"""Tests of workers that end after a limited number of requests."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.under_gunicorn.conftest import PLAIN, Clients, Gunicorn

Start = Callable[..., Gunicorn]


def test_max_requests_ends_a_worker_after_its_requests(start: Start) -> None:
    served = start("--max-requests", "50", application=PLAIN).serves()
    with Clients(served) as clients:
        served.serves(4)
    assert set(clients.answers) == {"200"}
    assert served.said.count("Autorestarting worker after current request.") >= 3
    assert "Traceback" not in served.stop()


def test_max_requests_jitter_differs_between_workers(start: Start) -> None:
    hook = "def worker_exit(server, worker):\n    worker.log.info('ran %s of %s', worker.nr, worker.max_requests)\n"
    flags = ("-w", "2", "--max-requests", "30", "--max-requests-jitter", "40")
    served = start(*flags, configuration=hook, application=PLAIN).serves(2)
    with Clients(served):
        served.until(lambda: served.said.count("ran ") >= 4)
    ran = [(int(nr), int(most)) for nr, most in re.findall(r"ran (\d+) of (\d+)", served.said)[:4]]
    # A worker goes on serving while the other one is being replaced, so there is no upper limit.
    assert all(30 <= most <= 70 and most <= nr for nr, most in ran)
    assert len({most for _, most in ran}) > 1
