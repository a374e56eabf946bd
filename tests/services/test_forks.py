"""Tests of a storm of forks behind real proxies, and of database sessions in a forked child.

The environment variable INTRALB_STORM_SECONDS sets the duration of the storm behind each proxy.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
SECONDS = float(os.environ.get("INTRALB_STORM_SECONDS", "5"))
USERS = 12

APP = """
import hashlib, multiprocessing, os, pty, subprocess, threading, time
from concurrent.futures import ProcessPoolExecutor
import gevent
from gevent.monkey import get_original

LOCK = threading.Lock()

def linger():
    # Longer than the deadline of any request.
    for _ in range(250):
        time.sleep(0.01)

def fork(child=linger, fork=os.fork):
    if not fork():
        child()
        os._exit(0)

def forkpty():
    child, descriptor = pty.fork()
    if not child:
        linger()
        os._exit(0)
    os.close(descriptor)

def process(): multiprocessing.get_context("fork").Process(target=linger).start()
def executor(): ProcessPoolExecutor(1, multiprocessing.get_context("fork")).submit(linger)
def greenlet(): gevent.spawn(fork).join()
def twice(): fork(lambda: fork(linger))
def program(): subprocess.run(["true"])
def prepared_program(): subprocess.run(["true"], preexec_fn=lambda: time.sleep(0.1))
def native_thread(): gevent.get_hub().threadpool.apply(fork, (linger, get_original("os", "fork")))

def locked():
    with LOCK:
        time.sleep(0.05)
        fork(lambda: time.sleep(0.1))

def returning():
    if not os.fork():
        time.sleep(1)

KINDS = (fork, forkpty, process, executor, greenlet, twice, program, prepared_program, native_thread, locked, returning)

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/page":
        time.sleep(0.05)
        out = f"private page of {query}".encode()
    elif path == "/charge":
        time.sleep(0.1)
        with LOCK, open("ledger", "a") as ledger:
            ledger.write(f"{query}\\n")
        out = f"receipt for {query}".encode()
    elif path == "/upload":
        out = f"{query} {hashlib.sha256(environ['wsgi.input'].read()).hexdigest()}".encode()
    elif path == "/download":
        out = f"{query}\\n".encode() * 100_000
    elif path == "/fork":
        KINDS[int(query)]()
        out = b"forked"
    else:
        out = str(len(KINDS)).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [out]
"""

HAPROXY = """
global
  maxconn 400
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  http-reuse always
listen all
  bind 127.0.0.1:{port}
  option forwardfor
  retries 0
  server one 127.0.0.1:{server} maxconn 8
"""

NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr warn;
events {{ worker_connections 400; }}
http {{
  access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  upstream one {{ server 127.0.0.1:{server}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port}; client_max_body_size 0;
    location / {{
      proxy_pass http://one; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_next_upstream off;
    }}
  }}
}}
"""


def until(condition: Callable[[], Any], why: Callable[[], str] = str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, why()
        time.sleep(0.01)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Running:
    """A process of a server or a proxy."""

    def __init__(self, directory: Path, *command: str) -> None:
        self.directory = directory
        self.log = directory / f"{Path(command[0]).name}.log"
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=directory, env=environ, stdin=subprocess.DEVNULL, stderr=log)

    def wait_for(self, condition: Callable[[], Any]) -> None:
        until(lambda: condition() or self.process.poll() is not None, self.log.read_text)
        assert self.process.poll() is None, self.log.read_text()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(*command: str) -> Running:
        made.append(Running(tmp_path, *command))
        return made[-1]

    yield start
    for running in reversed(made):
        running.process.kill()
        running.process.wait()


@pytest.fixture
def serve(run: Callable[..., Running], tmp_path: Path) -> Callable[..., tuple[Running, int]]:
    """Return a function that starts a server for an application, and returns the server and its port."""

    def start(application: str, *arguments: str) -> tuple[Running, int]:
        (tmp_path / "forking.py").write_text(application)
        ready = tmp_path / "ready.json"
        flags = ["--bind", "127.0.0.1:0", "--ready-file", "ready.json", *arguments]
        server = run(sys.executable, "-m", "intralb_gevent", "serve", "forking:app", *flags)
        server.wait_for(ready.exists)
        return server, json.loads(ready.read_text())["addresses"][0]["port"]

    return start


