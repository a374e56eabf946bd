"""A request that finds no free slot moves to another worker that has one."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

ONE_SLOT = "max_workers = 1\nmax_concurrent_per_router = 1\nrequest_timeout_seconds = 60\n"
HELD = """
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        open("begun", "w").close()
        while not os.path.exists("over"):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


def ask(connection: http.client.HTTPConnection, path: str = "/") -> int:
    connection.request("GET", path)
    return int(connection.getresponse().read())


def test_a_request_moves_to_the_worker_that_has_a_free_slot(start: Callable[..., Any]) -> None:
    served = start("-w", "2", "--keep-alive", "60", application=HELD, settings=ONE_SLOT).serves(2)
    by_worker = defaultdict(list)
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
            stack.callback(connection.close)
            by_worker[ask(connection)].append(connection)
        busiest = max(by_worker, key=lambda pid: len(by_worker[pid]))
        first, *others = by_worker[busiest]
        holding = threading.Thread(target=ask, args=(first, "/hold"))
        holding.start()
        served.begun()
        answer = busiest
        for each in others:
            # On a busy machine, the other worker may just then be too slow to be given a request.
            each.sock.settimeout(5.0)
            with contextlib.suppress(TimeoutError):
                answer = ask(each)
                break
        assert answer in set(served.workers()) - {busiest}
        (served.directory / "over").touch()
        holding.join(60)
        assert ask(first) == busiest
