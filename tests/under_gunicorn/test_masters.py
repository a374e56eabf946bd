"""Tests of a new master beside the old one: SIGUSR2, SIGWINCH and SIGQUIT."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.keptclients import KeptClients
from tests.under_gunicorn.conftest import PLAIN, Clients, Gunicorn

Start = Callable[..., Gunicorn]


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM])
def test_usr2_starts_a_new_master_on_the_same_sockets(start: Start, number: int) -> None:
    served = start("-w", "2", "-p", "pid", application=PLAIN).serves(2)
    with Clients(served) as clients:
        served.signal(signal.SIGUSR2)
        served.serves(4)
        served.until((served.directory / "pid.2").exists)
        new = int((served.directory / "pid.2").read_text())
        served.masters.add(new)
        old = {str(pid) for pid in served.workers()}
        served.signal(number)
        assert served.ended() == 0
        assert served.until(lambda: len(clients.pids - old) == 2)
        os.kill(new, signal.SIGTERM)
        served.until(lambda: not Path(f"/proc/{new}").exists() or not served.workers(new))
    lost = {answer for answer in clients.answers if answer != "200"}
    # Connections are refused after both masters have ended; SIGQUIT also cuts running requests.
    assert all("refused" in answer for answer in lost - ({"503"} if number == signal.SIGQUIT else set()))
    assert "Traceback" not in served.said


def test_winch_ends_the_workers_of_the_old_master(start: Start) -> None:
    served = start(
        "-w", "2", "-p", "pid", "--daemon", "--error-logfile", "daemon.log", "--capture-output", application=PLAIN
    )
    log = served.directory / "daemon.log"
    pid = served.directory / "pid"
    served.until(lambda: log.exists() and log.read_text().count("serves (pid:") == 2)
    old = int(pid.read_text())
    served.masters = {old}
    before = served.workers(old)
    try:
        os.kill(old, signal.SIGUSR2)
        served.until((served.directory / "pid.2").exists)
        new = int((served.directory / "pid.2").read_text())
        served.masters.add(new)
        served.until(lambda: log.read_text().count("serves (pid:") == 4)
        os.kill(old, signal.SIGWINCH)
        served.until(lambda: not set(before) & set(served.workers(old)))
        port = int(re.findall(r"Listening at: http://127\.0\.0\.1:(\d+)", log.read_text())[0])
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/")
            assert int(connection.getresponse().read()) in served.workers(new)
        os.kill(old, signal.SIGQUIT)
        served.until(lambda: not served.workers(old))
        served.until(lambda: pid.exists() and int(pid.read_text()) == new)
        assert "Traceback" not in log.read_text()
    finally:
        served.kill()


def test_connections_move_to_the_workers_of_a_new_master(start: Start) -> None:
    served = start("-w", "2", "-p", "pid", "--keep-alive", "60", application=PLAIN).serves(2)
    old = set(served.serving)
    with KeptClients(served.port) as kept:
        served.signal(signal.SIGUSR2)
        served.serves(4)
        served.until((served.directory / "pid.2").exists)
        served.masters.add(int((served.directory / "pid.2").read_text()))
        served.signal(signal.SIGTERM)
        assert served.ended() == 0
        before = kept.answers
        served.until(lambda: kept.failures or kept.answers > before + 50)
    assert kept.failures == []
    assert kept.pids - old
