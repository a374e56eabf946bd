"""Tests of `check`, in patched processes that import an application: its findings, and cases that it must not report.

The database drivers are fakes with the real names, because `check` only inspects imported modules.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

ROOT = pathlib.Path(__file__).parents[1]
WSGI = "def app(environ, start_response): ...\n"

FRAMEWORKS = {
    "flask": "import flask\napp = flask.Flask('myapp')\n",
    "bottle": "import bottle\napp = bottle.Bottle()\n",
    "django": (
        "from django.conf import settings\n"
        "base = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'x'}\n"
        "settings.configure(SECRET_KEY='x', DATABASES={'default': base},"
        "INSTALLED_APPS=['django.contrib.auth', 'django.contrib.contenttypes', 'django.contrib.sessions'])\n"
        "from django.core.wsgi import get_wsgi_application\napp = get_wsgi_application()\n"
        "import django.db, django.core.cache, django.test\n"
    ),
    "sqlalchemy": "import sqlalchemy.orm\n" + WSGI,
    "requests": "import requests\n" + WSGI,
}


class Checked:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert "Traceback" not in done.stderr
        self.code, self.text, self.error = done.returncode, done.stdout, done.stderr

    def titles(self, severity: str) -> list[str]:
        return [line.split(": ", 1)[1] for line in self.text.splitlines() if line.startswith(f"{severity}: ")]


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Callable[..., None]:
    """Return a function that writes source texts to the given paths."""

    def files(texts: dict[str, str]) -> None:
        for name, text in texts.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return files


@pytest.fixture
def check(tmp_path: pathlib.Path, write: Callable[..., None]) -> Callable[..., Checked]:
    """Return a function that runs the check on an application, given as source text."""

    def checked(application: str, *flags: str) -> Checked:
        write({"myapp": application})
        command = [sys.executable, "-m", "intralb_gevent", "check", "myapp:app", *flags]
        return Checked(process(command, tmp_path))

    return checked


def process(command: list[str], directory: pathlib.Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INTRALB_")}
    # Put the directory first, so that a sitecustomize in it is imported when the process starts.
    environment = {**clean, "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)])}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=30)


# No false alarms.


@pytest.mark.parametrize("name", ["flask", "bottle", "django"])
def test_a_clean_application_gives_no_warning(check: Callable[..., Checked], name: str) -> None:
    pytest.importorskip(name)
    checked = check(FRAMEWORKS[name])
    assert checked.text == "myapp:app: found nothing that hurts under gevent\n"
    assert (checked.code, checked.error) == (0, "")


def test_nothing_is_found_where_every_module_came_after_patching(
    tmp_path: pathlib.Path, write: Callable[..., None]
) -> None:
    for name, text in FRAMEWORKS.items():
        pytest.importorskip(name)
        write({f"with_{name}": text})
    imports = "".join(f"import with_{name}\n" for name in FRAMEWORKS)
    script = (
        f"from gevent import monkey\nmonkey.patch_all()\n{imports}"
        "from intralb_gevent import Options\nfrom intralb_gevent.cli import check\nprint(check.findings(Options()))\n"
    )
    assert process([sys.executable, "-c", script], tmp_path).stdout == "[]\n"


# Modules imported before patching.


EARLY = """
import threading
from socket import socket
from time import sleep

