"""A session belongs to one slot. It is opened at first use, reset for each job, and never used after an abort."""

import random
import sqlite3
from collections import Counter

import gevent
import pytest
import sqlalchemy
import sqlalchemy.orm
from gevent.event import Event

from intralb_gevent import OptionError, Options, Route, SessionSource, SessionUnavailable, current_session
from intralb_gevent.errors import NoCurrentJob
from intralb_gevent.pool.channel import Channel


class Database:
    """Counts opened and closed sessions, and concurrent users of a session."""

    def __init__(self) -> None:
        self.open: set[Session] = set()
        self.opened = 0
        self.log: list[str] = []

    def connect(self, worker_id: int) -> "Session":
        self.opened += 1
        session = Session(self, worker_id)
        self.open.add(session)
        return session


class Session:
    def __init__(self, database: Database, worker_id: int) -> None:
        self.database = database
        self.worker_id = worker_id
        self.users = 0
        self.aborted = False

    def query(self, seconds: float) -> None:
        assert self in self.database.open, "used after it was closed"
        assert not self.aborted, "used after an abort"
        self.users += 1
        assert self.users == 1, "used by two jobs at once"
        try:
            gevent.sleep(seconds)
        except BaseException:
            self.aborted = True
            raise
        finally:
            self.users -= 1

    def rollback(self) -> None:
        self.database.log.append("rollback")

    def close(self) -> None:
        self.database.log.append("close")
        self.database.open.remove(self)


def answer(start_response, body: bytes = b"") -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


def test_it_is_opened_on_first_use_once_for_a_slot_and_rolled_back_after_each_job(balance, asking) -> None:
    database = Database()

    def application(environ, start_response):
        if environ["PATH_INFO"] != "/without":
            assert current_session() is current_session()
        return answer(start_response)

    balancer = balance(application, max_workers=1, db_init_func=database.connect)
    gevent.joinall(asking(balancer, "/without"))
    assert database.opened == 0
    for _ in range(3):
        gevent.joinall(asking(balancer, "/with"))
    gevent.joinall(asking(balancer, "/without"))
    assert database.opened == 1
    assert database.log == ["rollback"] * 3
    assert balancer.snapshot().sessions == 1


def test_the_environ_has_it_too(balance, asking) -> None:
    seen = []

    def application(environ, start_response):
        seen.append(environ["intralb.session"].worker_id == environ["intralb.worker"] == current_session().worker_id)
        return answer(start_response)

    balancer = balance(application, db_init_func=Database().connect)
    gevent.joinall(asking(balancer, "/"))
    assert seen == [True]


def test_the_functions_of_the_options_replace_rollback_and_close(balance, asking) -> None:
    log = []

    def application(environ, start_response):
        return answer(start_response, current_session().encode())

    balancer = balance(
        application,
        max_workers=1,
        db_init_func=lambda worker_id: f"session of {worker_id}",
        db_reset_func=lambda session: log.append(("reset", session)),
        db_close_func=lambda session: log.append(("close", session)),
    )
    (request,) = asking(balancer, "/")
    assert request.get().body == b"session of 1"
    balancer.drain(1)
    assert log == [("reset", "session of 1"), ("close", "session of 1")]


def test_a_session_that_cannot_be_reset_is_replaced(balance, asking, caplog) -> None:
    database = Database()

    def application(environ, start_response):
        current_session()
        return answer(start_response)

    def reset(session):
        raise RuntimeError("connection lost")

    balancer = balance(application, max_workers=1, db_init_func=database.connect, db_reset_func=reset)
    for _ in range(2):
        gevent.joinall(asking(balancer, "/"))
    assert database.opened == 2
    assert not database.open
    assert "connection lost" in caplog.text


def test_a_failing_db_init_func_gives_that_request_503_and_the_next_tries_again(balance, asking, caplog) -> None:
    database, failures = Database(), iter([OSError("no route to the database")])

    def connect(worker_id):
        for failure in failures:
            raise failure
        return database.connect(worker_id)

    def application(environ, start_response):
        try:
            current_session()
        except Exception:
            pytest.fail("a framework's error handler must not see it")
        return answer(start_response, b"served")

    balancer = balance(application, max_workers=1, db_init_func=connect)
    (first,) = asking(balancer, "/")
    assert first.get().status == "503 Service Unavailable"
    assert first.get().headers["X-Intralb-Reason"] == "no_session"
    assert "no route to the database" in caplog.text
    (second,) = asking(balancer, "/")
    assert second.get().body == b"served"


def test_an_application_may_do_without_a_session_that_cannot_be_opened(balance, asking) -> None:
    def connect(worker_id):
        raise OSError("no route to the database")

    def application(environ, start_response):
        try:
            current_session()
        except SessionUnavailable:
            return answer(start_response, b"from the cache")

    (request,) = asking(balance(application, db_init_func=connect), "/")
    assert request.get().body == b"from the cache"


