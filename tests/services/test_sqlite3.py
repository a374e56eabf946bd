"""With sqlite3, waits for locks do not block the process, deadlines end statements, and no state is left behind."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import pytest

from intralb_gevent import OptionError, current_session, extend_deadline
from intralb_gevent.integrations.sqlite3 import SQLiteSessions
from intralb_gevent.policy.deadline import ProxyTiming

OK, FAILED, LATE = "200 OK", "500 Internal Server Error", "504 Gateway Timeout"
NEVER_ENDING = "with recursive n(i) as (select 1 union all select i + 1 from n) select {} from n"


def test_aborts_at_random_instants(storm) -> None:
    storm("sqlite3")


def test_the_sum_of_two_accounts_never_changes(storm) -> None:
    storm("transfer_sqlite3", aborted=300, normal=600)


@pytest.fixture(params=["wal", "delete"])
def file(request, tmp_path) -> Iterator[Path]:
    path = tmp_path / "notes.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute(f"pragma journal_mode = {request.param}")
    connection.execute("create table note (n)")
    connection.close()
    yield path
    opened = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    assert not [one for one in opened if os.path.exists(one) and os.readlink(one).startswith(str(path))]


def count(file: Path) -> int:
    connection = sqlite3.connect(file)
    (number,) = connection.execute("select count(*) from note").fetchone()
    connection.close()
    return int(number)


@pytest.fixture
def other(file) -> Iterator[sqlite3.Connection]:
    """Open a connection that belongs to no slot."""
    connection = sqlite3.connect(file, timeout=0, isolation_level=None)
    yield connection
    connection.close()


@pytest.fixture
def serve(file, balance, ask) -> Callable[..., Callable[..., tuple[str, str]]]:
    """Return a function that makes a request; the handler calls `work` with its session and path."""

    def start(work: Callable[..., Any], sessions: dict[str, Any] | None = None, **options: Any) -> Any:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            body = str(work(current_session(), environ["PATH_INFO"]))
            start_response(OK, [("Content-Type", "text/plain")])
            return [body.encode()]

        def asking(path: str = "/", seconds: float = 10) -> tuple[str, str]:
            status, body = ask(balancer, path, **{"intralb.proxy_timing": ProxyTiming(left=seconds)})
            return status, body.decode()

        source = SQLiteSessions(file, **(sessions or {}))
        balancer = balance(application, db_init_func=source, **{"max_workers": 1} | options)
        return asking

    return start


# Locks.


def insert(session: sqlite3.Connection, path: str) -> str:
    """Insert a row, and hold the lock for a moment."""
    session.execute("insert into note values (1)")
    gevent.sleep(0.05)
    session.commit()
    return "written"


def test_two_slots_that_write_wait_for_each_other_while_others_are_served(serve, file) -> None:
    asking = serve(lambda session, path: insert(session, path) if path == "/write" else "read")
    began = time.monotonic()
    writing = [gevent.spawn(asking, "/write") for _ in range(6)]
    longest = 0.0
    while not all(one.ready() for one in writing):
        at = time.monotonic()
        assert asking("/read") == (OK, "read")
        longest = max(longest, time.monotonic() - at)
        gevent.sleep(0.005)
    assert [one.get() for one in writing] == [(OK, "written")] * 6
    assert time.monotonic() - began < 3
    assert longest < 0.5
    assert count(file) == 6


def test_a_lock_that_another_process_has_is_waited_for_as_well(serve, other, file) -> None:
    asking = serve(insert)
    other.execute("begin immediate")
    writing = gevent.spawn(asking)
    gevent.sleep(0.1)
    assert not writing.ready()
    other.execute("rollback")
    assert writing.get() == (OK, "written")


def test_it_is_not_waited_for_longer_than_the_timeout(serve, other) -> None:
    def work(session: sqlite3.Connection, path: str) -> str:
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            session.execute("insert into note values (1)")
        return str(time.monotonic() - began)

    other.execute("begin immediate")
    status, seconds = serve(work, {"timeout": 0.2})()
    assert status == OK
    assert 0.1 < float(seconds) < 2


def test_the_wait_for_it_ends_with_the_request(serve, other) -> None:
    other.execute("begin immediate")
    asking = serve(insert)
    began = time.monotonic()
    assert asking(seconds=0.2)[0] == LATE
    assert time.monotonic() - began < 2
    other.execute("rollback")
    assert asking() == (OK, "written")


def test_of_two_transactions_that_both_want_to_write_after_reading_one_goes_on(serve, file) -> None:
    def work(session: sqlite3.Connection, path: str) -> str:
        session.execute("begin")
        session.execute("select * from note").fetchall()
        gevent.sleep(0.02)
        return insert(session, path)

    asking = serve(work, {"timeout": 0.5})
    writing = [gevent.spawn(asking) for _ in range(2)]
    assert sorted(one.get()[0] for one in writing) == [OK, FAILED]
    assert count(file) == 1


def test_many_rows_are_written_once_whoever_had_the_lock_before(serve, other, file) -> None:
    def work(session: sqlite3.Connection, path: str) -> str:
        with session:
            session.executemany("insert into note values (?)", ((number,) for number in range(10)))
        return "written"

    other.execute("begin immediate")
    writing = gevent.spawn(serve(work))
    gevent.sleep(0.05)
    other.execute("rollback")
    assert writing.get() == (OK, "written")
    assert count(file) == 10


class LockedHalfway(list[tuple[int]]):
    """A list of parameters; during the iteration over it, another connection takes the lock."""

    def __init__(self, other: sqlite3.Connection) -> None:
        super().__init__((number,) for number in range(4))
        self.other = other

    def __iter__(self) -> Iterator[tuple[int]]:
        for parameters in super().__iter__():
            if parameters == (2,):
                self.other.execute("begin immediate")
            yield parameters


def test_rows_that_are_committed_one_by_one_are_not_written_twice_either(serve, other, file) -> None:
    def work(session: sqlite3.Connection, path: str) -> None:
        gevent.spawn_later(0.1, other.execute, "rollback")
        session.executemany("insert into note values (?)", LockedHalfway(other))

    assert serve(work, {"isolation_level": None})()[0] == FAILED
    gevent.sleep(0.1)
    assert count(file) == 2


def test_an_error_for_which_waiting_is_no_remedy_comes_at_once(serve) -> None:
    asking = serve(lambda session, path: session.execute("select * from nowhere"))
    began = time.monotonic()
    assert asking()[0] == FAILED
    assert time.monotonic() - began < 2


# Deadlines.


@pytest.mark.parametrize(
    "run",
    [
        lambda session: session.execute(NEVER_ENDING.format("count(*)")),
        lambda session: session.execute(NEVER_ENDING.format("i")).fetchall(),
        lambda session: list(session.execute(NEVER_ENDING.format("i") + " where i % 1000000 = 0")),
        lambda session: session.execute(NEVER_ENDING.format("i") + " where i < 2 or i < 1").fetchmany(2),
    ],
    ids=["execute", "fetchall", "iterating", "fetchmany"],
)
@pytest.mark.parametrize("interrupting", [True, False], ids=["with the watchdog", "without it"])
def test_a_statement_ends_at_the_deadline(serve, run, interrupting) -> None:
    options = {} if interrupting else {"interrupt_signal": None}
    asking = serve(lambda session, path: run(session) if path == "/long" else "yes", **options)
    began = time.monotonic()
    assert asking("/long", seconds=0.3)[0] == LATE
    assert time.monotonic() - began < 2
    assert asking() == (OK, "yes")


def test_one_whose_deadline_was_extended_goes_on(serve) -> None:
    def work(session: sqlite3.Connection, path: str) -> str:
        extend_deadline(8)
        statement = NEVER_ENDING.format("count(*)").replace("from n)", "from n where i < 3000000)")
        began = time.monotonic()
        (number,) = session.execute(statement).fetchone()
        assert time.monotonic() - began > 0.1
        return str(number)

    assert serve(work, request_timeout_seconds=0.1, max_request_timeout_seconds=10)() == (OK, "3000000")


# State that a request leaves.


def test_what_is_not_committed_is_rolled_back(serve, other) -> None:
    asking = serve(lambda session, path: session.execute("insert into note values (1)").rowcount)
    assert asking() == (OK, "1")
    # The lock is free.
    other.execute("insert into note values (2)")
    assert other.execute("select n from note").fetchall() == [(2,)]


def test_a_cursor_left_open_holds_no_lock(serve, other, file) -> None:
    kept: list[Any] = []

    def work(session: sqlite3.Connection, path: str) -> str:
        kept.append(session.execute("select * from note"))
        return str(kept[-1].fetchone())

    other.executemany("insert into note values (?)", [(1,), (2,)])
    assert serve(work)() == (OK, "(1,)")
    other.execute("drop table note")
    with pytest.raises(sqlite3.ProgrammingError):
        kept[0].fetchone()
    other.execute("create table note (n)")


def test_with_a_session_commits_and_rolls_back_as_ever(serve, file) -> None:
    def work(session: sqlite3.Connection, path: str) -> str:
        with session:
            session.execute("insert into note values (1)")
        with suppress(ZeroDivisionError), session:
            session.execute("insert into note values (2)")
            raise ZeroDivisionError
        assert not session.in_transaction
        return "done"

    assert serve(work)() == (OK, "done")
    assert count(file) == 1


def test_a_file_that_was_replaced_is_opened_anew(serve, file) -> None:
    asking = serve(lambda session, path: session.execute("select count(*) from note").fetchone()[0])
    assert asking() == (OK, "0")
    new = sqlite3.connect(file.with_suffix(".new"))
    new.execute("create table note (n)")
    new.execute("insert into note values (1)")
    new.commit()
    new.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    file.with_suffix(".new").replace(file)
    assert asking() == (OK, "1")


def test_it_works_where_nothing_is_patched_and_where_all_is(file) -> None:
    program = f"""
from intralb_gevent.integrations.sqlite3 import SQLiteSessions
source = SQLiteSessions({str(file)!r})
session = source.open(1)
source.begin(session, 5)
session.execute("insert into note values (1)")
session.commit()
source.reset(session)
assert source.check(session)
source.close(session)
try:
    usable = source.check(session)
except Exception:
    usable = False
assert not usable
"""
    for before in ("", "from gevent import monkey; monkey.patch_all()"):
        subprocess.run([sys.executable, "-W", "error", "-c", before + program], check=True, timeout=30)
    assert count(file) == 2


def test_its_factory_is_its_own_and_the_error_says_what_to_do() -> None:
    with pytest.raises(OptionError, match="extend its open"):
        SQLiteSessions(":memory:", factory=sqlite3.Connection)


def test_its_representation_shows_the_file() -> None:
    assert repr(SQLiteSessions(Path("x") / "notes.sqlite3")) == "<SQLiteSessions 'x/notes.sqlite3' timeout=5.0>"