guard = threading.Lock()
again = threading.RLock()
"""


def test_a_module_imported_before_patching_is_told_with_what_it_holds(
    check: Callable[..., Checked], write: Callable[..., None]
) -> None:
    write({"sitecustomize": "import early.bird\n", "early/__init__": "", "early/bird": EARLY})
    checked = check("import early.bird\n" + WSGI)
    assert checked.code == 1
    assert checked.titles("warning") == ["early was imported before monkey-patching"]
    text = " ".join(checked.text.split())
    assert "early.bird.socket is the original socket.socket, early.bird.sleep is the original time.sleep, " in text
    assert "and 1 more" in text
    assert "keep it out of sitecustomize" in text


HELD = {
    "early_1": ("from time import sleep\n", "early_1.sleep is the original time.sleep"),
    "early_2": ("from select import select\n", "early_2.select is the original select.select"),
    "early_3": ("import threading; guard = threading.Lock()\n", "early_3.guard is a native lock"),
    "early_4": ("import threading; guard = threading.RLock()\n", "early_4.guard is a native lock"),
}


def test_each_thing_it_holds_counts(check: Callable[..., Checked], write: Callable[..., None]) -> None:
    write({name: held for name, (held, _) in HELD.items()})
    write({"sitecustomize": f"import {', '.join(HELD)}\n"})
    text = " ".join(check(WSGI).text.split())
    assert [told for _, told in HELD.values() if told not in text] == []


def test_a_module_imported_early_that_holds_nothing_of_it_is_left_alone(
    check: Callable[..., Checked], write: Callable[..., None]
) -> None:
    write({"sitecustomize": "import early\n", "early": "import time, socket\nfrom threading import get_ident\n"})
    assert check(WSGI).code == 0


def test_a_module_that_asks_gevent_for_an_original_is_left_alone(check: Callable[..., Checked]) -> None:
    assert check("from gevent import monkey\nsleep = monkey.get_original('time', 'sleep')\n" + WSGI).code == 0


def test_the_server_warns_at_its_start_in_one_line_each(tmp_path: pathlib.Path, write: Callable[..., None]) -> None:
    write({"sitecustomize": "import early\n", "early": EARLY})
    write({"MySQLdb/__init__": "import MySQLdb._mysql\n", "MySQLdb/_mysql": "", "myapp": "import MySQLdb\n" + WSGI})
    # Bind to a path where the server cannot listen, so that the server exits by itself.
    command = [sys.executable, "-m", "intralb_gevent", "serve", "myapp:app", "--bind", "unix:nowhere/app.sock"]
    early, driver, _ = process(command, tmp_path).stderr.splitlines()
    assert " WARNING " in early
    assert " early was imported before monkey-patching; import the package after " in early
    assert " mysqlclient (MySQLdb) blocks every request while it waits; use " in driver


# Drivers.


PACKAGES = {
    "MySQLdb/__init__": "import MySQLdb._mysql",
    "MySQLdb/_mysql": "",
    "psycopg2/__init__": "import psycopg2.extensions",
    "psycopg2/extensions": "def get_wait_callback(): ...",
    "psycopg": "__version__ = '3.1.9'",
    "cx_Oracle": "",
    "oracledb": "def is_thin_mode(): return False",
    "pyodbc": "",
    "ibm_db": "",
    "pylibmc": "",
    "pycurl": "",
    "_ldap": "",
    "grpc/__init__": "import grpc._cython.cygrpc",
    "grpc/_cython/__init__": "",
    "grpc/_cython/cygrpc": "",
    "zmq": "",
}

BLOCKING = {
    "mysqlclient (MySQLdb)": "use PyMySQL",
    "psycopg2 without a wait callback": "leave integrations on",
    "psycopg before 3.1.14": "update psycopg",
    "cx_Oracle": "oracledb in thin mode",
    "oracledb in thick mode": "do not call init_oracle_client()",
    "pyodbc": "a driver in Python",
    "ibm_db": "gevent's thread pool",
    "pylibmc": "use pymemcache",
    "pycurl": "use requests",
    "python-ldap": "use ldap3",
    "grpc without its gevent support": "grpc.experimental.gevent.init_gevent()",
    "zmq": "zmq.green",
}


def test_each_driver_that_blocks_is_told_with_its_remedy(
    check: Callable[..., Checked], write: Callable[..., None]
) -> None:
    write(PACKAGES)
    imports = sorted({path.partition("/")[0] for path in PACKAGES})
    checked = check(f"import {', '.join(imports)}\n{WSGI}", "--no-integrations")
    assert checked.code == 1
    assert checked.titles("warning") == [f"{title} blocks every request while it waits" for title in BLOCKING]
    remedies = " ".join(checked.text.split()).split("Remedy: ")[1:]
    assert [told for told, remedy in zip(BLOCKING.values(), remedies, strict=True) if told not in remedy] == []


def test_psycopg2_is_left_alone_where_the_server_protects_it(
    check: Callable[..., Checked], write: Callable[..., None]
) -> None:
    write({path: text for path, text in PACKAGES.items() if path.startswith("psycopg2")})
    assert check(f"import psycopg2\n{WSGI}").code == 0


def test_a_driver_is_told_when_only_the_sessions_use_it(
    check: Callable[..., Checked], write: Callable[..., None]
) -> None:
    write({"pyodbc": "", "database": "import pyodbc\ndef connect(worker_id): ...\n"})
    assert check(WSGI, "--db-init-func", "database:connect").code == 1


def test_drivers_that_do_not_block_are_left_alone(check: Callable[..., Checked], write: Callable[..., None]) -> None:
    write(
        {
            "pymysql": "def install_as_MySQLdb():\n    import sys; sys.modules['MySQLdb'] = sys.modules['pymysql']\n",
            "psycopg2/__init__": "import psycopg2.extensions",
            "psycopg2/extensions": "def get_wait_callback(): return len",
            "psycopg": "__version__ = '3.2.1.dev1'",
            "oracledb": "def is_thin_mode(): return True",
            "zmq/__init__": "",
            "zmq/green": "",
            "grpc/__init__": "import grpc._cython.cygrpc, grpc.experimental.gevent",
            "grpc/_cython/__init__": "",
            "grpc/_cython/cygrpc": "",
            "grpc/experimental/__init__": "",
            "grpc/experimental/gevent": "",
        }
    )
    stands_in = "import pymysql; pymysql.install_as_MySQLdb()\nimport MySQLdb\n"
    checked = check(stands_in + "import psycopg2, psycopg, oracledb, zmq.green, grpc\n" + WSGI)
    assert checked.text == "myapp:app: found nothing that hurts under gevent\n"


def test_what_depends_on_the_application_is_a_hint_and_no_failure(
    check: Callable[..., Checked], write: Callable[..., None]
) -> None:
    write({"pymssql/__init__": "import pymssql._mssql", "pymssql/_mssql": ""})
    checked = check("import pymssql\n" + WSGI)
    assert checked.code == 0
    assert checked.titles("hint") == ["pymssql may block every request while it waits"]
    assert checked.text.startswith("myapp:app: 1 hint\n")


# Pools of connections.


ENGINE = "from sqlalchemy import create_engine\nengine = create_engine({})\n" + WSGI
FIFTEEN_SLOTS = ("--max-workers", "3", "--max-concurrent-per-router", "5")


def test_an_engine_with_fewer_connections_than_slots(check: Callable[..., Checked]) -> None:
    pytest.importorskip("sqlalchemy")
    checked = check(ENGINE.format("'sqlite:///file.db'"))
    assert checked.code == 0
    (told,) = checked.titles("hint")
    assert told == "Engine(sqlite:///file.db) lends 15 connections, and there are 1000 slots"
    assert "serve with --max-workers 1 --max-concurrent-per-router 15, " in " ".join(checked.text.split())


@pytest.mark.parametrize(("sizes", "code"), [("pool_size=9, max_overflow=5", 1), ("pool_size=9, max_overflow=6", 0)])
def test_the_slots_are_those_of_the_settings(check: Callable[..., Checked], sizes: str, code: int) -> None:
    pytest.importorskip("sqlalchemy")
    assert check(ENGINE.format(f"'sqlite:///file.db', {sizes}"), *FIFTEEN_SLOTS).code == code


def test_engines_without_a_limit_are_left_alone(check: Callable[..., Checked]) -> None:
    pytest.importorskip("sqlalchemy")
    in_memory, no_most, no_size = (
        "'sqlite://'",
        "'sqlite:///file.db', max_overflow=-1",
        "'sqlite:///file.db', pool_size=0",
    )
    engines = f"[create_engine({in_memory}), create_engine({no_most}), create_engine({no_size})]"
    assert check(f"from sqlalchemy import create_engine\nengines = {engines}\n{WSGI}").code == 0


def test_an_engine_is_told_once_and_without_its_password(
    check: Callable[..., Checked], write: Callable[..., None]
) -> None:
    pytest.importorskip("sqlalchemy")
    write({"driver": "paramstyle = 'format'\nsqlite_version_info = (3,)\n"})
    engine = "import driver\n" + ENGINE.format("'mysql+pymysql://me:secret@host/base', module=driver")
    checked = check(engine + "other = engine.execution_options(isolation_level='AUTOCOMMIT')\n")
    (told,) = checked.titles("hint")
    assert told.startswith("Engine(mysql+pymysql://me:***@host/base) lends 15 connections")
    assert "secret" not in checked.text


def test_a_pool_of_psycopg(check: Callable[..., Checked], write: Callable[..., None]) -> None:
    write({"psycopg_pool": "class ConnectionPool:\n    max_size = 14\n"})
    application = "import psycopg_pool\npool = psycopg_pool.ConnectionPool()\n" + WSGI
    checked = check(application, *FIFTEEN_SLOTS)
    assert checked.titles("warning") == ["a ConnectionPool lends 14 connections, and there are 15 slots"]


DJANGO = """
from django.conf import settings
settings.configure(SECRET_KEY="x", DATABASES={{"default": {{"ENGINE": "django.db.backends.postgresql", {} }} }})
from django.core.wsgi import get_wsgi_application
app = get_wsgi_application()
"""


@pytest.mark.parametrize(
    ("database", "warnings", "hints"),
    [
        ('"OPTIONS": {"pool": True}', ["Django's database 'default' lends 4 connections, and there are 15 slots"], []),
        ('"OPTIONS": {"pool": {"max_size": 15}}', [], []),
        ('"CONN_MAX_AGE": 60', [], []),
        ('"CONN_MAX_AGE": None', [], []),
        ("", [], ["every request opens a new connection to Django's database 'default'"]),
    ],
    ids=["pool", "large pool", "kept", "kept for ever", "not kept"],
)
def test_djangos_settings(check: Callable[..., Checked], database: str, warnings: list[str], hints: list[str]) -> None:
    pytest.importorskip("django")
    checked = check(DJANGO.format(database), *FIFTEEN_SLOTS)
    assert (checked.titles("warning"), checked.titles("hint")) == (warnings, hints)
    assert checked.code == len(warnings)


# Applications that cannot be checked.


def test_an_application_that_cannot_be_imported_is_code_2(check: Callable[..., Checked]) -> None:
    checked = check("import nowhere\n")
    assert (checked.code, checked.text) == (2, "")
    assert "No module named 'nowhere'" in checked.error


# Coroutines.


FLASK_ASYNC = """
import asyncio, threading
import flask
from flask.views import MethodView
loop = asyncio.new_event_loop()

