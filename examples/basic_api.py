"""Serve a basic API: an unchanged Flask application behind the balancer.

python examples/basic_api.py
curl http://127.0.0.1:8080/books
curl --json '{"title": "Emma"}' http://127.0.0.1:8080/books
curl http://127.0.0.1:8080/books/2/price    # waits for another service without delaying other requests
"""

# ruff: noqa: E402 - gevent must patch before other imports
from gevent import monkey

monkey.patch_all()

import argparse
import time

from flask import Flask, abort, request
from werkzeug.exceptions import HTTPException

from intralb_gevent import LoadBalancer, Options, WSGIServer, graceful_shutdown

app = Flask(__name__)
titles = ["Middlemarch"]


@app.get("/books")
def list_books():
    return {"books": [{"id": number, "title": title} for number, title in enumerate(titles, start=1)]}


@app.post("/books")
def add_book():
    titles.append(request.get_json().get("title") or abort(400, "A book needs a title."))
    return {"id": len(titles), "title": titles[-1]}, 201


@app.get("/books/<int:number>/price")
def show_price(number):
    if not 0 < number <= len(titles):
        abort(404, f"There is no book {number}.")
    time.sleep(0.3)
    return {"id": number, "price": 10 + number}


@app.errorhandler(HTTPException)
def explain(error):
    return {"error": error.description}, error.code


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="127.0.0.1:8080", metavar="HOST:PORT")
    options = Options(max_concurrent_per_router=50, queue_size=50, request_timeout_seconds=10, enable_logging=True)
    server = WSGIServer(parser.parse_args().bind, LoadBalancer(app, options))
    graceful_shutdown(server)
    server.start()
    print(f"listening on http://{server.server_host}:{server.server_port}", flush=True)
    server.serve_forever()
