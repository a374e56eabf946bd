"""Code that waits where Python or a C library would discard an abort is not aborted before it has returned."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

WAIT_SECONDS = 0.3
STEPS: list[str] = []
LIBRARY = ctypes.CDLL(None)
COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))


def wait() -> None:
    STEPS.append("begins")
    gevent.sleep(WAIT_SECONDS)
    STEPS.append("ends")


class Connection:
    def __del__(self) -> None:
        wait()


def in_a_finalizer() -> None:
    connection = Connection()
    del connection


def in_a_callback_of_a_weak_reference() -> None:
    class Watched: ...

    watched = Watched()
    reference = weakref.ref(watched, lambda reference: wait())
    del watched
    assert reference() is None


def in_a_generator_that_is_finalized() -> None:
    def rows() -> Iterator[int]:
        try:
            yield 1
        except GeneratorExit:
            wait()
            raise

    unfinished = rows()
    next(unfinished)
    del unfinished


def in_a_callback_of_ctypes() -> None:
    def compare(one: Any, other: Any) -> int:
        wait()
        return int(one[0] - other[0])

    LIBRARY.qsort((ctypes.c_int * 2)(2, 1), 2, ctypes.sizeof(ctypes.c_int), COMPARE(compare))


def in_a_collation_of_sqlite() -> None:
    def compare(one: str, other: str) -> int:
        wait()
        return (one > other) - (one < other)

    connection = sqlite3.connect(":memory:")
    try:
        connection.create_collation("waiting", compare)
        connection.execute("SELECT 'a' < 'b' COLLATE waiting").fetchone()
    finally:
        connection.close()


FORKING = [False]


def before_a_fork() -> None:
    if FORKING[0]:
        FORKING[0] = False
        wait()


os.register_at_fork(before=before_a_fork)


def in_a_function_that_is_called_before_a_fork() -> None:
    FORKING[0] = True
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    "use",
    [
        in_a_finalizer,
        in_a_callback_of_a_weak_reference,
        in_a_generator_that_is_finalized,
        in_a_callback_of_ctypes,
        in_a_collation_of_sqlite,
        in_a_function_that_is_called_before_a_fork,
    ],
)
def test_code_that_waits_where_an_abort_would_be_dropped_is_finished(
    balance, ask, eventually, use: Callable[[], None]
) -> None:
    STEPS.clear()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            use()
            Event().wait()
        finally:
            STEPS.append("aborted")
        return []

    balancer = balance(application, request_timeout_seconds=0.1, cleanup_seconds=20)
    assert ask(balancer, "/").status == "504 Gateway Timeout"
    # The abort is raised as soon as the code has returned, and not only after cleanup_seconds.
    eventually(lambda: STEPS == ["begins", "ends", "aborted"])


@pytest.mark.usefixtures("python_reports_errors_of_finalizers")
def test_a_finalizer_that_waits_for_ever_is_ended_after_cleanup_seconds(balance, ask, eventually) -> None:
    ended: list[float] = []

    class Stuck:
        def __del__(self) -> None:
            Event().wait()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            stuck = Stuck()
            del stuck
            Event().wait()
        finally:
            ended.append(time.monotonic())
        return []

    balancer = balance(application, request_timeout_seconds=0.1, cleanup_seconds=0.2)
    assert ask(balancer, "/").status == "504 Gateway Timeout"
    eventually(lambda: ended)
