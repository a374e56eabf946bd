"""Abort the query of a slow page, also in the database, while other requests go on (Flask-SQLAlchemy, PostgreSQL).

/slow runs a query of 30 seconds, but requests have a deadline of 2 seconds. At the deadline, the request is answered
504, the database stops the query, and its transaction is rolled back. /running lists the queries that the database runs
for this process; request it while /slow is running, and again afterwards. It also shows the number of connections in
use, including its own.

python examples/slow_page_flask.py --database postgresql://postgres@127.0.0.1:5432/test
curl -i http://127.0.0.1:8080/slow &
curl http://127.0.0.1:8080/running
sleep 2; curl http://127.0.0.1:8080/running
"""

# ruff: noqa: E402 - gevent must patch before other imports
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
    # Create one connection per slot, so that no admitted request waits for a connection.
    sizes = {"pool_size": SLOTS, "max_overflow": 0, "pool_pre_ping": True}
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {**sizes, "connect_args": {"application_name": NAME}}
    db.init_app(app)
    # This call suffices: when a request is aborted, its query is cancelled, and its connection is dropped.
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
