"""Abort the query of a slow page, also in the database, while other requests go on (Django, PostgreSQL).

/slow runs a query of 30 seconds, but requests have a deadline of 2 seconds. At the deadline, the request is answered
504, the database stops the query, and its transaction is rolled back. /running lists the queries that the database runs
for this process; request it while /slow is running, and again afterwards. It also shows the pid of its own connection,
which the slot keeps for later requests (CONN_MAX_AGE).

python examples/slow_page_django.py --database postgresql://postgres@127.0.0.1:5432/test
curl -i http://127.0.0.1:8080/slow &
curl http://127.0.0.1:8080/running
sleep 2; curl http://127.0.0.1:8080/running
"""

# ruff: noqa: E402 - gevent must patch before other imports
from gevent import monkey

monkey.patch_all()

import argparse
import os
from urllib.parse import urlsplit

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, transaction
from django.http import HttpResponse, JsonResponse
from django.urls import path

from intralb_gevent import LoadBalancer, Options, WSGIServer, graceful_shutdown, protect

NAME = f"slow_page_django-{os.getpid()}"
SECONDS = 2


@transaction.atomic
def slow(request):
    with connection.cursor() as cursor:
        cursor.execute("select pg_sleep(30)")
    return HttpResponse("Nobody has ever read this.\n")


def running(request):
    with connection.cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        (number,) = cursor.fetchone()
        cursor.execute(
            "select query from pg_stat_activity where application_name = %s and state <> 'idle' and pid <> %s",
            [NAME, number],
        )
        return JsonResponse({"connection": number, "running": [query for (query,) in cursor]})


urlpatterns = [path("slow", slow), path("running", running)]


def configure(database):
    address = urlsplit(database)
    settings.configure(
        ALLOWED_HOSTS=["localhost", "127.0.0.1"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="for this example only",
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": address.hostname,
                "PORT": address.port or 5432,
                "USER": address.username,
                "PASSWORD": address.password,
                "NAME": address.path.lstrip("/"),
                "CONN_MAX_AGE": 600,
                "CONN_HEALTH_CHECKS": True,
                "OPTIONS": {"application_name": NAME},
            }
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bind", default="127.0.0.1:8080", metavar="HOST:PORT")
    parser.add_argument("--database", default="postgresql://postgres@127.0.0.1:5432/test", metavar="URL")
    arguments = parser.parse_args()
    configure(arguments.database)
    application = get_wsgi_application()
    # This call suffices: when a request is aborted, its query is cancelled, and its connections are closed.
    protect()
    options = Options(max_workers=1, max_concurrent_per_router=10, request_timeout_seconds=SECONDS)
    server = WSGIServer(arguments.bind, LoadBalancer(application, options))
    graceful_shutdown(server)
    server.start()
    print(f"listening on http://{server.server_host}:{server.server_port}", flush=True)
    server.serve_forever()
