"""An abort ends a CPU-bound handler, but only at a point where no operation is left half done."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import itertools
import os
import random
import re
import smtplib
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent.subprocess
import pytest
from gevent.lock import BoundedSemaphore

TIMEOUT = 0.1
PATIENCE = 5.0

FILE = os.open(__file__, os.O_RDONLY)
"""The handlers duplicate this descriptor to numbers from 300 on, which no other test uses: an object that another test
has left behind may close its descriptor a second time, and so must not close a handler's."""


def paths(**functions: Callable[[], object]) -> Callable[..., list[bytes]]:
    """Return an application that calls the function named by the path before it responds."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        functions.get(environ["PATH_INFO"][1:], lambda: None)()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    return application


def spend(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


class Steps:
    """A counter for how often an operation began, and how often it was completed."""

    def __init__(self) -> None:
        self.begun = self.done = 0

    def take(self, *args: object) -> int:
        self.begun += 1
        spend(TIMEOUT / 10)
        self.done += 1
        return 0


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def ends(balance, ask, eventually) -> Callable[..., None]:
    """Return a function that checks repeatedly that a handler is aborted soon, and that its slot stays usable."""

    def check(handler: Callable[[], object], times: int = 5) -> None:
        ended: list[BaseException] = []

        def handle() -> None:
            try:
                handler()
            except BaseException as error:
                ended.append(error)
                raise

        balancer = balance(
            paths(loop=handle),
            request_timeout_seconds=TIMEOUT,
            cleanup_seconds=PATIENCE,
            max_workers=1,
            max_concurrent_per_router=1,
        )
        for number in range(1, times + 1):
            began = time.monotonic()
            # Retry a rejected request, because the handler in the only slot might still be unwinding.
            while (status := ask(balancer, "/loop").status).startswith("503"):
                pass
            assert status == "504 Gateway Timeout"
            eventually(lambda number=number: len(ended) == number)
            assert time.monotonic() - began < PATIENCE
        assert balancer.snapshot().given_up == 0

    return check


# Code whose exceptions Python drops.


class Thing:
    """An object to which weak references can be made."""

    descriptor = -1


def del_of_a_weakly_referenced(steps: Steps) -> None:
    while True:
        thing = Thing()
        reference = weakref.ref(thing, steps.take)
        del thing
        assert reference() is None


def reassigned_weakly_referenced(steps: Steps) -> None:
    references = []
    thing = None
    while True:
        thing = Thing()
        references = [weakref.ref(thing, steps.take), *references[:1]]


def cleared_container(steps: Steps) -> None:
    while True:
        things = {1: Thing()}
        reference = weakref.ref(things[1], steps.take)
        things.clear()
        assert reference() is None


def returned_function(steps: Steps) -> None:
    def function() -> weakref.ref[Thing]:
        thing = Thing()
        return weakref.ref(thing, steps.take)

    while True:
        function()


def closed_generator(steps: Steps) -> None:
    def generate() -> Iterator[int]:
        try:
            yield 1
        finally:
            steps.take()

    while True:
        generator = generate()
        next(generator)
        del generator


def returned_generator(steps: Steps) -> None:
    def generate() -> Iterator[int]:
        try:
            yield 1
        finally:
            steps.take()

    def begin() -> None:
        generator = generate()
        next(generator)

    while True:
        begin()


def sorting_by_ctypes(steps: Steps) -> None:
    library = ctypes.CDLL(None)
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(steps.take)
    numbers = (ctypes.c_int * 8)(*range(8))
    while True:
        library.qsort(numbers, len(numbers), ctypes.sizeof(ctypes.c_int), compare)


def ctypes_of_a_library_without_a_name(steps: Steps) -> None:
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    numbers = (ctypes.c_int * 8)(*range(8))
    while True:
        ctypes.CDLL(None).qsort(numbers, len(numbers), ctypes.sizeof(ctypes.c_int), compare(steps.take))


def sqlite_function_in_a_loop(steps: Steps) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.create_function("take", 1, lambda value: sum(steps.take() for _ in range(4)))
        for _ in connection.execute(
            "with recursive n(x) as (select 1 union all select x + 1 from n) select take(x) from n"
        ):
            pass


def sqlite_trace(steps: Steps) -> None:
    connection = sqlite3.connect(":memory:")
    connection.set_trace_callback(steps.take)
    try:
        while True:
            connection.execute("select 1")
    finally:
        connection.close()


@pytest.mark.parametrize(
    "handler",
    [
        *(del_of_a_weakly_referenced, reassigned_weakly_referenced, cleared_container, returned_function),
        *(closed_generator, returned_generator, sorting_by_ctypes, ctypes_of_a_library_without_a_name),
        *(sqlite_trace, sqlite_function_in_a_loop),
    ],
)
def test_a_callback_that_cannot_report_an_exception_is_never_left_halfway(ends, steps: Steps, handler) -> None:
    ends(lambda: handler(steps))
    assert steps.begun == steps.done > 0


INSERT = "insert into words values (?)"


class WrappedCursor(sqlite3.Cursor):
    """A cursor wrapper as in Django."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        return super().execute(*arguments)


