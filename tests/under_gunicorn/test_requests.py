"""Tests of the responses that clients receive, and of requests in gunicorn's hooks, access log and statsd."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from tests.under_gunicorn.conftest import Gunicorn

Start = Callable[..., Gunicorn]

DJANGO = """
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}},
)

def hello(request):
    with connection.cursor() as cursor:
        cursor.execute("select 42")
        return HttpResponse(f"{request.method} {cursor.fetchone()[0]}")

urlpatterns = [path("", hello)]
app = get_wsgi_application()
"""


def test_a_flask_application_unchanged(start: Start) -> None:
    served = start().serves()
    assert served.get("/", "POST", b"posted").body == "posted"
    assert served.get("/stream").body == "x" * 3000
    assert served.get("/fail").status == 500
    assert served.get("/").headers["Server"] == "intralb-gevent"
    assert "ValueError: on purpose" in served.stop()


def test_a_django_application_unchanged(start: Start) -> None:
    served = start(application=DJANGO).serves()
    assert served.get().body == "GET 42"
    assert "protecting Django" in served.said
    assert "Traceback" not in served.stop()


def test_a_unix_socket_and_tcp(start: Start) -> None:
    served = start("-b", "unix:socket").serves()
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(served.directory / "socket"))
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.makefile("rb").read().startswith(b"HTTP/1.1 200 OK")
    assert served.get().status == 200
    served.stop()
    assert not (served.directory / "socket").exists()


def test_tls_by_gunicorns_files(start: Start, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    served = start("--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")).serves()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    connection = http.client.HTTPSConnection("127.0.0.1", served.port, timeout=20, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        assert connection.sock.selected_alpn_protocol() == "http/1.1"
        assert connection.getresponse().status == 200


def test_overload_and_deadlines(start: Start) -> None:
    settings = """
request_timeout_seconds = 3
max_concurrent_per_router = 2
max_workers = 1
queue_size = 1
limiter = "fixed"
"""
    served = start(settings=settings).serves()
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(served.get, ["/wait/0.5"] * 6))
    assert sorted(each.status for each in answers) == [200, 200, 200, 503, 503, 503]
    assert {each.headers.get("X-Intralb-Reason") for each in answers} == {None, "queue_full"}
    assert [served.get(path).status for path in ("/wait/10.0", "/spin")] == [504, 504]


HOOKS = """
import json

def note(name, *facts):
    with open("hooks.txt", "a") as file:
        print(json.dumps([name, *facts]), file=file)

def on_starting(server):
    note("on_starting")
def when_ready(server):
    note("when_ready")
def pre_fork(server, worker):
    note("pre_fork")
def post_fork(server, worker):
    note("post_fork")
def post_worker_init(worker):
    note("post_worker_init", worker.pid > 0)
def pre_request(worker, req):
    note("pre_request", req.method, req.uri, req.path, req.query, dict(req.headers)["X-ONE"], list(req.version))
def post_request(worker, req, environ, resp):
    kind = dict(resp.headers).get("Content-Type")
    note("post_request", req.path, environ["PATH_INFO"], resp.status, resp.status_code, kind, resp.sent)
def worker_exit(server, worker):
    note("worker_exit", worker.nr)
def child_exit(server, worker):
    note("child_exit", worker.pid > 0)
def nworkers_changed(server, new, old):
    note("nworkers_changed", new)
def on_exit(server):
    note("on_exit")
"""


def hooks_of(start: Start, worker: str) -> list[list[object]]:
    served = start(configuration=HOOKS, worker=worker)
    hooks = served.directory / "hooks.txt"
    served.until(lambda: hooks.exists() and "post_worker_init" in hooks.read_text())
    for path in ("/?a=1", "/stream", "/fail"):
        served.get(path, X_One="one")
    served.stop()
    return [json.loads(line) for line in hooks.read_text().splitlines()]


def test_hooks_are_called_as_by_gunicorns_own_worker(start: Start) -> None:
    ours = hooks_of(start, "intralb_gevent.gunicorn.Worker")
    # In gunicorn's own worker, too, post_worker_init is called before the first connection is accepted.
    assert ours == hooks_of(start, "gevent")
    assert [name for name, *_ in ours].count("post_request") == 3


def test_a_hook_that_fails(start: Start) -> None:
    hooks = """
