"""The process exits within bounded time, whatever Python waits for at its exit, and loses no log record."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

GRACE = ("--graceful-timeout-seconds", "0.2")
LEAST = 3.0
"""Seconds that Python is always allowed to take to exit, even if graceful_timeout_seconds is shorter."""

HANGS = {
    "threads busy": """
        threading.Thread(target=lambda: [time.sleep(0.1) for _ in range(600)], name="busy").start()
    """,
    "threads executor": """
        from concurrent.futures import ThreadPoolExecutor
        ThreadPoolExecutor(1, "executor").submit(time.sleep, 60)
    """,
    "at wait_for_sender (": """
        def wait_for_sender():
            open("waiting", "w").close()
            time.sleep(60)
        atexit.register(wait_for_sender)
    """,
    "at wait_in_c (": """
        def wait_in_c():
            open("waiting", "w").close()
            end = time.monotonic() + 60
            while time.monotonic() < end:
                get_original("time", "sleep")(60)
        atexit.register(wait_in_c)
    """,
    "at compute (": """
        def compute():
            open("waiting", "w").close()
            while True:
                pass
        atexit.register(compute)
    """,
    "child processes ": """
        import multiprocessing
        multiprocessing.get_context("fork").Process(target=get_original("time", "sleep"), args=(9,)).start()
    """,
}


def test_the_process_ends_in_time_and_names_what_has_not_ended(begin_serving) -> None:
    servers = [(named, begin_serving(source, flags=GRACE)) for named, source in HANGS.items()]
    for _, server in servers:
        server.is_ready()
    began = time.monotonic()
    for _, server in servers:
        server.signal(signal.SIGTERM)
    for named, server in servers:
        assert server.ended() == 1
        assert LEAST - 0.1 < time.monotonic() - began < LEAST + 3
        lines = [line for line in server.said.splitlines() if "still there" in line]
        assert len(lines) == 1
        assert named in lines[0]
        assert "Traceback" not in server.said


CHILDREN = """
    import multiprocessing, subprocess
    from concurrent.futures import ProcessPoolExecutor
    forking = multiprocessing.get_context("fork")
    idle, busy = ProcessPoolExecutor(1, forking), ProcessPoolExecutor(1, forking)
    native_sleep = get_original("time", "sleep")

    def work():
        native_sleep(60)

    @at
    def begin():
        idle.submit(len, "").result()
        working = busy.submit(work)
        while not working.running():
            time.sleep(0.01)
        daemon = forking.Process(target=native_sleep, args=(60,), daemon=True)
        daemon.start()
        program = subprocess.Popen(["sleep", "15"])
        with open("ended", "w") as ended, open("left", "w") as left:
            print(*idle._processes, *busy._processes, daemon.pid, file=ended)
            print(program.pid, file=left)

    @at
    def block():
        # Python would wait for this one.
        other = forking.Process(target=native_sleep, args=(15,))
        other.start()
        with open("left", "a") as left:
            print(other.pid, file=left)
        native_sleep(60)
"""


@pytest.mark.parametrize(
    ("blocked", "number", "code"),
    [(False, signal.SIGTERM, 1), (True, signal.SIGTERM, 1), (True, signal.SIGHUP, 70)],
    ids=["executor is busy", "shutdown is blocked", "loop is blocked"],
)
def test_children_that_python_would_have_ended_do_not_outlive_the_process(serve_app, blocked, number, code) -> None:
    server = serve_app(CHILDREN, flags=(*GRACE, "--block-timeout-seconds", "3", "--interrupt-signal", "off"))
    assert server.get("/begin") == 200
    if blocked:
        server.asked("/block")
        server.until(lambda: (server.directory / "left").read_text().count("\n") == 2)
    ended, left = ((server.directory / name).read_text().split() for name in ("ended", "left"))
    began = time.monotonic()
    server.signal(number)
    assert server.ended() == code
    assert time.monotonic() - began < LEAST + 1.5
    server.until(lambda: not any(map(lives, ended)))
    assert all(map(lives, left))
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)


def lives(pid: str) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("named", ["threads busy", "at wait_for_sender (", "at wait_in_c (", "at compute ("])
def test_a_second_signal_after_the_shutdown_ends_it_at_once(serve_app, named: str) -> None:
    server = serve_app(HANGS[named], flags=("--graceful-timeout-seconds", "60"))
    server.signal(signal.SIGTERM)
    # Wait for the removal of the ready file, which follows the last step of the shutdown.
    server.until(lambda: not server.ready_file.exists())
    if named.startswith("at "):
        server.until((server.directory / "waiting").exists)
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended() == 1
    assert time.monotonic() - began < 1
    assert named in server.said


def test_what_ends_in_time_delays_nothing_and_leaves_the_exit_code(serve_app) -> None:
    server = serve_app(
        """
        from concurrent.futures import ThreadPoolExecutor
        ThreadPoolExecutor(2).submit(len, "")
        threading.Thread(target=time.sleep, args=(0.5,)).start()
        if sys.version_info < (3, 13):
            # gevent notices that nothing can wake it; with later versions of Python it does not.
            threading.Thread(target=threading.Event().wait).start()
        get_original("_thread", "start_new_thread")(get_original("time", "sleep"), (60,))
        """,
        flags=GRACE,
    )
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert time.monotonic() - began < 2
    assert "still there" not in server.said


LOGS = """
    import logging.handlers, queue
    log = logging.getLogger("shop")
    log.propagate = False

    class Shipper(logging.Handler):
        closed = False
        batch = []

        def emit(self, record):
            if not self.closed:
                self.batch.append(record.getMessage())

        def flush(self):
            if not self.closed:
                with open("shop.log", "a") as file:
                    file.writelines(line + "\\n" for line in self.batch)
                self.batch.clear()

        def close(self):
            self.flush()
            self.closed = True
            super().close()