class OldCursor(sqlite3.Cursor):
    """A cursor wrapper that does not use `super()`."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        return sqlite3.Cursor.execute(self, *arguments)


def star(connection: sqlite3.Connection, statement: tuple[Any, ...]) -> None:
    connection.execute(*statement)


def kept_method(connection: sqlite3.Connection, statement: tuple[Any, ...]) -> None:
    execute = connection.execute
    execute(*statement)


def partial_method(connection: sqlite3.Connection, statement: tuple[Any, ...]) -> None:
    execute = functools.partial(connection.execute, *statement)
    execute()


def in_a_dictionary(connection: sqlite3.Connection, statement: tuple[Any, ...]) -> None:
    connections = {"words": connection}
    connections["words"].executemany(INSERT, [(value,) for (value,) in statement[1:]])


def on_a_condition(connection: sqlite3.Connection, statement: tuple[Any, ...]) -> None:
    connection.execute(INSERT, statement[1] if statement else ())


@pytest.mark.parametrize(
    "execute",
    [
        lambda connection, statement: connection.execute(statement[0], statement[1]),
        lambda connection, statement: connection.cursor().execute(statement[0], statement[1]),
        lambda connection, statement: connection.cursor(WrappedCursor).execute(*statement),
        lambda connection, statement: connection.cursor(OldCursor).execute(*statement),
        *(star, kept_method, partial_method, in_a_dictionary, on_a_condition),
    ],
    ids=["plain", "call", "super", "class", "star", "kept", "partial", "dictionary", "condition"],
)
def test_an_index_with_a_collation_in_python_is_in_order_after_an_abort(ends, tmp_path: Path, execute) -> None:
    file = tmp_path / "indexed.db"

    def slow_collation(a: str, b: str) -> int:
        spend(0.001)
        return (a > b) - (a < b)

    def connect(collation: Callable[[str, str], int]) -> contextlib.closing[sqlite3.Connection]:
        connection = sqlite3.connect(file, isolation_level=None)
        connection.create_collation("python", collation)
        return contextlib.closing(connection)

    with connect(lambda a, b: (a > b) - (a < b)) as connection:
        connection.execute("create table words (word text)")
        connection.execute("create index sorted on words (word collate python)")

    def insert() -> None:
        with connect(slow_collation) as connection:
            while True:
                execute(connection, (INSERT, (f"{random.random()}",)))

    ends(insert)
    with connect(lambda a, b: (a > b) - (a < b)) as connection:
        assert connection.execute("select count(*) > 0 from words").fetchone() == (1,)
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]


def test_a_long_statement_of_sqlite_that_calls_python_is_ended(ends) -> None:
    def query() -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.create_function("slow", 1, lambda value: spend(0.001) or value)
            numbers = "with recursive n(x) as (select 1 union all select x + 1 from n where x < 1000000)"
            connection.execute(f"{numbers} select sum(slow(x)) from n").fetchall()

    ends(query, times=2)


# Locks.

LOCK = threading.Lock()


class Guard:
    """A lock in a context manager that the application defines."""

    def __enter__(self) -> None:
        LOCK.acquire()
        spend(0.0001)

    def __exit__(self, *error: object) -> None:
        spend(0.0001)
        LOCK.release()


def with_a_guard() -> None:
    guard = Guard()
    while True:
        with guard:
            pass


class Table:
    """A lock with the application's own methods."""

    def acquire(self) -> None:
        LOCK.acquire()
        spend(0.0001)

    def release(self) -> None:
        spend(0.0001)
        LOCK.release()


def acquired_and_released() -> None:
    table = Table()
    while True:
        table.acquire()
        try:
            spend(0.0001)
        finally:
            table.release()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    LOCK.acquire()
    try:
        yield
    finally:
        LOCK.release()


def in_a_context() -> None:
    while True:
        with guarded():
            spend(0.0001)