class Own(flask.Flask):
    def async_to_sync(self, func):
        return lambda *args, **kwargs: asyncio.run_coroutine_threadsafe(func(*args, **kwargs), loop).result()

app = {kind}("shop")

@app.get("/")
async def index():
    return "ok"

class Orders(MethodView):
    async def post(self):
        return "ok"

app.add_url_rule("/orders", view_func=Orders.as_view("orders"))

@app.get("/ordinary")
def ordinary():
    return "ok"
"""


def test_async_views_of_flask_are_a_warning(check: Callable[..., Checked]) -> None:
    pytest.importorskip("flask")
    checked = check(FLASK_ASYNC.format(kind="flask.Flask"))
    assert checked.titles("warning") == ["Flask has 2 async views: shop:index, shop:orders"]
    assert checked.code == 1
    assert "override async_to_sync(self, func) of Flask" in " ".join(checked.text.split())


def test_flask_that_runs_them_on_a_loop_of_its_own_is_left_alone(check: Callable[..., Checked]) -> None:
    pytest.importorskip("flask")
    assert check(FLASK_ASYNC.format(kind="Own")).text == "myapp:app: found nothing that hurts under gevent\n"


DJANGO_URLS = """
from django.http import HttpResponse
from django.urls import include, path
from django.views import View

