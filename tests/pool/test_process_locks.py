"""A wait for multiprocessing's locks and queues ends at the deadline, and these locks and queues stay usable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import ServedProgram

APPLICATION = """
import multiprocessing, os
from gevent.monkey import get_original

LOCK, SEMAPHORE, SHARED = multiprocessing.Lock(), multiprocessing.BoundedSemaphore(1), multiprocessing.Lock()
QUEUE, SIMPLE, FULL = multiprocessing.Queue(), multiprocessing.SimpleQueue(), multiprocessing.Queue(1)
EVENT, CONDITION, PIPE = multiprocessing.Event(), multiprocessing.Condition(), multiprocessing.Pipe(duplex=False)
LOCK.acquire()
SEMAPHORE.acquire()
FULL.put("full")

def hold_shared(parent, nap=get_original("time", "sleep")):
    while os.getppid() == parent:
        with SHARED:
            nap(0.01)
        nap(0.001)

multiprocessing.get_context("fork").Process(target=hold_shared, args=(os.getpid(),), daemon=True).start()

def take_for_a_block():
    with LOCK:
        pass

def take():
    LOCK.acquire()
    try:
        pass
    finally:
        LOCK.release()

def take_within_a_minute():
    assert not LOCK.acquire(timeout=60)

def semaphore():
    with SEMAPHORE:
        pass

def queue():
    QUEUE.get()

def simple_queue():
    SIMPLE.get()

def full_queue():
    FULL.put("more")

def pipe():
    PIPE[0].recv()

def event():
    EVENT.wait()

def condition():
    with CONDITION:
        CONDITION.wait()

def shared():
    while True:
        with SHARED:
            pass

def shared_once():
    with SHARED:
        pass

def all_again():
    LOCK.release()
    SEMAPHORE.release()
    for lock in LOCK, SEMAPHORE, CONDITION:
        assert lock.acquire(False)
        lock.release()
    SIMPLE.put(1)
    PIPE[1].send(2)
    EVENT.set()
    EVENT.wait()
    assert (SIMPLE.get(), PIPE[0].recv(), FULL.get(timeout=5)) == (1, 2, "full")
    with CONDITION:
        CONDITION.notify_all()

def app(environ, start_response):
    globals().get(environ["PATH_INFO"].rpartition("/")[2], int)()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""

WAITS = (
    *("take_for_a_block", "take", "take_within_a_minute", "semaphore"),
    *("queue", "simple_queue", "full_queue", "pipe", "event", "condition"),
)


@pytest.fixture(scope="module")
def start(serve_program: Callable[..., Any]) -> Iterator[Callable[[], ServedProgram]]:
    """Return a function that returns the server for these tests; if a test has ended the server, start a new one."""
    made: list[ServedProgram] = []

    def get() -> ServedProgram:
        if not made or made[-1].process.poll() is not None:
            flags = ("--cleanup-seconds=60", "--block-timeout-seconds=4")
            made.append(serve_program(APPLICATION, *flags, "--routes=/soon/* request_timeout_seconds=0.1"))
        return made[-1]

    return get


@pytest.mark.parametrize("name", WAITS)
def test_it_is_ended_at_the_deadline(start: Callable[[], ServedProgram], name: str) -> None:
    program = start()
    assert program.get(f"/soon/{name}").status == 504
    assert program.get("/hello") == (200, "hello")


def test_everything_can_be_used_afterwards(start: Callable[[], ServedProgram]) -> None:
    program = start()
    assert {program.get(f"/soon/{name}").status for name in WAITS} == {504}
    assert program.get("/all_again") == (200, "hello"), program.said


def test_no_lock_is_lost_that_is_given_back_when_the_abort_comes(start: Callable[[], ServedProgram]) -> None:
    program = start()
    for _ in range(40):
        assert program.get("/soon/shared").status == 504
        assert program.get("/shared_once") == (200, "hello")