def bare_lock() -> None:
    count = 0
    while True:
        LOCK.acquire()
        try:
            count += 1
        finally:
            LOCK.release()


def in_an_exit_stack() -> None:
    while True:
        with contextlib.ExitStack() as stack:
            stack.enter_context(LOCK)


def step() -> None:
    sum(range(300))


def loop_in_try() -> None:
    LOCK.acquire()
    try:
        while True:
            step()
    finally:
        LOCK.release()


def counting_loop_in_try() -> None:
    count = 0
    LOCK.acquire()
    try:
        while True:
            count += 1
    finally:
        LOCK.release()


def loop_with_condition_in_try() -> None:
    count = 1
    LOCK.acquire()
    try:
        while count:
            step()
    finally:
        LOCK.release()


def loop_in_with() -> None:
    with LOCK:
        while True:
            step()


@pytest.mark.parametrize(
    "handler",
    [
        *(with_a_guard, acquired_and_released, in_a_context, bare_lock, in_an_exit_stack),
        *(loop_in_try, counting_loop_in_try, loop_with_condition_in_try, loop_in_with),
    ],
)
def test_a_lock_is_free_after_an_abort(ends, handler) -> None:
    for _ in range(4):
        ends(handler)
        assert LOCK.acquire(blocking=False)
        LOCK.release()


class Accounts:
    """Two numbers whose sum is 0 while nobody holds the lock."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.numbers = {"from": 0, "to": 0}

    def move(self) -> None:
        self.numbers["from"] -= 1
        spend(0.0001)
        try:
            self.numbers[str(time)]
        except KeyError:
            self.numbers["to"] += 1


def move_with(accounts: Accounts) -> None:
    lock = accounts.lock
    while True:
        with lock:
            accounts.move()


def move_within_with(accounts: Accounts) -> None:
    while True:
        with accounts.lock, contextlib.suppress(ValueError):
            accounts.numbers["from"] -= 1
            sum(range(1000))
            accounts.numbers["to"] += 1


def move_in_try(accounts: Accounts) -> None:
    while True:
        accounts.lock.acquire()
        try:
            accounts.numbers["from"] -= 1
            for _ in range(3):
                step()
            accounts.numbers["to"] += 1
        finally:
            accounts.lock.release()


def move_in_a_closure(accounts: Accounts) -> None:
    lock = accounts.lock

    def move() -> None:
        with lock:
            sum(1 for _ in [2, 1] if accounts.move() is None)

    while True:
        move()


@pytest.mark.parametrize("lock", [threading.Lock, threading.RLock, threading.Condition, BoundedSemaphore])
@pytest.mark.parametrize("move", [move_with, move_within_with, move_in_try, move_in_a_closure])
def test_a_change_under_a_lock_is_finished_before_an_abort(ends, move, lock) -> None:
    accounts = Accounts(lock())
    for _ in range(5):
        ends(lambda: move(accounts), times=1)
        assert sum(accounts.numbers.values()) == 0


def test_an_enter_that_never_returns_is_ended_all_the_same(balance, ask) -> None:
    class Endless:
        def __enter__(self) -> None:
            while True:
                pass

        def __exit__(self, *error: object) -> None:
            raise AssertionError("it was not entered")

    def enter() -> None:
        with Endless():
            pass

    balancer = balance(paths(enter=enter), request_timeout_seconds=TIMEOUT, cleanup_seconds=0.1)
    assert ask(balancer, "/enter").status == "504 Gateway Timeout"
    assert ask(balancer, "/other").status == "200 OK"


# Connections.


@pytest.fixture
def mail() -> Iterator[smtplib.SMTP]:
    """Return a client of a mail server that responds to each command with the command itself."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs, theirs.makefile("rb") as commands:
            for command in commands:
                theirs.sendall(b"250 " + command)

    server = threading.Thread(target=serve)
    server.start()
    client = smtplib.SMTP()
    client.sock = ours
    yield client
    client.close()
    server.join()


def test_a_command_receives_no_response_to_an_aborted_one(ends, mail: smtplib.SMTP) -> None:
    numbers = itertools.count()

    def send() -> None:
        while True:
            number = next(numbers)
            assert mail.docmd("NOOP", str(number)) == (250, f"NOOP {number}".encode())

    ends(send, times=10)


# An abort can be raised in a call through C code, if the C code reports exceptions.


def endless(*args: object) -> int:
    for _ in itertools.count():
        pass
    return 0


def decorated(function: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object) -> object:
        return function(*args)

    return call


