"""Tests of the shutdown as a process manager sees it: signals, responses and exit codes."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROGRAM = """
from gevent import monkey
monkey.patch_all()
import sys, time
from wsgiref.validate import validator
from intralb_gevent import LoadBalancer, Options, WSGIServer, graceful_shutdown

def application(environ, start_response):
    print("begun", environ["PATH_INFO"], flush=True)
    try:
        time.sleep(float(environ["PATH_INFO"][1:]))
    finally:
        print("ran", environ["PATH_INFO"], flush=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]

options = {options}
server = WSGIServer(("127.0.0.1", 0), LoadBalancer(validator(application), Options(**options)))
server.start()
graceful_shutdown(server)
print(server.server_port, flush=True)
server.serve_forever()
print("after", flush=True)
"""


class Served:
    """A server process."""

    def __init__(self, directory: Path, **options: object) -> None:
        file = directory / "program.py"
        file.write_text(PROGRAM.replace("{options}", repr(options)))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def get(self, path: str) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response.status, response.getheader("Connection")
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def wait_for_line(self, text: str) -> None:
        assert self.process.stdout is not None
        line = "nothing yet"
        while line:
            line = self.process.stdout.readline()
            if text in line:
                return
        pytest.fail(f"the server never said {text!r}")

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[type[Served]]:
    made: list[Served] = []

    def make(**options: object) -> Served:
        made.append(Served(tmp_path, **options))
        return made[-1]

    yield make  # type: ignore[misc]
    for served in made:
        if served.process.poll() is None:
            served.process.kill()
        served.process.communicate()


def test_20_running_requests_finish_50_idle_connections_close_and_it_exits_0(start) -> None:
    served = start()
    idle = [served.connect() for _ in range(50)]
    with ThreadPoolExecutor(20) as clients:
        asked = [clients.submit(served.get, "/3") for _ in range(20)]
        for _ in asked:
            served.wait_for_line("begun /3")
        time_of_signal = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        answers = [request.result() for request in asked]
    code, out, err = served.ended()
    assert time.monotonic() - time_of_signal < 4.5
    assert answers == [(200, "close")] * 20
    assert [connection.recv(1) for connection in idle] == [b""] * 50
    assert (code, err) == (0, "")
    assert out.endswith("after\n")
    for connection in idle:
        connection.close()


def asked_in_background(served: Served, path: str) -> tuple[threading.Thread, list[tuple[int, str | None]]]:
    answers: list[tuple[int, str | None]] = []
    thread = threading.Thread(target=lambda: answers.append(served.get(path)))
    thread.start()
    served.wait_for_line(f"begun {path}")
    return thread, answers


CUT = re.compile(
    r"cut: GET /\d+ after [\d.]+ s at \S+:\d+: answered 503 \(graceful_timeout_seconds, request \w+\); it was at:\n"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_outlives_the_grace_is_cut_its_finally_blocks_run_and_it_exits_1(start, number) -> None:
    served = start(graceful_timeout_seconds=0.3, request_timeout_seconds=60)
    thread, answers = asked_in_background(served, "/60")
    began = time.monotonic()
    served.process.send_signal(number)
    code, out, err = served.ended()
    thread.join()
    assert 0.25 < time.monotonic() - began < 5
    assert (code, answers) == (1, [(503, "close")])
    assert CUT.match(err)
    assert err.count("cut: ") == 1
    assert "ran /60" in out


def test_a_second_signal_forces(start) -> None:
    served = start(graceful_timeout_seconds=60, request_timeout_seconds=60)
    thread, answers = asked_in_background(served, "/50")
    with served.connect() as idle:
        served.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
    served.process.send_signal(signal.SIGTERM)
    code, _, err = served.ended()
    thread.join()
    assert (code, answers) == (1, [(503, "close")])
    assert CUT.match(err)
    assert err.count("cut: ") == 1


def test_during_the_drain_delay_it_goes_on_accepting(start) -> None:
    served = start(drain_delay_seconds=1.0)
    began = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    statuses = [served.get("/0") for _ in range(5)]
    assert statuses == [(200, None)] * 5
    assert served.ended()[0] == 0
    assert time.monotonic() - began > 0.9


def test_a_drain_under_load_loses_no_request(start) -> None:
    served = start()
    stop = threading.Event()
    lost: list[object] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
        while not stop.is_set():
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request("GET", "/0.01")
                if connection.getresponse().read() != b"done":
                    lost.append("body")
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # Retry, as HTTP allows, because the connection was closed just when the request was sent.
                connection.close()
            except Exception as error:
                lost.append(error)

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    for _ in range(20):
        served.get("/0")
    served.process.send_signal(signal.SIGTERM)
    code, _, err = served.ended()
    stop.set()
    for thread in clients:
        thread.join()
    assert (code, err, lost) == (0, "", [])


def test_a_third_signal_ends_the_process_at_once(serve_app) -> None:
    server = serve_app(
        """
        @at
        def cling():
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    pass
        """,
        flags=("--graceful-timeout-seconds", "60"),
    )
    answer = server.asked("/cling")
    server.signal(signal.SIGTERM)
    server.until(lambda: "SIGTERM: finishing 1 request, at most 60 s" in server.said)
    server.signal(signal.SIGTERM)
    assert answer() == 503
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended() == 1
    assert time.monotonic() - began < 1
    assert "the shutdown was not over in time; still there" in server.said


# Exceptions that no code of the application catches.

STRAYS = """
    def leave():
        sys.exit(3)

    def interrupted():
        raise KeyboardInterrupt

    def broken():
        raise SystemError("returned NULL without setting an exception")

    timers = []

    def timer():
        timers.append(gevent.get_hub().loop.timer(0.01))
        timers[-1].start(leave)

    def alarm():
        def ring(*_):
            raise TimeoutError("rings")
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        time.sleep(0.2)

    import _thread
    paths.update({
        "/greenlet": lambda: gevent.spawn(leave),
        "/interrupted": lambda: gevent.spawn(interrupted),
        "/broken": lambda: gevent.spawn(broken),
        "/thread": lambda: _thread.start_new_thread(leave, ()),
        "/callback": lambda: gevent.get_hub().loop.run_callback(leave),
        "/timer": timer,
        "/native": lambda: gevent.get_hub().threadpool.spawn(leave),
        "/alarm": alarm,
        "/destroy": lambda: gevent.get_hub().destroy(),
        "/hub": lambda: gevent.get_hub().throw(RuntimeError("thrown")),
    })