def test_outside_a_request_there_is_none_and_the_error_says_what_to_do(balance, asking) -> None:
    errors = []

    def application(environ, start_response):
        def elsewhere():
            with pytest.raises(NoCurrentJob, match="pass the session on"):
                current_session()
            errors.append(True)

        gevent.spawn(elsewhere).join()
        return answer(start_response)

    gevent.joinall(asking(balance(application, db_init_func=Database().connect), "/"))
    with pytest.raises(NoCurrentJob, match="no running request"):
        current_session()
    assert errors == [True]


def test_without_db_init_func_the_error_names_it(balance, asking) -> None:
    def application(environ, start_response):
        with pytest.raises(NoCurrentJob, match="db_init_func"):
            current_session()
        assert "intralb.session" not in environ
        return answer(start_response)

    (request,) = asking(balance(application), "/")
    assert request.get().status == "200 OK"


@pytest.mark.usefixtures("no_collection")
def test_1000_aborted_jobs_leave_as_many_sessions_as_slots_in_use_and_none_is_shared(balance, ask, eventually) -> None:
    database, generator = Database(), random.Random(20)
    balancer = balance(
        lambda environ, start_response: answer(start_response, str(current_session().query(60)).encode()),
        max_concurrent_per_router=25,
        queue_size=200,
        max_workers=4,
        min_workers=4,
        request_timeout_seconds=0.2,
        db_init_func=database.connect,
    )

    def client() -> Counter[str]:
        statuses = Counter[str]()
        for _ in range(10):
            gevent.sleep(generator.random() / 1000)
            statuses[ask(balancer).status] += 1
        return statuses

    clients = [gevent.spawn(client) for _ in range(100)]
    statuses = sum((client.get() for client in clients), Counter[str]())
    assert statuses == {"504 Gateway Timeout": 1000}
    eventually(lambda: not database.open)
    assert database.opened == 1000
    assert balancer.snapshot().sessions == 0


def test_sessions_are_closed_on_shutdown_and_none_is_left_behind(balance, asking) -> None:
    database = Database()
    all_six = Event()

    def application(environ, start_response):
        if len(database.open) == 5:
            all_six.set()
        current_session().query(0.001)
        all_six.wait()
        return answer(start_response)

    balancer = balance(application, max_workers=2, db_init_func=database.connect)
    gevent.joinall(asking(balancer, *"123456"))
    assert len(database.open) == 6
    balancer.drain(1)
    assert not database.open


def test_a_close_that_hangs_is_given_up(balance, asking, monkeypatch, caplog) -> None:
    monkeypatch.setattr("intralb_gevent.pool.session.CLEANUP_SECONDS", 0.02)

    def application(environ, start_response):
        current_session()
        return answer(start_response)

    balancer = balance(
        application, db_init_func=lambda worker_id: object(), db_close_func=lambda session: gevent.sleep(60)
    )
    gevent.joinall(asking(balancer, "/"))
    balancer.drain(1)
    assert "could not close a session" in caplog.text


def test_sqlite3(balance, asking, tmp_path) -> None:
    file = tmp_path / "db.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("create table note (text)")
    connection.close()

    def application(environ, start_response):
        session = environ["intralb.session"]
        session.execute("insert into note values ('x')")
        if environ["PATH_INFO"] == "/commit":
            with session:
                session.execute("insert into note values ('y')")
        (count,) = session.execute("select count(*) from note").fetchone()
        return answer(start_response, str(count).encode())

    balancer = balance(application, max_workers=1, db_init_func=lambda worker_id: sqlite3.connect(file))
    bodies = [asking(balancer, path)[0].get().body for path in ("/forget", "/forget", "/commit", "/forget")]
    assert bodies == [b"1", b"1", b"2", b"3"]


def test_sqlalchemy(balance, asking, tmp_path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'db.sqlite'}", pool_size=5, max_overflow=0)
    table = sqlalchemy.Table("note", sqlalchemy.MetaData(), sqlalchemy.Column("text", sqlalchemy.String))
    table.create(engine)

    def application(environ, start_response):
        session = current_session()
        session.execute(table.insert().values(text="x"))
        if environ["PATH_INFO"] == "/commit":
            session.commit()
        count = session.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(table))
        return answer(start_response, str(count).encode())

    balancer = balance(application, max_workers=1, db_init_func=lambda worker_id: sqlalchemy.orm.Session(engine))
    bodies = [asking(balancer, path)[0].get().body for path in ("/forget", "/commit", "/forget", "/forget")]
    assert bodies == [b"1", b"1", b"2", b"2"]
    assert engine.pool.checkedout() == 0
    balancer.drain(1)
    engine.dispose()


# Sources.