class Endless:
    """An object whose special methods compute endlessly."""

    def __init__(self, at_once: bool = False) -> None:
        if at_once:
            endless()

    @property
    def value(self) -> int:
        return endless()

    def __call__(self) -> int:
        return endless()

    def __eq__(self, other: object) -> bool:
        return bool(endless())

    __hash__ = object.__hash__

    @decorated
    def commit(self) -> None:
        endless()


class DerivedEndless(Endless):
    """A subclass whose methods call the methods of its base class."""

    def __call__(self) -> int:
        return super().__call__()


def generate() -> Iterator[int]:
    yield endless()


def size_of(name: str) -> int:
    return os.stat(name).st_size


def long_sort() -> None:
    while True:
        sorted([os.devnull] * 100_000, key=size_of)


def passing_nothing(*values: object) -> None:
    while True:
        step()


def match_that_backtracks() -> None:
    found = re.match(r"(a+)+$", "a" * 60 + "b")
    assert not found


def loop_over_a_generator() -> None:
    for _ in generate():
        pass


FUNCTIONS: dict[str, Any] = {"endless": endless, "decorated": decorated(endless), "Endless": Endless}
CONNECTION = sqlite3.connect(":memory:")
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int)(endless)


@pytest.mark.parametrize(
    "handler",
    [
        lambda: sorted([1, 2], key=endless),
        lambda: list(map(endless, [1])),
        lambda: re.sub("a", lambda match: str(endless()), "a"),
        lambda: Endless().value,
        lambda: Endless()(),
        lambda: Endless(at_once=True),
        lambda: [Endless()].remove(Endless()),
        lambda: [Endless()].count(1),
        lambda: max(endless() for _ in [1]),
        lambda: type("Made", (), {"__init_subclass__": classmethod(endless)}) and type("Sub", (), {}) and endless(),
        lambda: FUNCTIONS["endless"](1),
        lambda: FUNCTIONS["decorated"](CONNECTION, CALLBACK),
        lambda: FUNCTIONS["Endless"](CALLBACK),
        lambda: [Endless()][0].commit(),
        lambda: FUNCTIONS["endless"](*generate()),
        lambda: DerivedEndless()(),
        *(loop_over_a_generator, long_sort, match_that_backtracks),
        lambda: passing_nothing(None, None, None),
    ],
    ids=[
        *("sorted", "map", "re.sub", "property", "call", "init", "remove", "count", "generator", "class"),
        *("item", "decorated", "made", "method", "star", "super", "loop", "sort", "match", "nothing"),
    ],
)
def test_computing_below_c_code_is_ended_at_the_deadline(ends, handler) -> None:
    ends(handler, times=2)


# Subprocesses.


