"""Give each slot its own SQLAlchemy session, which is clean when a request starts (Flask, SQLite).

A slot opens its session when a request first uses one, prints a line, and keeps the session. After each request, the
session is rolled back, so changes that a page did not commit are lost, and the next request does not see them.

python examples/database_sessions.py
curl -d text=kept http://127.0.0.1:8080/notes
curl -d text=lost http://127.0.0.1:8080/forgetful
curl http://127.0.0.1:8080/notes
"""

# ruff: noqa: E402 - gevent must patch before other imports
from gevent import monkey

monkey.patch_all()

import argparse
import tempfile

from flask import Flask, request
from sqlalchemy import create_engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from intralb_gevent import LoadBalancer, Options, WSGIServer, current_session, graceful_shutdown

WORKERS, SLOTS = 2, 5

app = Flask(__name__)


class Base(DeclarativeBase):
    """Base class of the tables."""


class Note(Base):
    """One note; no two have the same text."""

    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


@app.get("/notes")
def list_notes():
    session = current_session()
    return {"notes": list(session.scalars(select(Note.text).order_by(Note.id))), "worker": session.info["worker"]}


@app.post("/notes")
def add_note():
    current_session().add(Note(text=request.form["text"]))
    current_session().commit()
    return list_notes(), 201


@app.post("/forgetful")
def add_note_and_forget_to_commit():
    current_session().add(Note(text=request.form["text"]))
    return list_notes()


@app.errorhandler(IntegrityError)
def refuse_second_note(error):
    # The session cannot be used until it is rolled back; the balancer rolls it back after each request.
    return {"error": "There is this note already."}, 409


def open_session(engine, worker_id):
    print(f"opened a session for worker {worker_id}", flush=True)
    return Session(engine, info={"worker": worker_id})


def serve(bind, engine):
    options = Options(
        min_workers=WORKERS,
        max_workers=WORKERS,
        max_concurrent_per_router=SLOTS,
        db_init_func=lambda worker_id: open_session(engine, worker_id),
        # Unlike close(), invalidate() also drops the connection: after an abort, a response may be partly unread.
        db_close_func=Session.invalidate,
    )
    server = WSGIServer(bind, LoadBalancer(app, options))
    graceful_shutdown(server)
    server.start()
    print(f"listening on http://{server.server_host}:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="127.0.0.1:8080", metavar="HOST:PORT")
    with tempfile.TemporaryDirectory() as directory:
        # Create one connection per slot, so that no admitted request waits for a connection.
        engine = create_engine(f"sqlite:///{directory}/notes", pool_size=WORKERS * SLOTS, max_overflow=0)
        Base.metadata.create_all(engine)
        try:
            serve(parser.parse_args().bind, engine)
        finally:
            engine.dispose()
