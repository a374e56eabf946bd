"""Tests of signals by which gunicorn's master starts and ends worker processes, while clients send requests."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.keptclients import KeptClients
from tests.under_gunicorn.conftest import PLAIN, Clients, Gunicorn

Start = Callable[..., Gunicorn]


def test_hup_replaces_the_workers_and_reads_the_settings_again(start: Start) -> None:
    served = start("-w", "2", settings="request_timeout_seconds = 20").serves(2)
    before = served.workers()
    (served.directory / "intralb.toml").write_text("request_timeout_seconds = 0.2")
    served.signal(signal.SIGHUP)
    served.serves(4)
    served.until(lambda: len(served.workers()) == 2 and not set(before) & set(served.workers()))
    assert served.get("/wait/10.0").status == 504
    assert "Traceback" not in served.stop()


RELOADS = int(os.environ.get("INTRALB_TEST_RELOADS", "10"))


def test_hups_lose_no_request(start: Start) -> None:
    served = start(application=PLAIN).serves()
    with Clients(served) as clients:
        for number in range(RELOADS):
            served.signal(signal.SIGHUP)
            served.serves(number + 2)
    assert set(clients.answers) == {"200"}
    assert clients.answers["200"] > 10 * RELOADS
    assert len(clients.pids) >= RELOADS
    assert "Traceback" not in served.stop()


def test_hups_in_quick_succession(start: Start) -> None:
    served = start(application=PLAIN).serves()
    for number in range(1, 6):
        served.until(lambda number=number: served.said.count("Booting worker") == number)
        # The new worker has only just been forked, and must not lose the SIGTERM from the next reload.
        served.signal(signal.SIGHUP)
    served.until(lambda: served.said.count("Booting worker") == 6)
    last = int(re.findall(r"Booting worker with pid: (\d+)", served.said)[-1])
    served.until(lambda: served.workers() == [last], seconds=10)
    served.until(lambda: last in served.serving)
    assert served.get().body == str(last)


def test_a_drain_delay_serves_until_the_new_workers_do(start: Start) -> None:
    application = "import time\ntime.sleep(1.5)\n" + (
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'hello']\n"
    )
    served = start(application=application, settings="drain_delay_seconds = 3").serves()
    served.signal(signal.SIGHUP)
    longest = 0.0
    while served.said.count("serves (pid:") < 2:
        began = time.monotonic()
        assert served.get().status == 200
        longest = max(longest, time.monotonic() - began)
    assert longest < 1


def test_ttin_and_ttou_change_the_number_of_workers(start: Start) -> None:
    served = start().serves()
    served.signal(signal.SIGTTIN)
    served.serves(2)
    first, second = served.serving
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(served.get, "/wait/3.0") for _ in range(8)]
        served.begun()
        # The master sends SIGTERM to the first worker every second until this worker has ended.
        served.signal(signal.SIGTTOU)
        assert {each.result().status for each in waiting} == {200}
    served.until(lambda: served.workers() == [second])
    assert first not in served.workers()
    assert "exited with code" not in served.said


def test_a_keep_alive_client_is_told_before_its_connection_closes(start: Start) -> None:
    served = start().serves()
    (worker,) = served.workers()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)) as connection:
        connection.request("GET", "/wait/1.0")
        served.begun()
        os.kill(worker, signal.SIGTERM)
        response = connection.getresponse()
        assert (response.status, response.getheader("Connection")) == (200, "close")


def test_usr1_reopens_log_files(start: Start) -> None:
    served = start("--access-logfile", "access.log").serves()
    served.get("/?before")
    access = served.directory / "access.log"
    served.until(lambda: access.exists() and "before" in access.read_text())
    access.rename(served.directory / "access.old")
    served.signal(signal.SIGUSR1)
    served.until(access.exists)

    def is_new() -> bool:
        served.get("/?after")
        return "after" in access.read_text()

    served.until(is_new)
    served.stop()


SLOW_IMPORT = "import time\ntime.sleep(1.5)\n" + PLAIN


def test_hup_closes_no_connection_and_leaves_no_time_without_a_worker(start: Start) -> None:
    served = start("-w", "2", "--keep-alive", "60", application=SLOW_IMPORT).serves(2)
    longest = 0.0
    with KeptClients(served.port) as kept:
        for number in (4, 6):
            served.signal(signal.SIGHUP)
            while served.said.count("serves (pid:") < number:
                began = time.monotonic()
                assert served.get().status == 200
                longest = max(longest, time.monotonic() - began)
            served.until(lambda: len(served.workers()) == 2, seconds=60)
    assert kept.failures == []
    assert longest < 1
    assert len(kept.pids) >= 3


# Only the first worker reaches its limit; if all did at once, there would be no worker to move to.
ONE_IS_LIMITED = """
def post_fork(server, worker):
    worker.max_requests = 100 if worker.age == 1 else 1_000_000
"""


def test_max_requests_moves_connections_to_the_other_workers(start: Start) -> None:
    served = start("-w", "2", "--keep-alive", "60", application=PLAIN, configuration=ONE_IS_LIMITED).serves(2)
    with KeptClients(served.port, pause=0.001) as kept:
        # A worker without connections would not reach its limit.
        while served.said.count("serves (pid:") < 3 and not kept.failures:
            assert served.get().status == 200
    assert kept.failures == []
