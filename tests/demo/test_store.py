"""Tests of notes in SQLite: creating notes, limits, a balancer's sessions, and connections that end with a thread."""

import sqlite3
import threading

import pytest

from intralb_gevent.demo import application, make_application, open_session, store


@pytest.fixture
def named(path, monkeypatch):
    """Set the environment variable to the path of the database file."""
    monkeypatch.setenv("INTRALB_DEMO_DATABASE", path)
    return path


def test_the_file_is_created_with_a_write_ahead_log_and_kept_as_it_is_later(path, new_client):
    new_client(make_application(path)).post("/notes", {"text": "stays"})
    assert "stays" in new_client(make_application(path)).get("/notes").text
    connection = store.open_connection(path)
    assert connection.execute("PRAGMA journal_mode").fetchall()[0][0] == "wal"
    assert store.count(connection) == 4
    connection.close()


def test_a_file_in_no_directory_is_refused_by_name_with_the_remedy(tmp_path):
    with pytest.raises(sqlite3.OperationalError, match=r"missing/notes\.sqlite3.*INTRALB_DEMO_DATABASE"):
        make_application(str(tmp_path / "missing" / "notes.sqlite3"))


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear reader, this is not a database. " * 20)
    with pytest.raises(sqlite3.DatabaseError, match=r"letter\.txt.*not a database"):
        make_application(str(tmp_path / "letter.txt"))


def test_a_new_file_may_be_opened_by_many_at_once(tmp_path):
    problems = []

    def create(path, ready):
        ready.wait()
        try:
            make_application(path)
        except sqlite3.Error as error:
            problems.append(error)

    for number in range(10):
        path, ready = str(tmp_path / f"{number}.sqlite3"), threading.Barrier(6)
        threads = [threading.Thread(target=create, args=(path, ready)) for _ in range(6)]
        run(threads)
        connection = store.open_connection(path)
        assert store.count(connection) == 3
        connection.close()
    assert problems == []


def test_a_new_file_that_another_process_is_preparing_is_waited_for(path, monkeypatch):
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("intralb_gevent.demo.store.time.sleep", lambda seconds: other.rollback())
    store.open_connection(path).close()
    assert not other.in_transaction
    other.close()


def run(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)


def test_the_oldest_notes_go_when_there_are_too_many(path, monkeypatch):
    monkeypatch.setattr(store, "KEPT", 5)
    connection = store.open_connection(path)
    for number in range(9):
        store.write(connection, f"note {number}", "Ada")
    assert [note.text for note in store.latest(connection, "")] == [f"note {number}" for number in (8, 7, 6, 5, 4)]
    connection.close()


def test_each_thread_has_its_own_connection_closed_when_it_ends(path):
    connections = store.ConnectionPerThread(path)
    taken = []
    run([threading.Thread(target=lambda: taken.extend([connections.current(), connections.current()]))])
    assert taken[0] is taken[1]
    assert connections.current() is not taken[0]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        taken[0].execute("SELECT 1")


def test_the_ready_made_application_uses_the_named_file_from_its_first_request_on(named, tmp_path, new_client):
    assert list(tmp_path.iterdir()) == []
    assert new_client(application).post("/notes", {"text": "by the variable"}).status == 303
    assert "by the variable" in new_client(make_application(named)).get("/notes").text
    assert '<th scope="row">notes</th><td>1</td>' in new_client(application).get("/status").text


def test_without_the_variable_the_file_is_in_the_temporary_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("INTRALB_DEMO_DATABASE", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    open_session(0).close()
    assert [found.name[:13] for found in tmp_path.glob("*.sqlite3")] == ["intralb-demo-"]


def test_a_session_is_on_the_named_file_and_reads_columns_by_name(named, new_client):
    new_client(application).post("/notes", {"text": "seen by the session"})
    session = open_session(3)
    row = session.execute("SELECT text FROM notes ORDER BY id DESC LIMIT 1").fetchall()[0]
    assert row["text"] == "seen by the session"
    session.close()


def test_the_session_of_the_balancer_is_used_when_there_is_one(path, tmp_path, new_client, client):
    session = store.open_connection(str(tmp_path / "session.sqlite3"))
    lent = new_client(client._application, **{"intralb.session": session})
    lent.post("/notes", {"text": "through the session"})
    assert "through the session" in lent.get("/notes").text
    assert "through the session" in lent.get("/notes/4").text
    assert "through the session" not in client.get("/notes").text
    assert not session.in_transaction
    session.close()


class Ended(BaseException):
    """An exception that ends a request midway, as an abort does."""


class EndedBeforeCommit(sqlite3.Connection):
    def commit(self):
        raise Ended


def test_a_request_ended_in_the_middle_of_writing_leaves_no_lock_and_no_note(path, new_client, client):
    session = sqlite3.connect(path, factory=EndedBeforeCommit)
    with pytest.raises(Ended):
        client.post("/notes", {"text": "half written"}, **{"intralb.session": session})
    assert client.post("/notes", {"text": "written after"}).status == 303
    text = client.get("/notes").text
    assert "written after" in text
    assert "half written" not in text
    session.close()
