"""Agent checks of several processes: a reload does not drain the site, and the shutdown of the supervisor does."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

PATIENCE = 25.0


def test_only_the_end_of_the_site_is_a_drain(serve_site: Callable[..., Any]) -> None:
    site = serve_site("--agent-bind", "127.0.0.1:0", "--drain-delay-seconds", "0.5")
    port = json.loads(site.process.ready_file.read_text())["agent"]["port"]

    def answer() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            return client.recv(100)

    def answers_until(condition: Callable[[], Any]) -> set[bytes]:
        answers = {answer()}
        site.until(lambda: answers.add(answer()) or condition())
        return answers

    site.signal(signal.SIGHUP)
    assert {answer[:6] for answer in answers_until(lambda: site.serves(2, generation=2))} == {b"ready "}
    held = site.asked("/wait/1")
    os.kill(site.pid, signal.SIGTERM)
    site.until(lambda: answer() == b"drain\n")
    assert held() == 200
    assert site.ended() == 0


def test_the_weight_is_that_of_all_processes(serve_site: Callable[..., Any]) -> None:
    small = ("--max-workers", "1", "--max-concurrent-per-router", "1", "--queue-size", "9", "--limiter", "fixed")
    site = serve_site("--agent-bind", "127.0.0.1:0", "--orca", *small)
    port = json.loads(site.process.ready_file.read_text())["agent"]["port"]

    def weights() -> set[bytes]:
        answers = set()
        for _ in range(12):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
                answers.add(client.recv(100))
        return answers

    # One slot of two is busy, whichever process answers.
    site.asked("/wait/600")
    site.until(lambda: {each["saturation"] > 0.9 for each in site.state()["processes"]} == {True, False})
    site.until(lambda: weights() == {b"ready 100%\n"})
    assert 0.45 < json.loads(site.get("/snapshot", site.admin)[1])["site"]["saturation"] < 0.75
