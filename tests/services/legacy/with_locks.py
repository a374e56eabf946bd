"""A sample application that acquires locks for short critical sections, in each of the usual ways."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from .web import LONG, Request, site, stage

lock, rlock, guarded, managed, tried = threading.Lock(), threading.RLock(), *(threading.Lock() for _ in range(3))


class Guard:
    def __enter__(self) -> None:
        guarded.acquire()

    def __exit__(self, *error: object) -> None:
        guarded.release()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    managed.acquire()
    try:
        yield
    finally:
        managed.release()


def with_lock(work: Callable[[], object]) -> None:
    with lock:
        work()


def with_rlock(work: Callable[[], object]) -> None:
    with rlock, rlock:
        work()


def with_class(work: Callable[[], object]) -> None:
    with Guard():
        work()


def with_contextmanager(work: Callable[[], object]) -> None:
    with locked():
        work()


def acquire_and_try(work: Callable[[], object]) -> None:
    tried.acquire()
    try:
        work()
    finally:
        tried.release()


LOCKS = {"Lock": lock, "RLock": rlock, "class": guarded, "contextmanager": managed, "acquire and try": tried}
SECTIONS = [with_lock, with_rlock, with_class, with_contextmanager, acquire_and_try]


def compute() -> None:
    sum(range(50))


def repeat(section: Callable[..., None], work: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        section(work)


def enable_fair_queue(section: Callable[..., None]) -> None:
    """Hold the lock repeatedly for a short time; waiting requests can acquire it in between."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        section(lambda: time.sleep(0.0005))
        time.sleep(0.0005)


def look(request: Request) -> dict[str, Any]:
    stage(request, "look", lambda: enable_fair_queue(random.choice(SECTIONS)))
    stage(request, "loop", lambda: repeat(random.choice(SECTIONS), compute))
    for section in SECTIONS:
        section(compute)
    return {"numbers": [request.number], "owners": [request.user]}


def held(request: Request) -> dict[str, Any]:
    """Return the names of the locks that another thread cannot acquire."""
    names: list[str] = []

    def take_each() -> None:
        for name, one in LOCKS.items():
            if one.acquire(timeout=1):
                one.release()
            else:
                names.append(name)

    # Try in a new thread, because the greenlet that holds an RLock can acquire it again.
    thread = threading.Thread(target=take_each)
    thread.start()
    thread.join()
    return {"held": names}


application = site(look=look, pay=look, held=held)
