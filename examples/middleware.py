"""Run middleware before the balancer: a request that it answers takes no slot, and is answered even if all are busy.

`balance_load()` returns a WSGI callable, so any middleware can wrap it; the server receives the balancer separately. In
this example, one middleware gives each request an id, and another rejects requests without an API key. The pool has a
single slot and no queue. While the first curl runs, the balancer rejects the second, and the middleware rejects the
third.

python examples/middleware.py
curl -N -H 'X-API-Key: ada-7315' http://127.0.0.1:8080/ &
curl -i -H 'X-API-Key: ada-7315' http://127.0.0.1:8080/
curl -i http://127.0.0.1:8080/
"""

# ruff: noqa: E402 - gevent must patch before other imports
from gevent import monkey

monkey.patch_all()

import argparse
import time
import uuid

from intralb_gevent import LoadBalancer, Options, WSGIServer, graceful_shutdown

CUSTOMERS = {"ada-7315": "Ada", "grace-2202": "Grace"}


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    yield f"A report for {environ['example.customer']}, request {environ['example.request_id']}:\n".encode()
    time.sleep(2)
    yield b"all is well.\n"


def with_request_id(following):
    def middleware(environ, start_response):
        request_id = environ["example.request_id"] = uuid.uuid4().hex

        def start_with_id(status, headers, *exc_info):
            # The balancer's own responses have an id already.
            others = [(name, value) for name, value in headers if name.lower() != "x-request-id"]
            return start_response(status, [*others, ("X-Request-Id", request_id)], *exc_info)

        return following(environ, start_with_id)

    return middleware


def with_api_key(following):
    def middleware(environ, start_response):
        environ["example.customer"] = CUSTOMERS.get(environ.get("HTTP_X_API_KEY"))
        if environ["example.customer"] is None:
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"Send a valid X-API-Key.\n"]
        return following(environ, start_response)

    return middleware


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="127.0.0.1:8080", metavar="HOST:PORT")
    balancer = LoadBalancer(application, Options(max_workers=1, max_concurrent_per_router=1, queue_size=0))
    outermost = with_request_id(with_api_key(balancer.balance_load()))
    server = WSGIServer(parser.parse_args().bind, outermost, balancer=balancer)
    graceful_shutdown(server)
    server.start()
    print(f"listening on http://{server.server_host}:{server.server_port}", flush=True)
    server.serve_forever()
