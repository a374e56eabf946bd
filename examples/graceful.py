"""Shut down gracefully: SIGTERM loses no request (a Django project in one file).

While a slow page is running, send SIGTERM or press Ctrl-C. The listener closes immediately, the page is still answered,
and the process exits with code 0. A page that runs longer than the grace period is aborted, and the exit code is 1. A
second signal also aborts running pages.

python examples/graceful.py --grace 10
curl -i http://127.0.0.1:8080/slow/5    # is answered
curl -i http://127.0.0.1:8080/slow/30   # is cut
"""

# ruff: noqa: E402 - gevent must patch before other imports
from gevent import monkey

monkey.patch_all()

import argparse
import time

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

from intralb_gevent import LoadBalancer, Options, WSGIServer, graceful_shutdown

settings.configure(ALLOWED_HOSTS=["localhost", "127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="for this example only")


def slow(request, seconds):
    print(f"begun: {request.path}", flush=True)
    time.sleep(seconds)
    print(f"done: {request.path}", flush=True)
    return HttpResponse(f"These were {seconds} seconds.\n", content_type="text/plain; charset=utf-8")


urlpatterns = [path("slow/<int:seconds>", slow)]

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="127.0.0.1:8080", metavar="HOST:PORT")
    parser.add_argument("--grace", default=10, type=float, metavar="SECONDS")
    arguments = parser.parse_args()
    options = Options(graceful_timeout_seconds=arguments.grace, request_timeout_seconds=60)
    balancer = LoadBalancer(get_wsgi_application(), options)
    server = WSGIServer(arguments.bind, balancer)
    graceful_shutdown(server)
    server.start()
    print(f"listening on http://{server.server_host}:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    finally:
        outcomes = balancer.snapshot().outcomes
        print(f"shut down: {outcomes['completed']} answered, {outcomes['killed']} cut", flush=True)
