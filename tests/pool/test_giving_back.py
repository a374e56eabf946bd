"""A handler that is releasing a resource when its deadline passes can finish the release before it is aborted."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from intralb_gevent import DeadlineExceeded
from intralb_gevent.aborts.finallyblocks import is_in_finally
from intralb_gevent.errors import ClientDisconnected

TIMEOUT = 0.1
PATIENCE = 5.0


class Pool:
    """A pool that lends out the names of its members. To take a member back, it waits for a gate, or computes."""

    def __init__(self, computes: bool) -> None:
        self.members = ["member"]
        self.gate = Event()
        self.computes = computes

    def take(self) -> str:
        return self.members.pop()

    def release(self, member: str) -> None:
        self.wait()
        self.members.append(member)

    def acquire(self) -> None:
        """Take the member, and wait for the confirmation, as a lock on a Redis server does."""
        self.member = self.take()
        self.wait()

    def wait(self) -> None:
        if self.computes:
            end = time.monotonic() + 3 * TIMEOUT
            while time.monotonic() < end:
                pass
        else:
            self.gate.wait()

    def __enter__(self) -> None:
        self.member = self.take()

    def __exit__(self, *error: object) -> None:
        self.wait()
        self.members.append(self.member)


def in_finally(pool: Pool) -> None:
    member = pool.take()
    try:
        pass
    finally:
        pool.wait()
        pool.members.append(member)


def in_handled_error(pool: Pool) -> None:
    member = pool.take()
    try:
        raise ValueError
    except ValueError:
        pass
    finally:
        for _ in range(1):
            pool.wait()
            pool.members.append(member)


def in_release(pool: Pool) -> None:
    pool.release(pool.take())


def at_end_of_with(pool: Pool) -> None:
    with pool:
        pass


def in_context_manager(pool: Pool) -> None:
    @contextlib.contextmanager
    def taken() -> Iterator[None]:
        member = pool.take()
        try:
            yield
        finally:
            pool.wait()
            pool.members.append(member)

    with taken():
        pass


@contextlib.contextmanager
def acquired(pool: Pool) -> Iterator[None]:
    pool.acquire()
    try:
        yield
    finally:
        pool.members.append(pool.member)


def in_acquire(pool: Pool) -> None:
    pool.acquire()
    try:
        Event().wait()
    finally:
        pool.members.append(pool.member)


def in_acquire_at_beginning_of_with(pool: Pool) -> None:
    with acquired(pool):
        Event().wait()


WAYS = [
    *(in_finally, in_handled_error, in_release, at_end_of_with, in_context_manager),
    *(in_acquire, in_acquire_at_beginning_of_with),
]


class Handler:
    """An application that uses the pool, and then runs until it is aborted."""

    def __init__(self, pool: Pool, use: Callable[[Pool], None]) -> None:
        self.pool = pool
        self.use = use
        self.ended: list[type[BaseException]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            self.use(self.pool)
            Event().wait()
        except BaseException as error:
            self.ended.append(type(error))
            raise
        return []


@pytest.mark.parametrize("computes", [False, True], ids=["waits", "computes"])
@pytest.mark.parametrize("use", WAYS)
def test_what_is_being_given_back_as_the_deadline_passes_is_not_lost(
    balance, asking, eventually, use, computes
) -> None:
    handler = Handler(Pool(computes), use)
    (request,) = asking(balance(handler, request_timeout_seconds=TIMEOUT, cleanup_seconds=PATIENCE), "/")
    gevent.spawn_later(3 * TIMEOUT, handler.pool.gate.set)
    assert request.get().status == "504 Gateway Timeout"
    assert eventually(lambda: handler.ended) == [DeadlineExceeded]
    assert handler.pool.members == ["member"]


@pytest.mark.parametrize("use", WAYS)
def test_giving_back_that_hangs_is_ended_after_cleanup_seconds(balance, asking, eventually, use) -> None:
    handler = Handler(Pool(computes=False), use)
    (request,) = asking(balance(handler, request_timeout_seconds=TIMEOUT, cleanup_seconds=2 * TIMEOUT), "/")
    assert request.get().status == "504 Gateway Timeout"
    assert eventually(lambda: handler.ended) == [DeadlineExceeded]
    assert handler.pool.members == []


def test_clean_up_after_what_was_given_back_has_its_own_time(balance, asking, eventually) -> None:
    """The first abort is raised late in this case, but the second abort must follow it after the usual time."""
    done: list[str] = []

    def use(pool: Pool) -> None:
        try:
            in_finally(pool)
            Event().wait()
        finally:
            end = time.monotonic() + 4 * TIMEOUT
            while time.monotonic() < end:
                pass
            done.append("cleaned up")

    handler = Handler(Pool(computes=False), use)
    (request,) = asking(balance(handler, request_timeout_seconds=TIMEOUT, cleanup_seconds=PATIENCE), "/")
    gevent.spawn_later(2 * TIMEOUT, handler.pool.gate.set)
    assert request.get().status == "504 Gateway Timeout"
    assert eventually(lambda: handler.ended) == [DeadlineExceeded]
    assert done == ["cleaned up"]


def test_a_client_that_leaves_meanwhile_is_what_ends_it(serve, eventually) -> None:
    handler = Handler(Pool(computes=False), in_finally)
    server = serve(handler, request_timeout_seconds=PATIENCE, cancel_on_disconnect=True)
    with socket.create_connection(server.address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: not handler.pool.members)
    eventually(lambda: server.balancer.snapshot().outcomes["disconnected"])
    handler.pool.gate.set()
    assert eventually(lambda: handler.ended) == [ClientDisconnected]
    assert handler.pool.members == ["member"]


def test_others_are_served_while_a_finally_block_computes(balance, asking) -> None:
    """Deadlines and other requests are still handled, because the CPU-bound handler is paused."""
    handler = Handler(Pool(computes=True), in_finally)
    balancer = balance({"/slow": handler, "/": answering}, request_timeout_seconds=TIMEOUT, cleanup_seconds=PATIENCE)
    (slow,) = asking(balancer, "/slow")
    gevent.sleep(0)
    began = time.monotonic()
    assert slow.get().status == "504 Gateway Timeout"
    assert time.monotonic() - began < 2.5 * TIMEOUT


def answering(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b""]


@pytest.mark.parametrize(
    "source", ["{# ( #}\\n{{ unclosed", "x = 'an older text'\\n", None], ids=["template", "replaced", "none"]
)
@pytest.mark.parametrize("computes", [False, True], ids=["waits", "computes"])
def test_a_source_that_is_no_source_of_the_code_changes_nothing(
    balance, asking, eventually, tmp_path, source, computes
) -> None:
    file = tmp_path / "template.html"
    if source is not None:
        file.write_text(source)
    text = "def use(pool):\n    try:\n        pool.wait()\n    finally:\n        pool.members.append('used')\n"
    names: dict[str, Any] = {}
    exec(compile(text, str(file), "exec"), names)
    pool = Pool(computes)
    handler = Handler(pool, names["use"])
    (request,) = asking(balance(handler, request_timeout_seconds=TIMEOUT, cleanup_seconds=PATIENCE), "/")
    assert request.get().status == "504 Gateway Timeout"
    assert eventually(lambda: handler.ended) == [DeadlineExceeded]
    assert pool.members == ["member", "used"]


def test_a_log_record_that_is_being_sent_is_sent_whole(balance, asking, eventually) -> None:
    sent: list[str] = []
    gate = Event()

    class Stream(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sent.append("head")
            gate.wait()
            sent.append("rest")

    logger = logging.Logger("of a test")
    logger.addHandler(Stream())
    handler = Handler(Pool(computes=False), lambda pool: logger.warning("a record"))
    (request,) = asking(balance(handler, request_timeout_seconds=TIMEOUT, cleanup_seconds=PATIENCE), "/")
    gevent.spawn_later(3 * TIMEOUT, gate.set)
    assert request.get().status == "504 Gateway Timeout"
    assert eventually(lambda: handler.ended) == [DeadlineExceeded]
    assert sent == ["head", "rest"]


PROGRAMS = """
import os, pathlib, subprocess, time