def start_proxy(run: Callable[..., Running], directory: Path, name: str, server: int) -> int:
    program = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        reason = f"{name} is not installed; its package in Debian has the same name"
        (pytest.fail if os.environ.get("INTRALB_REQUIRE_SERVICES") == "1" else pytest.skip)(reason)
    port = free_port()
    written = {"haproxy": HAPROXY, "nginx": NGINX}[name].format(port=port, server=server, directory=directory)
    (directory / "proxy.conf").write_text(written)
    flags = {"haproxy": ["-db", "-f", "proxy.conf"], "nginx": ["-p", str(directory), "-c", f"{directory}/proxy.conf"]}
    proxy = run(program, *flags[name])
    proxy.wait_for(lambda: listens(port))
    return port


class Client:
    """A persistent connection, and the responses received on it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        try:
            self._connection.request(method, path, body)
            response = self._connection.getresponse()
            content = response.read()
        except OSError as error:
            self._connection.close()
            return repr(error).encode()
        return content if response.status == 200 else b"%d %b" % (response.status, content)

    def close(self) -> None:
        self._connection.close()


class Storm:
    """Users with separate pages, receipts, uploads and downloads, and a client that requests all kinds of forks."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port = port
        self._end = time.monotonic() + seconds
        self.answers: Counter[str] = Counter()
        self.wrong: list[tuple[str, bytes]] = []
        self.charges: list[str] = []

    def blow(self) -> None:
        threads = [threading.Thread(target=self._user, args=(number,)) for number in range(USERS)]
        threads.append(threading.Thread(target=self._forks))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _user(self, number: int) -> None:
        client, chance = Client(self._port), random.Random(number)
        for count in itertools.count():
            if time.monotonic() > self._end:
                break
            self._ask(client, chance.choices(("page", "charge", "upload", "download"), (6, 3, 1, 1))[0], number, count)
        client.close()

    def _ask(self, client: Client, kind: str, number: int, count: int) -> None:
        who = f"user{number}-{count}"
        body = None
        if kind == "page":
            expected = f"private page of {who}".encode()
        elif kind == "charge":
            expected = f"receipt for {who}".encode()
            self.charges.append(who)
        elif kind == "upload":
            body = os.urandom(200_000)
            expected = f"{who} {hashlib.sha256(body).hexdigest()}".encode()
        else:
            expected = f"{who}\n".encode() * 100_000
        self._judge(kind, expected, client.ask("GET" if body is None else "POST", f"/{kind}?{who}", body))

    def _forks(self) -> None:
        client = Client(self._port)
        kinds = int(client.ask("GET", "/"))
        while time.monotonic() < self._end:
            began = time.monotonic()
            for kind in range(kinds):
                self._judge("fork", b"forked", client.ask("GET", f"/fork?{kind}"))
            time.sleep(max(0.0, began + 1 - time.monotonic()))
        client.close()

    def _judge(self, kind: str, expected: bytes, answer: bytes) -> None:
        self.answers[kind] += 1
        if answer != expected:
            self.wrong.append((f"{kind} {expected[:40]!r}", answer[:100]))


@pytest.mark.parametrize("proxy", ["haproxy", "nginx"])
def test_a_storm_of_forks_mixes_up_no_users(
    run: Callable[..., Running], serve: Callable[..., tuple[Running, int]], tmp_path: Path, proxy: str
) -> None:
    server, port = serve(APP, "--request-timeout-seconds", "2")
    storm = Storm(start_proxy(run, tmp_path, proxy, port), SECONDS)
    storm.blow()
    print(f"behind {proxy}: {dict(storm.answers)}, {len(storm.wrong)} wrong, in {SECONDS:g} s")
    assert storm.wrong == []
    assert sorted((tmp_path / "ledger").read_text().splitlines()) == sorted(storm.charges)
    # Python waits at its exit for the children of executors and of multiprocessing, which live for 2.5 s.
    assert server.end() == 0
    assert "Traceback" not in server.log.read_text()
    socket.create_server(("127.0.0.1", port)).close()