"""


def test_what_the_application_raises_outside_of_requests_is_logged_and_ends_nothing(serve_app) -> None:
    server = serve_app(STRAYS, flags=("--request-timeout-seconds", "2"))
    server.callbacks_may_fail = True
    innocent = server.asked("/wait/1.5")
    for path in ("/greenlet", "/thread", "/callback", "/timer", "/native"):
        before = server.said.count("SystemExit: 3")
        server.get(path)
        server.until(lambda before=before: server.said.count("SystemExit: 3") == before + 1)
    for path, told in {
        "/interrupted": "KeyboardInterrupt outside of requests does not end the server",
        "/broken": "SystemError: returned NULL without setting an exception",
        "/alarm": "TimeoutError in a signal handler does not end the server",
        "/destroy": "the hub is not destroyed, as a server runs on it",
        "/hub": "RuntimeError: thrown",
    }.items():
        server.get(path)
        server.until(lambda told=told: told in server.said)
    assert innocent() == 200
    assert server.get() == 200
    server.signal(signal.SIGTERM)
    assert server.ended() == 0


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("gevent.get_hub().parent.throw(ValueError('thrown into main'))", "ValueError: thrown into main"),
        (
            "signal.signal(signal.SIGALRM, lambda *_: sys.exit(7)); signal.setitimer(0, 0.05)",
            "SystemExit: 7",
        ),
    ],
    ids=["thrown", "signal handler"],
)
def test_an_exception_that_reaches_the_main_greenlet_is_a_graceful_shutdown(serve_app, raised: str, told: str) -> None:
    server = serve_app(f"""
        @at
        def fail():
            gevent.spawn_later(0.01, lambda: gevent.get_hub().loop.run_callback(fail_in_hub))

        def fail_in_hub():
            {raised}
    """)
    innocent = server.asked("/wait/0.5")
    server.get("/fail")
    assert innocent() == 200
    assert server.ended() == 1
    assert "shutting down because of" in server.said
    assert told in server.said


def test_a_program_without_a_graceful_shutdown_ends_by_the_exceptions_of_the_operator(run_python) -> None:
    program = run_python("-c", WITHOUT)
    program.until(lambda: "serving" in program.printed)
    program.signal(signal.SIGINT)
    assert program.ended() != 3
    program.until(lambda: "SystemExit: 3" in program.said)
    program.until(lambda: program.said.count("KeyboardInterrupt") >= 2)


WITHOUT = """
from gevent import monkey
monkey.patch_all()
import gevent, logging, sys
from intralb_gevent import LoadBalancer, WSGIServer

logging.basicConfig()
server = WSGIServer(("127.0.0.1", 0), LoadBalancer(lambda environ, start_response: []))
gevent.spawn_later(0.05, sys.exit, 3)
gevent.spawn_later(0.1, print, "serving", flush=True)
server.serve_forever()
"""


def test_a_handler_that_computes_is_ended_with_the_grace_and_the_others_are_answered_then(serve_app) -> None:
    server = serve_app(
        """
        import atexit
        atexit.register(print, "atexit", flush=True)

        @at
        def compute():
            print("computing", flush=True)
            while True:
                pass
        """,
        flags=("--graceful-timeout-seconds", "0.5", "--request-timeout-seconds", "60"),
    )
    waiting = server.asked("/wait/60")
    computing = server.asked("/compute")
    server.until(lambda: "computing" in server.printed)
    server.signal(signal.SIGTERM)
    assert (computing(), waiting()) == (503, 503)
    assert server.ended() == 1
    assert "atexit" in server.printed
    assert "still there" not in server.said


STUBBORN = """
    @at
    def swallow():
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass

    @at
    def linger():
        try:
            time.sleep(60)
        finally:
            while True:
                time.sleep(60)

    @at
    def retry():
        while True:
            try:
                linger()
            except BaseException:
                pass

    @at
    def tidy():
        end = time.monotonic() + 60
        try:
            while time.monotonic() < end:
                pass
        finally:
            time.sleep(0.5)
            open("tidied", "w").close()
