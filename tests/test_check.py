"""What `check` finds, and what it leaves alone, in patched processes that import an application as a server does.

The database drivers are stand-ins with the names of the real ones: what is looked at is which modules are there.
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
    """Write modules, each given by its path."""

    def files(texts: dict[str, str]) -> None:
        for name, text in texts.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return files


@pytest.fixture
def check(tmp_path: pathlib.Path, write: Callable[..., None]) -> Callable[..., Checked]:
    """Check an application given as text."""

    def checked(application: str, *flags: str) -> Checked:
        write({"myapp": application})
        command = [sys.executable, "-m", "intralb_gevent", "check", "myapp:app", *flags]
        return Checked(process(command, tmp_path))

    return checked


def process(command: list[str], directory: pathlib.Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INTRALB_")}
    # The directory comes first, so that a sitecustomize in it is imported at the start of the process.
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
        "from intralb_gevent import Options, check\nprint(check.findings(Options()))\n"
    )
    assert process([sys.executable, "-c", script], tmp_path).stdout == "[]\n"


# Imported before patching.


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
    # It cannot listen there, and so it ends by itself.
    command = [sys.executable, "-m", "intralb_gevent", "serve", "myapp:app", "--bind", "unix:nowhere/app.sock"]
    early, driver, _ = process(command, tmp_path).stderr.splitlines()
    assert early.startswith("intralb-gevent: warning: early was imported before monkey-patching; import it after ")
    assert driver.startswith("intralb-gevent: warning: mysqlclient (MySQLdb) blocks every request while it waits; use ")


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
    "psycopg2 without a wait callback": "install_wait_callback() of intralb_gevent.integrations.psycopg2",
    "psycopg before 3.1.14": "update it",
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
    checked = check(f"import {', '.join(imports)}\n{WSGI}")
    assert checked.code == 1
    assert checked.titles("warning") == [f"{title} blocks every request while it waits" for title in BLOCKING]
    remedies = " ".join(checked.text.split()).split("Remedy: ")[1:]
    assert [told for told, remedy in zip(BLOCKING.values(), remedies, strict=True) if told not in remedy] == []


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
    assert checked.code == 1
    (told,) = checked.titles("warning")
    assert told == "Engine(sqlite:///file.db) lends 15 connections, and there are 1000 slots"
    assert "until there are at most 15 slots" in " ".join(checked.text.split())


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
    (told,) = checked.titles("warning")
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
        ("", [], ["Django's database 'default' is connected to anew in every request"]),
    ],
    ids=["pool", "large pool", "kept", "kept for ever", "not kept"],
)
def test_djangos_settings(check: Callable[..., Checked], database: str, warnings: list[str], hints: list[str]) -> None:
    pytest.importorskip("django")
    checked = check(DJANGO.format(database), *FIFTEEN_SLOTS)
    assert (checked.titles("warning"), checked.titles("hint")) == (warnings, hints)
    assert checked.code == len(warnings)


# What it cannot check.


def test_an_application_that_cannot_be_imported_is_code_2(check: Callable[..., Checked]) -> None:
    checked = check("import nowhere\n")
    assert (checked.code, checked.text) == (2, "")
    assert "No module named 'nowhere'" in checked.error