def pre_request(worker, req):
    if req.path == "/refused":
        raise ValueError("refused")
def post_request(worker, req):
    raise ValueError("late")
"""
    served = start(configuration=hooks).serves()
    assert [served.get(path).status for path in ("/refused", "/")] == [500, 200]
    assert served.stop().count("Exception in post_request hook") == 2


def test_a_hook_that_hangs_has_the_deadline_of_its_request(start: Start) -> None:
    hooks = """
import time
def pre_request(worker, req):
    time.sleep(20 if req.path == "/before" else 0)
def post_request(worker, req):
    time.sleep(20 if req.path == "/after" else 0)
"""
    application = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'hello']\n"
    settings = "request_timeout_seconds = 0.5\nmax_concurrent_per_router = 1\nmax_workers = 1\n"
    served = start(configuration=hooks, application=application, settings=settings).serves()
    assert [served.get(path).status for path in ("/before", "/after")] == [504, 200]
    served.until(lambda: served.get().status == 200, seconds=5)
    assert "Exception in" not in served.stop()


FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %(m)s %(U)s %(q)s %(H)s %(B)s %({x-one}i)s'
FORMAT += " %({content-type}o)s %({wsgi.url_scheme}e)s"


def access_lines(start: Start, worker: str) -> list[str]:
    served = start("--access-logfile", "access.log", "--access-logformat", FORMAT, worker=worker)
    served.until(lambda: "Booting worker" in served.said)
    asked = [
        ("/?a=1&b=%22", "GET"),
        ("/", "POST"),
        ("/stream", "GET"),
        ("/missing", "GET"),
        ("/", "HEAD"),
        ("/fail", "GET"),
        ("/%C3%BC", "GET"),
    ]
    for path, method in asked:
        body = b"posted" if method == "POST" else None
        served.get(path, method, body, X_One='o"ne', User_Agent="test", Referer="/from", Authorization="Basic YTpi")
    log = served.directory / "access.log"
    served.until(lambda: log.read_text().count("\n") == len(asked))
    served.stop()
    return [re.sub(r"\[\d.*?\]", "[time]", line) for line in log.read_text().splitlines()]


def test_access_lines_are_those_of_gunicorns_own_worker(start: Start) -> None:
    # The response to / is a pid, so its length can differ.
    ours, theirs = (
        [re.sub(r" [5-7] ", " N ", line) for line in access_lines(start, worker)]
        for worker in ("intralb_gevent.gunicorn.Worker", "gevent")
    )
    assert ours == theirs


def test_requests_that_the_server_answers_are_logged(start: Start) -> None:
    settings = "request_timeout_seconds = 0.3\nmax_concurrent_per_router = 1\nmax_workers = 1\nqueue_size = 0\n"
    served = start("--access-logfile", "-", "--access-logformat", "%(s)s %(U)s %(D)s", settings=settings).serves()
    with ThreadPoolExecutor() as pool:
        late = pool.submit(served.get, "/wait/5.0")
        served.begun()
        assert served.get("/").status == 503
        assert late.result().status == 504
    served.stop()
    (refused, timed_out) = served.printed.splitlines()
    assert refused.startswith("503 / ")
    assert timed_out.startswith("504 /wait/5.0 ")
    assert int(timed_out.split()[2]) >= 300_000


def test_statsd(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(20)
        host = f"127.0.0.1:{statsd.getsockname()[1]}"
        served = start("--statsd-host", host, "--statsd-prefix", "mine").serves()
        assert [served.get(path).status for path in ("/", "/missing")] == [200, 404]
        seen: set[str] = set()
        while not {"mine.gunicorn.request.status.200", "mine.gunicorn.request.status.404"} <= seen:
            seen.add(statsd.recv(1000).decode().partition(":")[0])
        assert {"mine.gunicorn.requests", "mine.gunicorn.request.duration"} <= seen


def test_limits_of_the_head(start: Start) -> None:
    served = start("--limit-request-line", "100", "--limit-request-fields", "5").serves()
    assert served.get("/?" + "x" * 200).status == 414
    assert served.get("/", **{f"X_{number}": "x" for number in range(6)}).status == 431


def test_worker_connections_and_keepalive(start: Start) -> None:
    served = start("--keep-alive", "1", "--worker-connections", "2").serves()
    with served.connect() as first, served.connect() as second:
        for client in (first, second):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
        answer = served.get()
        assert (answer.status, answer.headers["X-Intralb-Reason"]) == (503, "connections")
        # The server closes both connections after one second without a request.
        assert first.recv(1000) == second.recv(1000) == b""


def test_keepalive_0_closes_after_each_response(start: Start) -> None:
    served = start("--keep-alive", "0").serves()
    assert served.get().headers["Connection"] == "close"


SWITCHING = """
def app(environ, start_response):
    start_response("101 Switching Protocols", [("Connection", "Upgrade"), ("Upgrade", "mine")])
    return [b"mine"]
