"""A blocked event loop is reported; if the loop is blocked for too long, the process ends."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from gevent import socket

from intralb_gevent.aborts import blockedloop
from intralb_gevent.aborts.blockedloop import EXIT_CODE, LONGEST_STEP, REPORT_SECONDS, BlockedLoop

PROGRAM = """
import os
import gevent
from intralb_gevent.aborts import blockedloop
blockedloop.REPORT_SECONDS = 0.2

def a_loop():
    while True:
        pass

def a_read():
    os.read(os.pipe()[0], 1)

def a_sum():
    sum(range(10**15))

def application(environ, start_response):
    block = {"/loop": a_loop, "/read": a_read, "/sum": a_sum}.get(environ["PATH_INFO"])
    if block is not None:
        # In another greenlet, which no deadline ends.
        gevent.spawn_later(0.05, block)
    start_response("200 OK", [])
    return [b"ok"]
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int, Path]]]:
    (tmp_path / "blocking.py").write_text(PROGRAM)
    ready, errors = tmp_path / "ready.json", tmp_path / "stderr"
    running: list[subprocess.Popen[bytes]] = []

    def serve(*flags: str) -> tuple[subprocess.Popen[bytes], int, Path]:
        command = [sys.executable, "-m", "intralb_gevent", "serve", "blocking:application", "--bind", "127.0.0.1:0"]
        with errors.open("wb") as file:
            process = subprocess.Popen([*command, "--ready-file", str(ready), *flags], cwd=tmp_path, stderr=file)
        running.append(process)
        with gevent.Timeout(20):
            while not ready.exists():
                assert process.poll() is None, errors.read_text()
                gevent.sleep(0.01)
        return process, json.loads(ready.read_text())["addresses"][0]["port"], errors

    yield serve
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def ask(port: int, path: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        client.recv(65536)


@pytest.mark.parametrize(("path", "place"), [("/loop", "in a_loop"), ("/read", "in a_read")])
def test_it_is_reported_with_its_stack_and_ends_the_process(start, path: str, place: str) -> None:
    process, port, errors = start("--block-timeout-seconds", "0.6")
    ask(port, path)
    assert process.wait(20) == EXIT_CODE
    report = errors.read_text()
    first, last = (line for line in report.splitlines() if "kept the event loop from all other work" in line)
    assert "it still does" in first
    assert f"exiting with code {EXIT_CODE}, as block_timeout_seconds is 0.6" in last
    assert report.count(place) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a kernel timer on processor time")
def test_code_in_c_that_keeps_the_interpreter_lock_ends_the_process_with_a_stack_too(start) -> None:
    process, port, errors = start("--block-timeout-seconds", "0.6")
    ask(port, "/sum")
    assert process.wait(20) == -signal.SIGABRT
    assert "in a_sum" in errors.read_text()


def test_with_0_it_is_reported_only(start, eventually) -> None:
    process, port, errors = start("--block-timeout-seconds", "0")
    ask(port, "/loop")
    eventually(lambda: "it still does" in errors.read_text())
    assert process.poll() is None


def test_a_process_that_was_stopped_meanwhile_goes_on(start) -> None:
    process, port, errors = start("--block-timeout-seconds", "0.5")
    for _ in range(3):
        process.send_signal(signal.SIGSTOP)
        # Stop the process for longer than its loop is allowed to be blocked; there is no event to wait for instead.
        time.sleep(0.7)
        process.send_signal(signal.SIGCONT)
        ask(port, "/")
    assert process.poll() is None
    assert "it still does" not in errors.read_text()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(blockedloop, "monotonic", lambda: now[0])
    return now


def test_only_time_in_which_the_thread_could_look_counts(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    loop, looks, report = BlockedLoop(), 0, ""
    while not report:
        loop.look(99.0)
        clock[0] += 3600
        looks += 1
        report = capfd.readouterr().err
    # Do not count the watchdog's first check, which only detects that the loop is busy.
    assert looks - 1 == pytest.approx(REPORT_SECONDS / LONGEST_STEP, abs=1)
    assert "kept the event loop from all other work for 5." in report
    loop.look(99.0)
    assert capfd.readouterr().err == ""


def test_the_program_itself_may_take_its_time(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    loop = BlockedLoop()
    loop.begin()
    for _ in range(1000):
        loop.look(99.0)
        clock[0] += 1
    assert capfd.readouterr().err == ""


# Tests of recursive handlers: if such a handler were not aborted, the whole server would end.

RECURSES = """
    def again(depth=0):
        try:
            return again(depth + 1)
        except RecursionError:
            return again(depth)

    def fibonacci(n):
        try:
            return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
        finally:
            pass

    def nearly_at_the_limit(depth):
        if depth:
            return nearly_at_the_limit(depth - 1)
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            pass

    def room(depth=0):
        try:
            return room(depth + 1)
        except RecursionError:
            return depth

    @at
    def retry():
        again()

    @at
    def recurse():
        fibonacci(15)
        fibonacci(90)

    @at
    def deep():
        before = sys.getrecursionlimit()
        nearly_at_the_limit(room() - 6)
        assert sys.getrecursionlimit() == before

    @at
    def limit():
        assert sys.getrecursionlimit() == 1000
"""


@pytest.mark.parametrize("path", ["/retry", "/recurse"])
def test_a_handler_that_recurses_is_ended_at_its_deadline(serve_app, path: str) -> None:
    server = serve_app(RECURSES, flags=("--request-timeout-seconds", "0.3", "--block-timeout-seconds", "6"))
    assert server.get(path) == 504
    assert server.get("/limit") == 200


def test_a_handler_that_computes_near_the_limit_of_recursion_is_not_disturbed(serve_app) -> None:
    server = serve_app(RECURSES)
    assert server.get("/deep") == 200