async def report(request):
    return HttpResponse("ok")

class Orders(View):
    async def get(self, request):
        return HttpResponse("ok")

def ordinary(request):
    return HttpResponse("ok")

urlpatterns = [
    path("report", report),
    path("shop/", include([path("orders", Orders.as_view()), path("report", report)])),
    path("ordinary", ordinary),
]
"""

DJANGO_PROJECT = """
from django.conf import settings
settings.configure(SECRET_KEY="x", ROOT_URLCONF="{}")
from django.core.wsgi import get_wsgi_application
app = get_wsgi_application()
"""


def test_async_views_of_django_are_a_warning(check: Callable[..., Checked], write: Callable[..., None]) -> None:
    pytest.importorskip("django")
    write({"shopurls": DJANGO_URLS})
    checked = check(DJANGO_PROJECT.format("shopurls"))
    assert checked.titles("warning") == ["Django has 2 async views: shopurls.report, shopurls.Orders"]
    assert checked.code == 1


def test_urls_of_django_that_cannot_be_imported_are_djangos_to_tell(
    check: Callable[..., Checked], write: Callable[..., None]
) -> None:
    pytest.importorskip("django")
    write({"shopurls": "import nowhere\n"})
    assert check(DJANGO_PROJECT.format("shopurls")).code == 0


RUNS_COROUTINES = {
    "asyncio.run": "import asyncio\ndef work(): return asyncio.run(step())\n",
    "run from asyncio": "from asyncio import run\ndef work(): return run(step())\n",
    "import within": "def work():\n    import asyncio\n    return asyncio.run(step())\n",
    "a loop": "import asyncio\ndef work(): return asyncio.new_event_loop().run_until_complete(step())\n",
    "a method": "import asyncio\nclass Work:\n    def work(self): return asyncio.run(step())\n",
    "a closure": "import asyncio\ndef made():\n    return lambda: asyncio.run(step())\nwork = made()\n",
}


@pytest.mark.parametrize("text", RUNS_COROUTINES.values(), ids=RUNS_COROUTINES)
def test_functions_that_run_a_coroutine_are_a_hint(check: Callable[..., Checked], text: str) -> None:
    checked = check(f"async def step(): ...\n{text}{WSGI}")
    (title,) = checked.titles("hint")
    assert title.startswith("myapp.")
    assert title.endswith(" runs a coroutine to its end")
    assert checked.code == 0
    assert "run_coroutine_threadsafe" in checked.text


DOES_NOT = {
    "another run": "import asyncio, subprocess\ndef work(): subprocess.run([]); asyncio.sleep(1)\n",
    "a native thread": "import asyncio, gevent\ndef work(): gevent.get_hub().threadpool.spawn(asyncio.run, step())\n",
    "one loop": "import asyncio\ndef work(loop): return asyncio.run_coroutine_threadsafe(step(), loop).result()\n",
    "a constant": "def work(): return ()\n",
    "a library": "import json, http.client, concurrent.futures, unittest.async_case, asyncio.runners\n",
}


@pytest.mark.parametrize("text", DOES_NOT.values(), ids=DOES_NOT)
def test_functions_that_run_none_are_left_alone(check: Callable[..., Checked], text: str) -> None:
    assert check(f"async def step(): ...\n{text}{WSGI}").text == "myapp:app: found nothing that hurts under gevent\n"


# File locks.


TAKES_LOCKS = {
    "flock": "import fcntl\ndef locked(file): fcntl.flock(file, fcntl.LOCK_EX)\n",
    "lockf": "from fcntl import lockf, LOCK_SH\ndef locked(file): lockf(file, LOCK_SH)\n",
    "os.lockf": "import os\ndef locked(file): os.lockf(file, os.F_LOCK, 0)\n",
}


@pytest.mark.parametrize("text", TAKES_LOCKS.values(), ids=TAKES_LOCKS)
def test_a_file_lock_that_the_kernel_waits_for_is_a_hint(check: Callable[..., Checked], text: str) -> None:
    checked = check(text + WSGI)
    assert checked.titles("hint") == ["myapp.locked waits for a file lock in the kernel"]
    assert checked.code == 0
    assert "LOCK_NB in a loop that sleeps" in " ".join(checked.text.split())


HARMLESS_LOCKS = {
    "not waiting": "import fcntl\ndef locked(file): fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
    "giving back": "import fcntl\ndef free(file): fcntl.flock(file, fcntl.LOCK_UN)\n",
    "filelock": "from filelock import FileLock\ndef locked():\n    with FileLock('x'): ...\n",
}


@pytest.mark.parametrize("name", HARMLESS_LOCKS)
def test_a_file_lock_that_is_not_waited_for_is_left_alone(check: Callable[..., Checked], name: str) -> None:
    if name == "filelock":
        pytest.importorskip("filelock")
    assert check(HARMLESS_LOCKS[name] + WSGI).text == "myapp:app: found nothing that hurts under gevent\n"


# multiprocessing.


WAITS_FOR_PROCESSES = {
    "a lock": "import multiprocessing\nlock = multiprocessing.Lock()\ndef work():\n    with lock: ...\n",
    "acquire": "from multiprocessing import RLock\nlock = RLock()\ndef work(): lock.acquire(timeout=5)\n",
    "a condition": "import multiprocessing as mp\nchanged = mp.Condition()\ndef work():\n    with changed: ...\n",
    "a queue": "import multiprocessing\nqueue = multiprocessing.Queue()\ndef work(): return queue.get()\n",
    "a queue within": "import multiprocessing\ndef work():\n    q = multiprocessing.Queue()\n    return q.get()\n",
    "an event": "from multiprocessing import Event\nevent = Event()\ndef work(): event.wait(timeout=5)\n",
    "another context": (
        "from multiprocessing import get_context\nq = get_context('spawn').SimpleQueue()\ndef work(): q.get()\n"
    ),
}


@pytest.mark.parametrize("text", WAITS_FOR_PROCESSES.values(), ids=WAITS_FOR_PROCESSES)
def test_a_wait_for_multiprocessing_is_a_hint(check: Callable[..., Checked], text: str) -> None:
    checked = check(text + WSGI)
    assert checked.titles("hint") == ["myapp.work waits for a lock, a queue or an event of multiprocessing"]
    assert checked.code == 0
    assert "get(timeout=...)" in checked.text


USES_POOL = {
    "made within": "import multiprocessing\ndef work():\n    with multiprocessing.Pool() as pool: pool.map(abs, [1])\n",
    "made before": (
        "import multiprocessing.pool\npool = multiprocessing.pool.Pool.__new__(multiprocessing.pool.Pool)\n"
        "pool._state = 'CLOSE'\ndef work(): return pool.apply(abs, [1])\n"
    ),
}


@pytest.mark.parametrize("text", USES_POOL.values(), ids=USES_POOL)
def test_a_pool_of_multiprocessing_is_a_hint(check: Callable[..., Checked], text: str) -> None:
    checked = check(text + WSGI)
    assert checked.titles("hint") == ["myapp.work uses multiprocessing.Pool"]
    assert "ProcessPoolExecutor" in checked.text


DOES_NOT_WAIT = {
    "asking": "import multiprocessing\nlock = multiprocessing.Lock()\ndef work(): return lock.acquire(False)\n",
    "putting": "import multiprocessing\nqueue = multiprocessing.Queue()\ndef work(): queue.put(1)\n",
    "a timeout": "import multiprocessing\nqueue = multiprocessing.Queue()\ndef work(): queue.get(timeout=1)\n",
    "setting": "import multiprocessing\nevent = multiprocessing.Event()\ndef work(): event.set()\n",
    "threads": "import threading, queue\nq, lock = queue.Queue(), threading.Lock()\ndef work(): q.get(lock)\n",
    "a pool of threads": "from multiprocessing.pool import ThreadPool\ndef work(): ThreadPool(2).map(abs, [1])\n",
    "an executor": "from concurrent.futures import ProcessPoolExecutor as Pool\ndef work(): Pool().submit(abs, 1)\n",
}


@pytest.mark.parametrize("text", DOES_NOT_WAIT.values(), ids=DOES_NOT_WAIT)
def test_what_does_not_wait_for_multiprocessing_is_left_alone(check: Callable[..., Checked], text: str) -> None:
    assert check(text + WSGI).text == "myapp:app: found nothing that hurts under gevent\n"


# Protection of database connections.


UNPROTECTED = """
from gevent import monkey
monkey.patch_all()
{}
from intralb_gevent.cli.check.protection import unprotected
print([finding.title for finding in unprotected({})])
"""


@pytest.mark.parametrize("protects", [True, False])
@pytest.mark.parametrize(("name", "title"), [("django", "Django's"), ("sqlalchemy", "SQLAlchemy's"), ("flask", None)])
def test_libraries_without_protection(tmp_path: pathlib.Path, name: str, title: str | None, protects: bool) -> None:
    pytest.importorskip(name)
    script = UNPROTECTED.format(FRAMEWORKS[name], protects)
    found = [] if protects or title is None else [f"{title} connections are not protected"]
    assert process([sys.executable, "-c", script], tmp_path).stdout == f"{found}\n"


# TLS.


EARLY_TLS = """
from ssl import SSLContext, PROTOCOL_TLS_CLIENT

