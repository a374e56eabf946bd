"""A slow page: its query is cut in the middle, in the database too, and others go on (Flask-SQLAlchemy, PostgreSQL).

/slow asks the database for something that takes 30 seconds, but each page has 2. It is answered 504 then, the database
stops working on it, and its transaction is rolled back. /running lists what the database is doing for this process:
ask it while /slow is being waited for, and once more afterwards. It says how many connections are in use, its own
included.

python examples/slow_page_flask.py --database postgresql://postgres@127.0.0.1:5432/test
curl -i http://127.0.0.1:8080/slow &
curl http://127.0.0.1:8080/running
sleep 2; curl http://127.0.0.1:8080/running
"""

# ruff: noqa: E402 - gevent has to patch before anything else is imported
from gevent import monkey

monkey.patch_all()

import argparse
import os

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import make_url, text

from intralb_gevent import LoadBalancer, Options, WSGIServer, graceful_shutdown, protect

NAME = f"slow_page_flask-{os.getpid()}"
SECONDS, SLOTS = 2, 10
RUNNING = """
    select query from pg_stat_activity
    where application_name = :name and state <> 'idle' and pid <> pg_backend_pid()
"""

app = Flask(__name__)
db = SQLAlchemy()


@app.get("/slow")
def slow():
    db.session.execute(text("select pg_sleep(30)"))
    return "Nobody has ever read this.\n"


@app.get("/running")
def running():
    queries = db.session.scalars(text(RUNNING), {"name": NAME}).all()
    return {"connections": db.engine.pool.checkedout(), "running": list(queries)}


def configure(database):
    app.config["SQLALCHEMY_DATABASE_URI"] = make_url(database).set(drivername="postgresql+psycopg")
    # A connection for every slot: no request that was let in waits for one.
    sizes = {"pool_size": SLOTS, "max_overflow": 0, "pool_pre_ping": True}
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {**sizes, "connect_args": {"application_name": NAME}}
    db.init_app(app)
    # This is all: Flask-SQLAlchemy drops the connection of a request that is cut, and what it was doing is ended, too.
    protect()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="127.0.0.1:8080", metavar="HOST:PORT")
    parser.add_argument("--database", default="postgresql://postgres@127.0.0.1:5432/test", metavar="URL")
    arguments = parser.parse_args()
    configure(arguments.database)
    options = Options(max_workers=1, max_concurrent_per_router=SLOTS, request_timeout_seconds=SECONDS)
    server = WSGIServer(arguments.bind, LoadBalancer(app, options))
    graceful_shutdown(server)
    server.start()
    print(f"listening on http://{server.server_host}:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    finally:
        with app.app_context():
            db.engine.dispose()
