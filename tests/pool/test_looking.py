"""The watchdog's checks of a handler have no side effects: waits in C have their full length, and blocking waits end
at the deadline.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import Route

WAIT_SECONDS = 0.15
LIBRARY = ctypes.CDLL(None, use_errno=True)


def handlers(**functions: Callable[[], object]) -> Callable[..., list[bytes]]:
    """Return an application that calls the function named by the path before it responds."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        said = functions.get(environ["PATH_INFO"][1:], lambda: None)()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(said).encode()]

    return application


def usleep() -> str:
    began = time.monotonic()
    failed = LIBRARY.usleep(int(WAIT_SECONDS * 1e6))
    return "interrupted" if failed or time.monotonic() - began < WAIT_SECONDS else "whole"


def poll() -> str:
    began = time.monotonic()
    failed = LIBRARY.poll(None, 0, int(WAIT_SECONDS * 1000))
    return "interrupted" if failed or time.monotonic() - began < WAIT_SECONDS else "whole"


@pytest.mark.parametrize("wait", [usleep, poll])
def test_a_library_waits_as_long_as_it_should(balance, ask, wait) -> None:
    balancer = balance(handlers(wait=wait), request_timeout_seconds=20)
    assert ask(balancer, "/wait").body == b"whole"


def read_of_a_pipe() -> None:
    reader, writer = os.pipe()
    try:
        os.read(reader, 1)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.fixture
def lock_file(tmp_path) -> str:
    return str(tmp_path / "lock")


def open_of_a_fifo(path: str) -> None:
    os.mkfifo(path)
    open(path).close()


def kept_read_of_a_pipe() -> bytes:
    reading, writing = os.pipe()
    try:
        data = os.read(reading, 1)
    finally:
        os.close(reading)
        os.close(writing)
    return data


def wait_for_a_child() -> None:
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.parametrize("call", [read_of_a_pipe, kept_read_of_a_pipe, open_of_a_fifo, wait_for_a_child])
def test_a_system_call_that_blocks_the_process_is_ended_at_the_deadline(balance, ask, lock_file, call) -> None:
    block = (lambda: call(lock_file)) if call is open_of_a_fifo else call
    balancer = balance(handlers(block=block), request_timeout_seconds=0.1)
    assert ask(balancer, "/block").status == "504 Gateway Timeout"
    assert ask(balancer, "/other").status == "200 OK"


