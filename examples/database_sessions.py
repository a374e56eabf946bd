"""Database sessions per worker: every slot has its own SQLAlchemy session, clean for each request (Flask, SQLite).

Slots open their session when a request first asks for it and keep it: watch the lines that say so. After each request
the session is rolled back, so what a page forgot to commit is neither kept nor seen by the next one.

python examples/database_sessions.py
curl -d text=kept http://127.0.0.1:8080/notes
curl -d text=lost http://127.0.0.1:8080/forgetful
curl http://127.0.0.1:8080/notes
"""

# ruff: noqa: E402 - gevent has to patch before anything else is imported
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
    """What SQLAlchemy knows of the tables."""


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
    # Without the rollback that follows, this session would be of no use to the next request.
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
        # Unlike close(), it drops the connection too, which may be in the middle of an answer when a request was cut.
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
        # A connection for every slot: no request that was let in waits for one.
        engine = create_engine(f"sqlite:///{directory}/notes", pool_size=WORKERS * SLOTS, max_overflow=0)
        Base.metadata.create_all(engine)
        try:
            serve(parser.parse_args().bind, engine)
        finally:
            engine.dispose()