def context():
    made = SSLContext(PROTOCOL_TLS_CLIENT)
    made.minimum_version = made.minimum_version
    return made
"""


def test_the_server_gives_a_module_that_came_too_early_the_patched_context(
    tmp_path: pathlib.Path, write: Callable[..., None]
) -> None:
    uses = "import early\nmade = early.context()\nprint('it is', type(made).__module__)\n"
    write({"sitecustomize": "import early\n", "early": EARLY_TLS, "myapp": uses + WSGI})
    command = [sys.executable, "-m", "intralb_gevent", "serve", "myapp:app", "--bind", "unix:nowhere/app.sock"]
    ended = process(command, tmp_path)
    assert ended.stdout == "it is gevent.ssl\n"
    assert "early imported ssl.SSLContext before monkey-patching; replaced it with the patched class" in ended.stderr
    assert "RecursionError" not in ended.stderr


def test_a_program_with_an_original_context_is_told_of_the_recursion(
    tmp_path: pathlib.Path, write: Callable[..., None]
) -> None:
    script = (
        "import early\nfrom gevent import monkey\nmonkey.patch_all()\n"
        "from intralb_gevent import Options\nfrom intralb_gevent.cli import check\n"
        "(finding,) = check.findings(Options(), ['early'])\nprint(finding.detail)\n"
        "try:\n    early.context()\nexcept RecursionError:\n    print('it is so')\n"
    )
    write({"early": EARLY_TLS})
    said = process([sys.executable, "-W", "ignore", "-c", script], tmp_path).stdout
    assert "early.SSLContext is the original ssl.SSLContext" in said
    assert said.endswith("The first https request of this module fails with RecursionError.\nit is so\n")


def test_the_remedy_for_opentelemetrys_command_is_its_own_variable(
    tmp_path: pathlib.Path, write: Callable[..., None]
) -> None:
    pytest.importorskip("opentelemetry.instrumentation.auto_instrumentation")
    write({"early": EARLY, "myapp": WSGI})
    instrumented = "import opentelemetry.instrumentation.auto_instrumentation, early\n"
    write({"sitecustomize": instrumented})
    command = [sys.executable, "-m", "intralb_gevent", "check", "myapp:app"]
    text = " ".join(process(command, tmp_path).stdout.split())
    assert "set OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH=patch_all in the environment of" in text


def test_sessions_and_pools_are_multiplied_by_the_processes(check: Callable[..., Checked]) -> None:
    application = "def connect(worker_id): ...\n" + WSGI
    sizes = ("--db-init-func", "myapp:connect", "--max-workers", "2", "--max-concurrent-per-router", "5")
    assert check(application, *sizes).code == 0
    assert check(application, *sizes).titles("hint") == []
    several = check(application, *sizes, "--processes", "4")
    assert several.titles("hint") == ["up to 40 database sessions, as there are 4 processes x 2 workers x 5 slots"]
    assert several.code == 0


@pytest.mark.parametrize(
    ("transports", "processes", "found"),
    [
        ("", "2", True),
        ("", "1", False),
        ("transports=['polling']", "2", True),
        ("transports=['websocket']", "2", False),
    ],
)
def test_socketio_clients_that_poll_need_one_process(
    check: Callable[..., Checked], transports: str, processes: str, found: bool
) -> None:
    pytest.importorskip("flask_socketio")
    server = "import flask, flask_socketio\napp = flask.Flask('myapp')\nsio = flask_socketio.SocketIO(app, {})\n"
    checked = check(server.format(transports), "--processes", processes)
    said = "Socket.IO clients that poll need one process, and there are 2"
    assert (said in checked.titles("hint")) is found
    assert checked.code == 0


def test_an_engine_of_each_process(check: Callable[..., Checked]) -> None:
    pytest.importorskip("sqlalchemy")
    engine = "import sqlalchemy\nengine = sqlalchemy.create_engine('sqlite:///file.db')\n" + WSGI
    several = check(engine, "--max-workers", "1", "--max-concurrent-per-router", "15", "--processes", "4")
    said = "Engine(sqlite:///file.db) lends up to 15 connections in each of 4 processes, 60 in all"
    assert several.titles("hint")[0] == said