def take_longer_than_the_request_has():
    pathlib.Path("pid").write_text(str(os.getpid()))
    time.sleep(0.5)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/start":
        subprocess.run(["sleep", "77"], preexec_fn=take_longer_than_the_request_has)
    start_response("200 OK", [])
    return [b""]
"""


def test_a_program_whose_start_is_cut_does_not_go_on(serve_program) -> None:
    """If the start of a program is aborted, the program must not run, because no code has a `Popen` to end it."""
    program = serve_program(PROGRAMS, "--routes", "/start request_timeout_seconds=0.2")
    assert program.get("/start").status == 504
    pid = (program.directory / "pid").read_text()
    program.wait_until(lambda: not is_running(pid))


def is_running(pid: str) -> bool:
    with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False


def test_instructions_without_a_line_are_in_no_finally_block() -> None:
    """The last instructions of an exception handler have no line number; the frame's line is None at these."""
    assert not is_in_finally(in_finally.__code__, None)


def test_warnings_about_a_source_file_do_not_hide_its_finally_blocks(tmp_path) -> None:
    file = tmp_path / "warned.py"
    file.write_text('def warned(done):\n    try:\n        done.append("\\d")\n    finally:\n        done.clear()\n')
    names: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        exec(compile(file.read_text(), file, "exec"), names)
    assert shown
    assert is_in_finally(names["warned"].__code__, 5)
    assert not is_in_finally(names["warned"].__code__, 3)
