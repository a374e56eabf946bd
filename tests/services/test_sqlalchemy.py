"""Tests of SQLAlchemy with each driver: effects of aborts, outages and deadlines on its pool and on the server."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from typing import Any

import flask
import flask_sqlalchemy
import gevent
import gevent.event
import pytest
import sqlalchemy
from gevent.server import StreamServer
from sqlalchemy import orm, text
from sqlalchemy.pool import NullPool

from intralb_gevent import OptionError, current_session, extend_deadline
from intralb_gevent.integrations.drivers import end_statement
from intralb_gevent.integrations.sqlalchemy import SQLAlchemySessions, protect

DRIVERS = {
    "psycopg": ("postgresql", "postgresql+psycopg"),
    "psycopg2": ("postgresql", "postgresql+psycopg2"),
    "pymysql": ("mariadb", "mysql+pymysql"),
}
PID = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}
SLEEP = {"postgresql": "select pg_sleep(30)", "mariadb": "select sleep(30)"}
RUNNING = {
    "postgresql": "select count(*) from pg_stat_activity where pid = :pid and state = 'active'",
    "mariadb": "select count(*) from information_schema.processlist where id = :pid and command = 'Query'",
}
TIMEOUT = {
    "postgresql": "select setting::int / 1000.0 from pg_settings where name = 'statement_timeout'",
    "mariadb": "select @@max_statement_time",
}


def test_aborts_at_random_instants_over_psycopg(postgresql, storm) -> None:
    storm("sqlalchemy_psycopg")


def test_aborts_at_random_instants_over_pymysql(mariadb, storm) -> None:
    storm("sqlalchemy_pymysql")


def test_aborts_at_random_instants_over_psycopg2(postgresql, storm) -> None:
    storm("sqlalchemy_psycopg2", aborted=200, normal=1000)


class Database:
    """A database server, accessed through one driver."""

    def __init__(self, address: str, driver: str) -> None:
        self.server, name = DRIVERS[driver]
        # Disable TLS for PyMySQL; otherwise, each connection would first read the system's certificates.
        query = {"ssl_disabled": "true"} if driver == "pymysql" else {}
        self.url = sqlalchemy.make_url(address).set(drivername=name).update_query_dict(query)
        self._own = sqlalchemy.create_engine(self.url, poolclass=NullPool)

    def running(self, pid: int) -> bool:
        with self._own.connect() as connection:
            return bool(connection.scalar(text(RUNNING[self.server]), {"pid": pid}))

    def pid(self, session: Any) -> int:
        return session.scalar(text(PID[self.server]))

    def sleep(self, session: Any) -> None:
        session.execute(text(SLEEP[self.server]))


@pytest.fixture(params=DRIVERS)
def database(request, patched) -> Database:
    return Database(request.getfixturevalue(DRIVERS[request.param][0]), request.param)


@pytest.fixture
def over_postgresql(patched, postgresql) -> Database:
    return Database(postgresql, "psycopg")


def paths(**views: Callable[[], object]) -> Any:
    """Return an application that answers /NAME with the result of the view with this name."""

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(views[environ["PATH_INFO"].lstrip("/")]()).encode()]

    return application


def one_slot(balance, application: Any, source: SQLAlchemySessions, **options: Any) -> Any:
    size = {"max_workers": 1, "max_concurrent_per_router": 1, "request_timeout_seconds": 1}
    return balance(application, **size, db_init_func=source, **options)


def test_an_aborted_statement_is_gone_from_the_server_and_from_the_pool(balance, ask, database, eventually) -> None:
    pids = []

    def slow() -> None:
        pids.append(database.pid(current_session()))
        gevent.spawn_later(0.1, lambda: pids.append(database.running(pids[0])))
        database.sleep(current_session())

    source = SQLAlchemySessions(database.url)
    balancer = one_slot(balance, paths(slow=slow, pid=lambda: database.pid(current_session())), source)
    assert ask(balancer, "/slow")[0] == "504 Gateway Timeout"
    ended = time.monotonic()
    eventually(lambda: not database.running(pids[0]))
    assert time.monotonic() - ended < 1
    assert pids[1], "the statement was not running before"
    eventually(lambda: source.engine.pool.checkedout() == 0)
    status, pid = ask(balancer, "/pid")
    assert (status, int(pid) != pids[0]) == ("200 OK", True)


def test_a_connection_that_was_held_at_an_abort_is_not_used_again(balance, ask, database, eventually) -> None:
    pids = []

    def between() -> None:
        pids.append(database.pid(current_session()))
        gevent.sleep(30)

    source = SQLAlchemySessions(database.url)
    balancer = one_slot(balance, paths(between=between, pid=lambda: database.pid(current_session())), source)
    assert ask(balancer, "/between")[0] == "504 Gateway Timeout"
    eventually(lambda: source.engine.pool.checkedout() == 0)
    assert int(ask(balancer, "/pid")[1]) not in pids


def test_a_slot_keeps_its_session_and_the_pool_the_connection(balance, ask, database, eventually) -> None:
    seen = []

    def pid() -> int:
        seen.append((current_session(), current_session().info["worker"], source.engine.pool.checkedout()))
        return database.pid(current_session())

    source = SQLAlchemySessions(database.url)
    balancer = one_slot(balance, paths(pid=pid), source)
    answers = [ask(balancer, "/pid") for _ in range(3)]
    assert len(set(answers)) == 1
    assert seen == [(seen[0][0], 1, 0)] * 3
    eventually(lambda: source.engine.pool.checkedin() == 1)
    assert "sessions=1, Pool size: 1  Connections in pool: 1" in repr(source)
    balancer.drain(1)
    assert source.engine.pool.checkedin() == 0


def test_its_password_is_not_shown(patched) -> None:
    assert "secret" not in repr(SQLAlchemySessions("postgresql+psycopg://me:secret@127.0.0.1/notes"))


def test_what_was_not_committed_is_forgotten(balance, ask, tmp_path, patched) -> None:
    Base = orm.declarative_base()

    class Note(Base):
        __tablename__ = "notes"
        id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)

    def add() -> int:
        session = current_session()
        assert len(session.identity_map) == 0
        session.add(Note())
        session.flush()
        return session.query(Note).count()

    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/notes", pool_size=1, max_overflow=0)
    Base.metadata.create_all(engine)
    balancer = one_slot(balance, paths(add=add), SQLAlchemySessions(engine))
    assert [ask(balancer, "/add")[1] for _ in range(3)] == [b"1"] * 3
    engine.dispose()


def test_the_pool_has_a_connection_for_each_slot_and_no_more(balance, patched, tmp_path) -> None:
    source = SQLAlchemySessions(f"sqlite:///{tmp_path}/notes", engine_options={"pool_recycle": 60})
    with pytest.raises(RuntimeError, match="pass your own engine"):
        _ = source.engine
    balance(paths(), max_workers=3, max_concurrent_per_router=7, db_init_func=source)
    pool = source.engine.pool
    assert (pool.size(), pool._max_overflow, pool._recycle, pool.checkedin()) == (21, 0, 60, 0)


@pytest.mark.parametrize(("size", "overflow", "short"), [(2, 1, True), (2, 2, False), (2, -1, False), (0, 0, False)])
def test_an_engine_with_too_small_a_pool_is_told_of(balance, patched, tmp_path, caplog, size, overflow, short) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/notes", pool_size=size, max_overflow=overflow)
    with caplog.at_level(logging.WARNING):
        balance(paths(), max_workers=2, max_concurrent_per_router=2, db_init_func=SQLAlchemySessions(engine))
    assert ("lends 3 connections, and there are 4 slots" in caplog.text) == short


def test_an_outage_costs_errors_only_while_it_lasts(
    balance, ask, over_postgresql, forwarder, postgresql, caplog
) -> None:
    way = forwarder(postgresql)
    source = SQLAlchemySessions(Database(way.url, "psycopg").url)
    balancer = one_slot(balance, paths(pid=lambda: over_postgresql.pid(current_session())), source)
    first = ask(balancer, "/pid")
    way.go_away()
    assert [ask(balancer, "/pid")[0] for _ in range(2)] == ["500 Internal Server Error"] * 2
    way.come_back()
    second = ask(balancer, "/pid")
    assert (first[0], second[0], first[1] != second[1]) == ("200 OK", "200 OK", True)


def test_the_server_can_be_told_of_the_deadline_in_each_transaction(balance, ask, database) -> None:
    def timeouts() -> str:
        asked = text(TIMEOUT[database.server])
        seen = [current_session().scalar(asked)]
        current_session().commit()
        gevent.sleep(0.05)
        seen.append(current_session().scalar(asked))
        current_session().commit()
        extend_deadline(3)
        return f"{seen[0]} {seen[1]} {current_session().scalar(asked)}"

    source = SQLAlchemySessions(database.url, statement_timeout=True)
    answer = ask(one_slot(balance, paths(timeouts=timeouts), source), "/timeouts")[1]
    first, second, third = map(float, answer.split())
    assert 0 < second <= first - 0.05 < 1
    assert 2 < third <= 3


def test_where_there_is_no_such_timeout_it_is_refused(patched) -> None:
    with pytest.raises(OptionError, match="statement_timeout: cannot be set for sqlite"):
        SQLAlchemySessions(sqlalchemy.create_engine("sqlite://"), statement_timeout=True)


def test_an_interrupted_connect_leaves_nothing_to_the_garbage_collector(database) -> None:
    accepted, closed = gevent.event.Event(), gevent.event.Event()

    def be_silent(client: Any, address: object) -> None:
        accepted.set()
        while client.recv(1024):
            pass
        closed.set()

    server = StreamServer(("127.0.0.1", 0), be_silent)
    server.start()
    url = database.url.set(host="127.0.0.1", port=server.server_port)
    engine = sqlalchemy.create_engine(url)
    SQLAlchemySessions(engine)
    gc.disable()
    try:
        connecting = gevent.spawn(engine.connect)
        assert accepted.wait(5)
        connecting.kill()
        assert closed.wait(5)
    finally:
        gc.enable()
        server.stop()


def test_flask_sqlalchemy_needs_no_source_but_protection(balance, ask, over_postgresql, eventually) -> None:
    app, db, pids = flask.Flask(__name__), flask_sqlalchemy.SQLAlchemy(), []
    app.config["SQLALCHEMY_DATABASE_URI"] = over_postgresql.url
    db.init_app(app)
    protect()

    @app.get("/slow")
    def slow() -> str:
        pids.append(over_postgresql.pid(db.session))
        over_postgresql.sleep(db.session)
        return ""

    @app.get("/pid")
    def pid() -> str:
        return str(over_postgresql.pid(db.session))

    environ = {"wsgi.url_scheme": "http", "SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.errors": None}
    balancer = balance(app, request_timeout_seconds=1)
    assert ask(balancer, "/slow", **environ)[0] == "504 Gateway Timeout"
    ended = time.monotonic()
    eventually(lambda: not over_postgresql.running(pids[0]))
    assert time.monotonic() - ended < 1
    assert int(ask(balancer, "/pid", **environ)[1]) not in pids
    with app.app_context():
        eventually(lambda: db.engine.pool.checkedout() == 0)
        db.engine.dispose()


def test_a_clean_up_that_is_interrupted_goes_on(database, eventually) -> None:
    SQLAlchemySessions(sqlalchemy.create_engine(database.url))
    engine = sqlalchemy.create_engine(database.url, poolclass=NullPool)
    connection = engine.connect()
    pid = database.pid(connection)
    with gevent.Timeout(0.1, False):
        connection.connection.dbapi_connection.cursor().execute(SLEEP[database.server])
    assert database.running(pid)
    ending = gevent.spawn(end_statement, connection.connection.dbapi_connection)
    gevent.sleep(0)
    ending.kill()
    connection.invalidate()
    connection.close()
    eventually(lambda: not database.running(pid))