# Database sessions.

DATABASE_APP = """
import json, os, time
from intralb_gevent import current_session
{setup}

def linger():
    child = os.fork()
    if not child:
        time.sleep(60)
    with open("child", "w") as file:
        file.write(str(child))

def app(environ, start_response):
    parents = connection_id()
    if environ["PATH_INFO"] == "/linger":
        linger()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(parents).encode()]
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, json.dumps([connection_id() for _ in range(2)]).encode())
        time.sleep(0.01)
        os._exit(0)
    os.wait()
    childs = json.loads(os.read(reader, 1000))
    os.close(reader), os.close(writer)
    out = json.dumps([parents, childs, connection_id()]).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [out]
"""

SOURCES = {
    "psycopg": """
from intralb_gevent.integrations.psycopg import PsycopgSessions
sessions = PsycopgSessions({postgresql!r})
connection_id = lambda: current_session().execute("select pg_backend_pid()").fetchone()[0]
""",
    "psycopg2": """
from intralb_gevent.integrations.psycopg2 import Psycopg2Sessions
sessions = Psycopg2Sessions({postgresql!r})
def connection_id():
    cursor = current_session().cursor()
    cursor.execute("select pg_backend_pid()")
    return cursor.fetchone()[0]
""",
    "sqlalchemy": """
from sqlalchemy import text
from intralb_gevent.integrations.sqlalchemy import SQLAlchemySessions
sessions = SQLAlchemySessions({postgresql!r}.replace("postgresql://", "postgresql+psycopg://"))
connection_id = lambda: current_session().execute(text("select pg_backend_pid()")).scalar()
""",
    "django": """
from urllib.parse import urlsplit
from django.conf import settings
url = urlsplit({postgresql!r})
settings.configure(DATABASES={{"default": dict(
    ENGINE="django.db.backends.postgresql", NAME=url.path.lstrip("/"), USER=url.username, PASSWORD=url.password or "",
    HOST=url.hostname, PORT=url.port or 5432, CONN_MAX_AGE=None)}})
from django.db import connections
from intralb_gevent.integrations.django import DjangoSessions
sessions = DjangoSessions()
def connection_id():
    with current_session()["default"].cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        return cursor.fetchone()[0]
""",
}


SESSIONS = (
    *("--db-init-func", "forking:sessions"),
    *("--max-workers", "1", "--min-workers", "1", "--max-concurrent-per-router", "1"),
)


@pytest.mark.parametrize("source", SOURCES)
def test_a_child_has_a_database_connection_of_its_own(
    serve: Callable[..., tuple[Running, int]], postgresql: str, source: str
) -> None:
    setup = SOURCES[source].format(postgresql=postgresql)
    server, port = serve(DATABASE_APP.format(setup=setup), *SESSIONS)
    client = Client(port)
    answers = [json.loads(client.ask("GET", "/")) for _ in range(3)]
    client.close()
    (connection,) = {parents for before, _, after in answers for parents in (before, after)}
    children = [childs for _, childs, _ in answers]
    assert all(first == second != connection for first, second in children), children
    assert server.end() == 0
    assert server.log.read_text().count("Traceback") == 0, server.log.read_text()


@pytest.mark.parametrize("source", SOURCES)
def test_a_child_does_not_keep_its_parents_database_connection_open(
    serve: Callable[..., tuple[Running, int]], postgresql: str, tmp_path: Path, source: str
) -> None:
    server, port = serve(DATABASE_APP.format(setup=SOURCES[source].format(postgresql=postgresql)), *SESSIONS)
    client = Client(port)
    connection = int(client.ask("GET", "/linger"))
    client.close()
    server.process.kill()
    child = int((tmp_path / "child").read_text())
    with psycopg.connect(postgresql, autocommit=True) as observer:
        alive = "select count(*) from pg_stat_activity where pid = %s"
        until(lambda: observer.execute(alive, [connection]).fetchone() == (0,))
    os.kill(child, signal.SIGKILL)