def children() -> set[str]:
    """Return the ids of this thread's child processes that have not been waited for."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize("module", [subprocess, gevent.subprocess])
def test_a_program_does_not_outlive_the_handler_that_has_just_started_it(ends, module) -> None:
    def start_programs() -> None:
        while True:
            process = module.Popen(["sleep", "77"])
            try:
                spend(TIMEOUT / 20)
            finally:
                process.kill()
                process.wait()
            spend(TIMEOUT / 10)

    before = children()
    ends(start_programs, times=20)
    assert children() <= before


def opened_in_try() -> None:
    while True:
        descriptor = None
        try:
            descriptor = fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def opened_before_try() -> None:
    while True:
        descriptor = fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)
        try:
            step()
        finally:
            os.close(descriptor)


def opened_as_attribute() -> None:
    thing = Thing()
    while True:
        thing.descriptor = fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)
        try:
            step()
        finally:
            os.close(thing.descriptor)


def two_opened_at_once() -> None:
    while True:
        read, write = os.pipe()
        try:
            step()
        finally:
            os.close(read)
            os.close(write)


def opened_after_an_error() -> None:
    descriptor = None
    while True:
        try:
            try:
                raise ValueError
            except ValueError:
                descriptor = fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)
        finally:
            if descriptor is not None:
                os.close(descriptor)
                descriptor = None


def open_file() -> int:
    return fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)


def opened_by_a_function() -> None:
    while True:
        descriptor = open_file()
        try:
            step()
        finally:
            os.close(descriptor)


def open_under_a_lock() -> int:
    with LOCK:
        return fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)


def opened_under_a_lock() -> None:
    while True:
        descriptor = open_under_a_lock()
        try:
            step()
        finally:
            os.close(descriptor)


class OpenedAtOnce:
    """A context manager that acquires its resource before the `with` block begins."""

    def __init__(self) -> None:
        self.descriptor = fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)

    def __enter__(self) -> int:
        return self.descriptor

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)


def opened_before_with() -> None:
    while True:
        with OpenedAtOnce():
            step()


def opened_on_a_condition() -> None:
    count = 0
    while True:
        count += 1
        descriptor = fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300) if count % 7 else None
        try:
            step()
        finally:
            if descriptor is not None:
                os.close(descriptor)


def opened_as_argument() -> None:
    opened: list[int] = []
    try:
        while True:
            opened.append(fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300))
            step()
            if len(opened) > 9:
                for descriptor in opened:
                    os.close(descriptor)
                opened = []
    finally:
        for descriptor in opened:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def opened_over_several_lines() -> None:
    thing = Thing()
    while True:
        thing.descriptor = -1
        try:
            thing.descriptor = (
                fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)
            )  # fmt: skip
        finally:
            if thing.descriptor >= 0:
                os.close(thing.descriptor)


def opened_by_a_coroutine() -> None:
    async def open_soon() -> int:
        return fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)

    async def use() -> None:
        descriptor = await open_soon()
        try:
            step()
        finally:
            os.close(descriptor)

    while True:
        with contextlib.suppress(StopIteration):
            use().send(None)


def opened_by_a_generator() -> None:
    def opened() -> Iterator[int]:
        while True:
            yield fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)

    for descriptor in opened():
        try:
            step()
        finally:
            os.close(descriptor)


class ClosesByAnotherName(OpenedAtOnce):
    """A context manager whose `__exit__` function has another name."""

    def leave(self, *error: object) -> None:
        spend(0.0002)
        os.close(self.descriptor)

    __exit__ = leave


def closed_by_another_name() -> None:
    while True:
        with ClosesByAnotherName():
            step()


def closed_at_length() -> None:
    while True:
        descriptor = fcntl.fcntl(FILE, fcntl.F_DUPFD_CLOEXEC, 300)
        try:
            step()
        finally:
            spend(0.0002)
            os.close(descriptor)
            spend(0.0002)


def temporary() -> None:
    while True:
        with tempfile.TemporaryFile():
            step()


def opened_by_handlers() -> list[str]:
    """Return the open descriptors of the handlers, which are of this file or of a file without a name.

    The server itself may open descriptors at any time, such as a copy of standard error for the log.
    """
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            path = os.readlink(f"/proc/self/fd/{number}")
            if path == __file__ or path.endswith(" (deleted)"):
                found.append(number)
    return found


@pytest.mark.parametrize(
    "handler",
    [
        *(opened_in_try, opened_before_try, opened_as_attribute, two_opened_at_once, opened_after_an_error),
        *(opened_by_a_function, opened_under_a_lock, opened_before_with, opened_on_a_condition, opened_as_argument),
        *(opened_over_several_lines, opened_by_a_coroutine, opened_by_a_generator),
        *(closed_by_another_name, closed_at_length, temporary),
    ],
)
def test_what_a_call_has_returned_is_kept_before_an_abort(ends, handler) -> None:
    """The result of a call is stored before an abort, so that a `finally` block can release an acquired resource."""
    before = opened_by_handlers()
    ends(handler, times=20)
    assert opened_by_handlers() == before


work: Callable[[], object] = step


def test_a_name_that_means_something_else_meanwhile_is_waited_for_no_longer_than_clean_up(balance, ask) -> None:
    def replaced() -> None:
        global work
        work = step
        endless()

    def replace() -> None:
        global work
        work = replaced
        work()

    balancer = balance(paths(replace=replace), request_timeout_seconds=TIMEOUT, cleanup_seconds=0.1)
    assert ask(balancer, "/replace").status == "504 Gateway Timeout"
    assert ask(balancer, "/other").status == "200 OK"


class Proxy:
    """An object whose `__class__` is computed by Python code, such as a lazy object of Django."""

    asked = 0

    @property
    def __class__(self) -> type:
        Proxy.asked += 1
        raise RuntimeError

    def __getattr__(self, name: str) -> object:
        Proxy.asked += 1
        raise RuntimeError

    def __call__(self, *args: object) -> object:
        return endless()


@pytest.mark.parametrize("call", [lambda proxy: proxy(), lambda proxy: FUNCTIONS["decorated"](proxy)])
def test_objects_of_the_application_are_not_asked_what_they_are(ends, call) -> None:
    proxy = Proxy()
    ends(lambda: call(proxy), times=2)
    assert Proxy.asked == 0