"""


def test_keepalive_0_and_the_access_log_leave_an_upgrade_as_it_is(start: Start) -> None:
    flags = ("--keep-alive", "0", "--access-logfile", "-", "--access-logformat", "%(s)s %(U)s")
    served = start(*flags, application=SWITCHING).serves()
    received = b""
    with served.connect() as client:
        client.sendall(b"GET /raw HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: mine\r\n\r\n")
        while part := client.recv(1000):
            received += part
    assert received == b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: mine\r\n\r\nmine"
    served.until(lambda: served.printed == "101 /raw\n")


SEEN = """
def app(environ, start_response):
    start_response("200 OK", [])
    keys = ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_X_FORWARDED_FOR", "SCRIPT_NAME", "PATH_INFO", "wsgi.multiprocess")
    return [" ".join(str(environ.get(key)) for key in keys).encode()]
"""


@pytest.mark.parametrize(
    ("flags", "variables", "seen"),
    [
        ((), {}, "127.0.0.1 https 10.1.1.1  /x False"),
        (("--forwarded-allow-ips", "*"), {}, "10.1.1.1 https 10.1.1.1  /x False"),
        (("--forwarded-allow-ips", "10.0.0.1"), {}, "127.0.0.1 http None  /x False"),
        ((), {"INTRALB_TRUSTED_PROXIES": "127.0.0.1"}, "10.1.1.1 https 10.1.1.1  /x False"),
        (("-w", "2"), {"SCRIPT_NAME": "/x"}, "127.0.0.1 https 10.1.1.1 /x  True"),
    ],
)
def test_proxies(start: Start, flags: tuple[str, ...], variables: dict[str, str], seen: str) -> None:
    served = start(*flags, application=SEEN, **variables).serves()
    assert served.get("/x", X_Forwarded_For="10.1.1.1", X_Forwarded_Proto="https").body == seen


def test_errors_and_our_log_go_to_gunicorns_error_log(start: Start) -> None:
    served = start("--error-logfile", "error.log")
    log = served.directory / "error.log"
    served.until(lambda: log.exists() and "serves (pid:" in log.read_text())
    port = int(re.findall(r"Listening at: http://127\.0\.0\.1:(\d+)", log.read_text())[0])
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", "/fail")
        assert connection.getresponse().status == 500
    served.signal(signal.SIGTERM)
    assert served.ended() == 0
    assert "ValueError: on purpose" in log.read_text()
    assert served.said == ""