"""
GRACE = ("--graceful-timeout-seconds", "0.5", "--request-timeout-seconds", "60")


@pytest.mark.parametrize("path", ["/swallow", "/linger", "/retry"])
def test_a_handler_that_does_not_end_holds_the_shutdown_up_for_its_clean_up_only(serve_app, path: str) -> None:
    server = serve_app(STUBBORN, flags=(*GRACE, "--cleanup-seconds", "0.5"))
    uncancellable = server.asked(path)
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert uncancellable() == 503
    assert server.ended() == 1
    assert time.monotonic() - began < 2.5
    assert ("is left behind" in server.said) == (path != "/linger")
    assert "still there" not in server.said


def test_a_handler_that_computes_has_its_time_for_clean_up_at_a_shutdown_too(serve_app) -> None:
    server = serve_app(STUBBORN, flags=GRACE)
    tidy = server.asked("/tidy")
    server.signal(signal.SIGTERM)
    assert tidy() == 503
    assert server.ended() == 1
    assert (server.directory / "tidied").exists()


# A main thread that is stuck.

STUCK = {
    "in a wait in C": """
        @at
        def block():
            get_original("time", "sleep")(60)
    """,
    "in a wait in C that goes on after signals": """
        import sqlite3
        holder, waiting = sqlite3.connect("held"), sqlite3.connect("held", timeout=60)
        holder.executescript("create table t (n); begin exclusive")

        @at
        def block():
            waiting.execute("begin exclusive")
    """,
    "in a greenlet that computes": """
        @at
        def block():
            gevent.spawn(compute)
            time.sleep(60)

        def compute():
            open("begun-block", "w").close()
            while True:
                pass
    """,
}


@pytest.mark.parametrize("how", STUCK)
def test_a_process_whose_main_thread_is_stuck_ends_within_the_grace(serve_app, how: str) -> None:
    server = serve_app(STUCK[how], flags=("--graceful-timeout-seconds", "1.2", "--interrupt-signal", "off"))
    server.asked("/block")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended() == 1
    assert 1.1 < time.monotonic() - began < 4.5
    assert "the shutdown was not over in time" in server.said
    assert any(name in server.said for name in ("at block (", "at compute ("))


def test_a_second_signal_to_a_stuck_process_ends_it_soon(serve_app) -> None:
    server = serve_app(STUCK["in a wait in C"], flags=("--graceful-timeout-seconds", "60"))
    server.asked("/block")
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    server.until(lambda: pending(server.process.pid) == 0)
    server.signal(signal.SIGTERM)
    assert server.ended() == 1
    assert time.monotonic() - began < 3


def pending(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("ShdPnd:")[2].split()[0], 16)


def test_a_signal_before_it_serves_for_ever_keeps_a_program_from_serving(run_python) -> None:
    program = run_python("-c", EARLY)
    assert program.ended() == 0
    assert program.printed == "over\n"


EARLY = """
from gevent import monkey
monkey.patch_all()
import gevent, os, signal
from intralb_gevent import LoadBalancer, WSGIServer, graceful_shutdown

server = WSGIServer(("127.0.0.1", 0), LoadBalancer(lambda environ, start_response: []))
shutdown = graceful_shutdown(server)
os.kill(os.getpid(), signal.SIGTERM)
assert shutdown.wait(5)
server.serve_forever()
print("over", flush=True)
"""


def test_a_program_may_serve_again_after_a_shutdown_that_it_has_requested(run_python) -> None:
    program = run_python("-c", AGAIN)
    program.until(lambda: program.printed.count("serving") == 2)
    program.signal(signal.SIGTERM)
    assert program.ended() == 0
    assert program.printed == "serving\nserving\nover\n"


AGAIN = """
from gevent import monkey
monkey.patch_all()
import gevent
from intralb_gevent import LoadBalancer, WSGIServer, graceful_shutdown

server = WSGIServer(("127.0.0.1", 0), LoadBalancer(lambda environ, start_response: []))
shutdown = graceful_shutdown(server)
gevent.spawn_later(0.05, print, "serving", flush=True)
gevent.spawn_later(0.1, shutdown.request)
server.serve_forever()
graceful_shutdown(server)
gevent.spawn_later(0.05, print, "serving", flush=True)
server.serve_forever()
print("over", flush=True)
"""