"""
HANDLERS = {
    "batches": "log.addHandler(Shipper())",
    "memory": "log.addHandler(logging.handlers.MemoryHandler(100, target=logging.FileHandler('shop.log')))",
    "overwrites": "log.addHandler(logging.FileHandler('shop.log', 'w'))",
    "listener": """
    records = queue.Queue()
    log.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, Shipper())
    listener.start()
    atexit.register(listener.stop)
    """,
}
AT_EXIT = """
    atexit.register(lambda: log.error("closed"))

    def fail():
        log.error("failing")
        raise ValueError("at exit")
    atexit.register(fail)
"""


@pytest.mark.parametrize("handler", HANDLERS)
def test_records_that_are_logged_at_the_exit_are_not_lost(serve_app, handler: str) -> None:
    server = serve_app(LOGS, HANDLERS[handler], AT_EXIT)
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert (server.directory / "shop.log").read_text() == "failing\nclosed\n"
    assert server.said.count("Traceback") == 1


def test_nor_are_they_when_threads_are_left_behind(serve_app) -> None:
    server = serve_app(LOGS, HANDLERS["memory"], AT_EXIT, HANGS["threads busy"], flags=GRACE)
    server.signal(signal.SIGTERM)
    assert server.ended() == 1
    assert (server.directory / "shop.log").read_text() == "failing\nclosed\n"


def test_a_thread_may_log_until_the_end(serve_app) -> None:
    server = serve_app("""
        log = logging.getLogger("shop")
        log.propagate = False
        log.addHandler(logging.FileHandler("shop.log"))

        def work():
            time.sleep(0.5)
            log.error("worked")
        threading.Thread(target=work).start()
    """)
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert (server.directory / "shop.log").read_text() == "worked\n"


LOST = {
    "closed": """
        @at
        def lose():
            os.close(2)
    """,
    "full": """
        @at
        def lose():
            reader, writer = os.pipe2(os.O_NONBLOCK)
            import contextlib
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writer, b"x" * 4096)
            os.set_blocking(writer, True)
            os.dup2(writer, 2)
    """,
}


@pytest.mark.parametrize("stderr", LOST)
def test_a_standard_error_that_takes_nothing_does_not_hold_up_the_end(serve_app, stderr: str) -> None:
    server = serve_app(LOST[stderr], HANGS["at wait_in_c ("], flags=GRACE)
    assert server.get("/lose") == 200
    server.signal(signal.SIGTERM)
    assert server.ended() == 1


# Other commands.


@pytest.mark.parametrize("named", ["threads busy", "at wait_for_sender (", "child processes "])
def test_check_and_a_server_that_cannot_listen_end_in_time(run_python, named: str) -> None:
    source = "import atexit, threading, time\nfrom gevent.monkey import get_original\ndef app(*_): ..."
    files = {"served.py": source + textwrap.dedent(HANGS[named])}
    check = run_python("-m", "intralb_gevent", "check", "served:app", files=files)
    serve = run_python("-m", "intralb_gevent", "serve", "served:app", "--bind", "unix:/nowhere/at/all", files=files)
    began = time.monotonic()
    assert (check.ended(), serve.ended()) == (0, 1)
    assert time.monotonic() - began < LEAST + 4
    assert "found nothing" in check.printed
    assert "cannot listen" in serve.said
    assert named in check.said
    assert named in serve.said


# SIGTERM before serving.


def test_sigterm_ends_a_process_that_still_imports_its_application(begin_serving) -> None:
    server = begin_serving("open('importing', 'w').close()\ntime.sleep(60)")
    server.until((server.directory / "importing").exists)
    server.signal(signal.SIGTERM)
    assert server.ended() == -signal.SIGTERM


def test_sigterm_ends_the_first_process_of_a_container_while_it_imports(run_python) -> None:
    source = "import pathlib, time\npathlib.Path('importing').touch()\ntime.sleep(60)"
    command = ["unshare", "--pid", "--fork", sys.executable, "-m", "intralb_gevent", "serve", "served:app"]
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a container")
    outside = run_python("-c", f"import os; os.execvp('unshare', {command!r})", files={"served.py": source})
    outside.until((outside.directory / "importing").exists)
    (inside,) = pathlib.Path(f"/proc/{outside.process.pid}/task/{outside.process.pid}/children").read_text().split()
    os.kill(int(inside), signal.SIGTERM)
    assert outside.ended() == 128 + signal.SIGTERM