class Source(SessionSource):
    """A session source that records calls of its methods; its sessions are numbers."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.opened = 0
        self.usable = True

    def sized_for(self, sessions: int) -> None:
        self.log.append(f"sized for {sessions}")

    def open(self, worker_id: int) -> int:
        self.opened += 1
        return self.opened

    def check(self, session: int) -> bool:
        self.log.append(f"check {session}")
        return self.usable

    def begin(self, session: int, seconds: float) -> None:
        assert 0 < seconds <= 20
        self.log.append(f"begin {session}")

    def reset(self, session: int) -> None:
        self.log.append(f"reset {session}")

    def discard(self, session: int) -> None:
        self.log.append(f"discard {session}")

    def close(self, session: int) -> None:
        self.log.append(f"close {session}")


@pytest.fixture
def source() -> Source:
    return Source()


def using(environ, start_response):
    """Get the session twice, and respond with both results; for some paths, wait forever."""
    session = current_session()
    if environ["PATH_INFO"] == "/wait":
        Event().wait()
    assert current_session() == session
    return answer(start_response, str(session).encode())


def one_slot(balance, source: Source, **options):
    return balance(
        using,
        **{"max_workers": 1, "max_concurrent_per_router": 1, "request_timeout_seconds": 20} | options,
        db_init_func=source,
    )


def test_a_source_is_asked_in_this_order(balance, ask, source) -> None:
    balancer = one_slot(balance, source)
    assert [ask(balancer).body for _ in range(2)] == [b"1", b"1"]
    balancer.drain(1)
    assert source.log == [
        *("sized for 1", "begin 1", "reset 1"),
        *("check 1", "begin 1", "reset 1"),
        "close 1",
    ]


def test_a_session_that_is_not_good_any_more_is_replaced_before_its_use(balance, ask, source) -> None:
    balancer = one_slot(balance, source)
    ask(balancer)
    source.usable = False
    assert ask(balancer).body == b"2"
    assert source.log[3:] == ["check 1", "discard 1", "begin 2", "reset 2"]


def test_the_check_can_be_left_out(balance, ask, source) -> None:
    balancer = one_slot(balance, source, session_check=False)
    source.usable = False
    assert [ask(balancer).body for _ in range(2)] == [b"1", b"1"]


def test_a_failing_check_means_no(balance, ask, source) -> None:
    balancer = one_slot(balance, source)
    source.usable = None
    source.check = lambda session: 1 / 0
    assert [ask(balancer).body for _ in range(2)] == [b"1", b"2"]


def test_an_interrupted_request_has_its_session_discarded(balance, ask, source) -> None:
    routes = [Route("/wait", request_timeout_seconds=0.05)]
    balancer = one_slot(balance, source, routes=routes)
    assert ask(balancer, "/wait").status == "504 Gateway Timeout"
    assert ask(balancer).body == b"2"
    assert source.log[1:3] == ["begin 1", "discard 1"]


def test_one_that_cannot_be_prepared_is_discarded_and_the_request_answered_503(balance, ask, source, caplog) -> None:
    balancer = one_slot(balance, source)
    ask(balancer)
    source.begin = lambda session, seconds: 1 / 0
    answered = ask(balancer)
    assert (answered.status[:3], answered.headers["X-Intralb-Reason"]) == ("503", "no_session")
    assert source.log[-2:] == ["check 1", "discard 1"]


def test_an_old_session_is_closed_after_its_request(balance, ask, source) -> None:
    balancer = one_slot(balance, source, session_max_age_seconds=1e-6)
    assert [ask(balancer).body for _ in range(2)] == [b"1", b"2"]
    assert source.log[1:4] == ["begin 1", "reset 1", "close 1"]


@pytest.mark.parametrize("limit", ["session_max_idle_seconds", "session_max_age_seconds"])
def test_a_session_that_nobody_uses_is_closed_and_opened_anew(balance, ask, source, eventually, limit) -> None:
    balancer = one_slot(balance, source, **{limit: 0.05})
    ask(balancer)
    assert balancer.snapshot().sessions == 1
    eventually(lambda: balancer.snapshot().sessions == 0)
    assert source.log[-1] == "close 1"
    assert balancer.snapshot().running == 0
    assert ask(balancer).body == b"2"


def test_while_it_is_closed_its_slot_is_not_free_and_nobody_waits_for_another(
    balance, asking, source, eventually
) -> None:
    closing, go_on = Event(), Event()

    def close(session: int) -> None:
        closing.set()
        go_on.wait()

    source.close = close
    balancer = one_slot(balance, source, session_max_idle_seconds=0.01)
    gevent.joinall(asking(balancer, "/"))
    closing.wait()
    (request,) = asking(balancer, "/")
    assert balancer.snapshot().queued == 1
    go_on.set()
    assert request.get().body == b"2"
    assert balancer.snapshot().workers[0].slots == 1


def test_a_slot_that_is_about_to_get_a_job_does_not_close_its_session_first(balance, ask, source, eventually) -> None:
    balancer = one_slot(balance, source, session_max_idle_seconds=1e-6)
    ask(balancer)
    # Submit a request and review the sessions before the next iteration of the hub.
    balancer.submit({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, Channel(lambda *args: None))
    balancer.intake.context.runtime.review()
    eventually(lambda: balancer.snapshot().outcomes["completed"] == 2)
    assert balancer.snapshot().workers[0].slots == 1


def test_the_functions_have_no_part_beside_a_source(source) -> None:
    with pytest.raises(OptionError, match="db_close_func: not allowed beside"):
        Options(db_init_func=source, db_close_func=print)


def test_the_class_of_a_source_is_not_taken_for_one() -> None:
    with pytest.raises(OptionError, match=r"db_init_func: SessionSource is not allowed as a class; pass an instance"):
        Options(db_init_func=SessionSource)
