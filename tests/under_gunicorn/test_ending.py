"""Tests of how a worker process ends: by signals, timeouts and the arbiter's death."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.under_gunicorn.conftest import Gunicorn, is_zombie

Start = Callable[..., Gunicorn]
SESSIONS = {"INTRALB_DB_INIT_FUNC": "myapp:connect"}


def test_term_finishes_requests_and_closes_sessions(start: Start) -> None:
    served = start(**SESSIONS).serves()
    assert served.get("/session").body == "42"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(served.get, "/wait/1.0")
        served.begun()
        said = served.stop()
        assert waiting.result().body == "waited"
    assert (served.directory / "closed").read_text() == "closed\n"
    assert "Traceback" not in said
    assert "exited with code" not in said


def test_repeated_term_does_not_force(start: Start) -> None:
    served = start().serves()
    (worker,) = served.workers()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(served.get, "/wait/2.0")
        served.begun()
        for _ in range(10):
            os.kill(worker, signal.SIGTERM)
            time.sleep(0.05)
        assert waiting.result().body == "waited"
    served.until(lambda: is_zombie(worker) or worker not in served.workers())
    assert "exited with code" not in served.said


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_quit_and_int_force(start: Start, number: int) -> None:
    hook = "def worker_int(worker):\n    worker.log.info('hook worker_int %s', worker.pid)\n"
    served = start(configuration=hook, **SESSIONS).serves()
    assert served.get("/session").body == "42"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(served.get, "/wait/20.0")
        served.begun()
        began = time.monotonic()
        served.signal(number)
        assert waiting.result().status == 503
        assert served.ended() == 0
    assert time.monotonic() - began < 5
    assert served.said.count("hook worker_int") == 1
    assert (served.directory / "closed").read_text() == "closed\n"
    assert "Traceback" not in served.said


def test_graceful_timeout_cuts_before_the_arbiter_kills(start: Start) -> None:
    served = start("--graceful-timeout", "4", **SESSIONS).serves()
    assert served.get("/session").body == "42"
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(served.get, path) for path in ("/wait/60.0", "/spin")]
        served.begun()
        began = time.monotonic()
        served.signal(signal.SIGTERM)
        assert [each.result().status for each in waiting] == [503, 503]
        assert served.ended() == 0
    assert 1 < time.monotonic() - began < 4.5
    assert (served.directory / "closed").read_text() == "closed\n"
    assert "2 requests were cut" in served.said
    assert "SIGKILL" not in served.said
    assert "Traceback" not in served.said


def test_a_blocked_loop_is_murdered_and_its_stack_written(start: Start) -> None:
    hooks = """
def worker_abort(worker):
    worker.log.info("hook worker_abort %s", worker.pid)
def worker_exit(server, worker):
    worker.log.info("hook worker_exit %s", worker.pid)
"""
    served = start("-t", "2", configuration=hooks, settings="interrupt_signal = 'off'").serves()
    (worker,) = served.workers()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(served.get, "/block")
        with pytest.raises(OSError, match=r"closed|reset"):
            waiting.result()
    served.serves(2)
    assert served.get().body != str(worker)
    said = served.said
    assert f"WORKER TIMEOUT (pid:{worker})" in said
    assert re.search(r"myapp.py\", line \d+, in block", said)
    assert said.count(f"hook worker_abort {worker}") == 1
    assert said.count(f"hook worker_exit {worker}") == 1
    assert "Traceback" not in said


def test_a_hanging_import_is_murdered(start: Start) -> None:
    application = """
import os, time
if not os.path.exists("hung"):
    open("hung", "w").close()
    time.sleep(1000)
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
"""
    served = start("-t", "2", application=application)
    served.serves()
    assert served.get().body == "hello"
    assert "WORKER TIMEOUT" in served.said
    assert "in <module>" in served.said


def test_term_ends_a_worker_that_still_imports(start: Start) -> None:
    served = start(application="import time\nopen('begun', 'w').close()\ntime.sleep(1000)\n")
    served.begun()
    began = time.monotonic()
    served.stop()
    assert time.monotonic() - began < 5


def test_term_ends_a_worker_that_has_loaded_the_application_and_does_not_serve_yet(start: Start) -> None:
    """The signal arrives at the first wait after the application was loaded, while the listeners are being opened."""
    configuration = """
import os, signal

def post_worker_init(worker):
    if not os.path.exists("killed"):
        import gevent
        open("killed", "w").close()
        gevent.get_hub().loop.run_callback(os.kill, os.getpid(), signal.SIGTERM)
"""
    served = start(configuration=configuration).serves()
    assert (served.directory / "killed").exists()
    said = served.stop()
    assert "Traceback" not in said
    assert "exited with code" not in said


def test_a_worker_ends_when_its_arbiter_has_died(start: Start) -> None:
    served = start(**SESSIONS).serves()
    (worker,) = served.workers()
    assert served.get("/session").body == "42"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(served.get, "/wait/2.0")
        served.begun()
        served.signal(signal.SIGKILL)
        served.process.wait()
        assert waiting.result().body == "waited"
    served.until(lambda: is_zombie(worker))
    assert (served.directory / "closed").read_text() == "closed\n"
    assert "Parent changed, shutting down" in served.said
    assert "Traceback" not in served.said


def test_a_child_process_of_a_handler_ends_by_term(start: Start) -> None:
    application = """
import multiprocessing, time
def app(environ, start_response):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    child.start()
    child.terminate()
    child.join(5)
    start_response("200 OK", [])
    return [str(child.exitcode).encode()]
"""
    served = start(application=application).serves()
    assert served.get().body == "-15"
    served.stop()