def test_a_file_lock_that_another_request_holds_is_ended_and_that_one_can_finish(balance, asking, lock_file) -> None:
    def locked() -> str:
        with open(lock_file, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            gevent.sleep(0.01)
        return "had it"

    balancer = balance(handlers(locked=locked), request_timeout_seconds=0.2)
    first, second = asking(balancer, "locked", "locked")
    assert (first.get().status, second.get().status) == ("200 OK", "504 Gateway Timeout")
    assert asking(balancer, "locked")[0].get().body == b"had it"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a kernel timer on processor time")
def test_a_regular_expression_that_holds_the_interpreter_is_ended_at_the_deadline(balance, ask) -> None:
    def match() -> object:
        return re.match(r"(a+)+$", "a" * 60 + "b")

    balancer = balance(handlers(match=match), request_timeout_seconds=0.1)
    assert ask(balancer, "/match").status == "504 Gateway Timeout"
    assert ask(balancer, "/other").status == "200 OK"


# Clean-up.


def remove_tree(done: list[str], seconds: float) -> Callable[[], None]:
    """Return a handler that waits until it is aborted, and whose clean-up then computes for some time."""

    def handler() -> None:
        try:
            Event().wait()
        finally:
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass
            done.append("cleaned up")

    return handler


def test_clean_up_that_computes_has_its_time_and_holds_nobody_up(balance, asking, eventually) -> None:
    done: list[str] = []
    routes = [Route("/cut", request_timeout_seconds=0.05)]
    balancer = balance(
        handlers(cut=remove_tree(done, 0.3)), routes=routes, request_timeout_seconds=20, cleanup_seconds=20
    )
    (cut,) = asking(balancer, "cut")
    assert cut.get().status == "504 Gateway Timeout"
    others = 0
    while not done:
        assert asking(balancer, "other")[0].get().status == "200 OK"
        others += 1
    # Expect only a few requests: each waits for one slice of the clean-up, which can last 20 ms on a busy machine.
    assert others >= 4


def test_clean_up_that_takes_longer_is_interrupted_again(balance, ask, eventually) -> None:
    done: list[str] = []
    ended: list[str] = []

    def handler() -> None:
        try:
            remove_tree(done, 100)()
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    balancer = balance(handlers(cut=handler), request_timeout_seconds=0.05, cleanup_seconds=0.1)
    assert ask(balancer, "/cut").status == "504 Gateway Timeout"
    assert eventually(lambda: ended) == ["DeadlineExceeded"]
    assert done == []
    assert ask(balancer, "/other").status == "200 OK"


# Finalizers.


class Client:
    """An object in a reference cycle that sends a last message to its server when it is collected."""

    ran = 0
    failed: list[BaseException] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        try:
            gevent.sleep(0)
            Client.ran += 1
        except BaseException as error:
            Client.failed.append(error)


def test_no_finalizer_runs_in_the_hub(serve, eventually) -> None:
    Client.ran, Client.failed = 0, []
    server = serve(handlers(work=Client))
    request = b"GET /work HTTP/1.1\r\nHost: x\r\n\r\n"

    def client() -> None:
        with gevent.socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            for _ in range(100):
                connection.sendall(request)
                connection.recv(65536)

    gevent.joinall([gevent.spawn(client) for _ in range(30)], raise_error=True)
    eventually(lambda: Client.ran + len(Client.failed) > 1000)
    assert Client.failed == []


def test_an_application_that_does_without_the_collector_keeps_it_off(serve, ask) -> None:
    gc.disable()
    try:
        before = sum(stage["collections"] for stage in gc.get_stats())
        server = serve(handlers(work=lambda: [[] for _ in range(5000)] and None))
        for _ in range(5):
            ask(server.balancer, "/work")
        assert sum(stage["collections"] for stage in gc.get_stats()) == before
    finally:
        gc.enable()


# Close to the recursion limit.


def descend(levels: int, function: Callable[[], object]) -> None:
    if levels:
        descend(levels - 1, function)
    else:
        function()


def levels_left() -> int:
    try:
        return levels_left() + 1
    except RecursionError:
        return 0


def step() -> None:
    pass


def compute_at_every_depth() -> list[int]:
    """Return the stack depths, as numbers of free levels, at which code failed after it had succeeded once."""
    failed: list[int] = []
    # Closer to the limit, Python may fail to call any signal handler.
    for left in range(3, 60):
        began: list[int] = []

        def compute(left: int = left, began: list[int] = began) -> None:
            end = time.perf_counter() + 0.02
            step()
            began.append(left)
            while time.perf_counter() < end:
                step()

        try:
            descend(levels_left() - left, compute)
        except RecursionError:
            failed.extend(began)
        # Let pending events run, so that the recursion limit is restored for them.
        gevent.sleep(0.001)
    return failed


def test_looking_needs_nothing_of_the_recursion_limit(balance, ask, eventually) -> None:
    limit = sys.getrecursionlimit()
    balancer = balance(handlers(compute=compute_at_every_depth), request_timeout_seconds=20)
    assert ask(balancer, "/compute").body == b"[]"
    eventually(lambda: sys.getrecursionlimit() == limit)


def test_clean_up_close_to_the_recursion_limit_is_not_paused(balance, ask, eventually) -> None:
    failed: list[list[int]] = []

    def handler() -> None:
        try:
            time.sleep(60)
        finally:
            failed.append(compute_at_every_depth())

    balancer = balance(handlers(cut=handler), request_timeout_seconds=0.05, cleanup_seconds=20)
    assert ask(balancer, "/cut").status.startswith("504")
    eventually(lambda: failed)
    assert failed == [[]]


def test_a_finalizer_that_waits_does_no_harm_close_to_the_recursion_limit(balance, ask, eventually) -> None:
    Client.ran, Client.failed = 0, []

    def compute() -> list[int]:
        for _ in range(2 * gc.get_threshold()[0]):
            Client()
        return compute_at_every_depth()

    balancer = balance(handlers(compute=compute), request_timeout_seconds=20)
    # The first request lets the event loop turn automatic collection off.
    assert ask(balancer, "/other").status == "200 OK"
    assert ask(balancer, "/compute").body == b"[]"
    eventually(lambda: Client.ran)
    assert Client.failed == []


def endless() -> None:
    while True:
        pass


@pytest.mark.parametrize("left", [10, 20, 40])
def test_computing_close_to_the_recursion_limit_is_ended_at_the_deadline(balance, ask, eventually, left: int) -> None:
    limit = sys.getrecursionlimit()

    def compute() -> None:
        descend(levels_left() - left, endless)

    balancer = balance(handlers(compute=compute), request_timeout_seconds=0.1)
    assert ask(balancer, "/compute").status == "504 Gateway Timeout"
    eventually(lambda: sys.getrecursionlimit() == limit)
