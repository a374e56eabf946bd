"""Tests of what a new user meets first: start lines, found settings, TLS, users, files, and --reload."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import ssl
import stat
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import pytest
import trustme

from intralb_gevent.cli.failedapplication import FailedApplication
from intralb_gevent.errors import LoadError

PATIENCE = 25.0
SERVE = ("-m", "intralb_gevent", "serve", "--ready-file", "ready.json")
APP = """
import os, stat
def app(environ, start_response):
    open("made", "w").close()
    mode = stat.S_IMODE(os.stat("made").st_mode)
    start_response("200 OK", [("Content-Type", "text/plain")])
    groups = os.getgroups()
    return [f"{os.environ.get('COLOUR')} {mode:o} {os.getgid()} {groups} {environ['wsgi.url_scheme']}".encode()]
"""

Run = Callable[..., Any]


def facts(process: Any, file: str = "ready.json") -> dict[str, Any]:
    """Wait until the server listens, and return the content of its ready file."""
    ready = process.directory / file
    end = time.monotonic() + PATIENCE
    while not ready.exists():
        assert process.process.poll() is None, process.said
        assert time.monotonic() < end, process.said
        time.sleep(0.01)
    return dict(json.loads(ready.read_text()))


def until(process: Any, condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < end, process.said
        time.sleep(0.02)
    return result


def get(where: dict[str, Any], context: ssl.SSLContext | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(where.get("host", "localhost"), where.get("port"), timeout=PATIENCE)
    connection.sock = socket.create_connection((where["host"], where["port"])) if "port" in where else None
    if "unix" in where:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(where["unix"])
    if context is not None:
        connection.sock = context.wrap_socket(connection.sock, server_hostname="localhost")
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()


# What is found.


def test_the_application_the_file_and_the_port_are_found_and_named(run_python: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    files = {"app.py": APP, "intralb.toml": "queue_size = 7\n"}
    server = run_python(*SERVE, files=files, variables={"PORT": str(port)})
    (address,) = facts(server)["addresses"]
    assert (address["host"], address["port"]) == ("0.0.0.0", port)
    assert get({"host": "127.0.0.1", "port": port})[0] == 200
    until(server, lambda: f"settings from ./intralb.toml and PORT={port}" in server.said)
    assert "serving app:app (found in app.py) on " in server.said
    assert "queue 7 each" in server.said


def test_every_part_of_the_program_is_a_setting(run_python: Run) -> None:
    pytest.importorskip("dotenv")
    settings = """
application = "shop"
chdir = "inner"
env_file = "variables"
bind = ["unix:app.sock", "0"]
socket_mode = "660"
umask = "027"
pid_file = "server.pid"
ready_file = "ready.json"
"""
    files = {"intralb.toml": settings, "inner/shop.py": APP, "inner/variables": "export COLOUR='dark blue'\n"}
    server = run_python(*SERVE[:3], files=files, variables={"INTRALB_UMASK": "077"})
    addresses = facts(server, "inner/ready.json")["addresses"]
    inner = server.directory / "inner"
    assert (inner / "server.pid").read_text() == f"{server.process.pid}\n"
    assert stat.S_IMODE((inner / "app.sock").stat().st_mode) == 0o660
    assert [get(address) for address in addresses] == [(200, f"dark blue 600 {os.getgid()} {os.getgroups()} http")] * 2
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert {path.name for path in inner.iterdir()} - {"__pycache__"} == {"shop.py", "variables", "made"}


def test_everybody_may_connect_to_a_unix_socket_by_default(run_python: Run) -> None:
    server = run_python(*SERVE, "-b", "unix:app.sock", files={"app.py": APP}, umask=0o077)
    facts(server)
    assert stat.S_IMODE((server.directory / "app.sock").stat().st_mode) == 0o777


def test_an_open_listener_is_used(run_python: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        server = run_python(*SERVE, "-b", f"fd:{number}", files={"app.py": APP}, pass_fds=[number])
        (address,) = facts(server)["addresses"]
        assert address["port"] == listener.getsockname()[1]
        assert get(address)[0] == 200


@pytest.mark.skipif(os.getuid() != 0, reason="only root can change the group")
def test_a_group_and_its_files(run_python: Run) -> None:
    flags = ("-b", "unix:app.sock", "--group", "4242", "--pid-file", "server.pid")
    server = run_python(*SERVE, *flags, files={"app.py": APP})
    (address,) = facts(server)["addresses"]
    assert " 4242 [4242] " in get(address)[1]
    assert (server.directory / "app.sock").stat().st_gid == 4242
    assert (server.directory / "server.pid").stat().st_gid == 4242


# TLS.


def write_certificate(directory: pathlib.Path, authority: trustme.CA) -> None:
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "new.pem"))
    (directory / "new.pem").replace(directory / "server.pem")


def test_tls_and_a_new_certificate_after_sighup(run_python: Run, tmp_path: pathlib.Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    write_certificate(tmp_path, first)
    server = run_python(*SERVE, "-b", "0", "--certfile", str(tmp_path / "server.pem"), files={"app.py": APP})
    (address,) = facts(server)["addresses"]
    assert address["url"].startswith("https://")

    def trusts(authority: trustme.CA) -> bool:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        try:
            return get(address, context)[1].endswith(" https")
        except ssl.SSLError:
            return False

    assert (trusts(first), trusts(second)) == (True, False)
    (tmp_path / "server.pem").write_text("no certificate")
    server.signal(signal.SIGHUP)
    until(server, lambda: "the certificates stay as they were" in server.said)
    assert trusts(first)
    write_certificate(tmp_path, second)
    server.signal(signal.SIGHUP)
    until(server, lambda: "read the certificates again" in server.said)
    assert (trusts(first), trusts(second)) == (False, True)


def test_a_client_may_be_without_a_certificate_if_cert_reqs_is_optional(
    run_python: Run, tmp_path: pathlib.Path
) -> None:
    authority = trustme.CA()
    write_certificate(tmp_path, authority)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    text = "def app(environ, start_response):\n    start_response('200 OK', [])\n"
    text += "    return [environ['SSL_CLIENT_VERIFY'].encode()]\n"
    flags = ("--certfile", str(tmp_path / "server.pem"), "--ca-certs", str(tmp_path / "authority.pem"))
    server = run_python(*SERVE, "-b", "0", *flags, "--cert-reqs", "optional", files={"app.py": text})
    context = ssl.create_default_context()
    authority.configure_trust(context)
    (address,) = facts(server)["addresses"]
    assert get(address, context) == (200, "NONE")
    authority.issue_cert("client").configure_cert(context)
    assert get(address, context) == (200, "SUCCESS")


# A terminal.


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["colours", "NO_COLOR"])
def test_a_terminal_shows_a_block(run_python: Run, variables: dict[str, str]) -> None:
    terminal, other = pty.openpty()
    command = f"import os; os.dup2({other}, 2); os.execv({sys.executable!r}, [{sys.executable!r}, *{SERVE!r}, '-b0'])"
    server = run_python(
        "-c",
        command,
        files={"app.py": "import sqlite3\n" + APP},
        variables={"TERM": "xterm", **variables},
        pass_fds=[other],
    )
    os.close(other)
    shown, end = "", time.monotonic() + PATIENCE
    while "admin page" not in shown:
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 0.5)[0]:
            shown += os.read(terminal, 4096).decode()
    assert ("\033[" in shown) is (not variables)
    assert f"process {server.process.pid}" in shown
    for text in ("app:app (found in app.py)", "http://127.0.0.1:", "3-10 workers x 100 slots", "30 s", "sqlite3"):
        assert text in shown
    os.close(terminal)


# An application that cannot be imported.


def test_the_users_frames_are_shown_down_to_the_cause(run_python: Run) -> None:
    files = {
        "app.py": "import json\nfrom prices import price\n",
        "prices.py": "try:\n    import nowhere_to_be_found\nexcept ImportError as error:\n"
        "    raise RuntimeError('no prices') from error\n",
    }
    server = run_python(*SERVE, "-b", "0", files=files)
    assert server.ended() == 2
    first, *frames = server.said.splitlines()
    assert re.match(r"\S+ ERROR \d+ importing 'app' failed: RuntimeError: no prices \(", first)
    assert frames == [
        "  prices.py:2  import nowhere_to_be_found",
        "  ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        "  app.py:2     from prices import price",
        "  prices.py:4  raise RuntimeError('no prices') from error",
    ]


def test_reload_serves_the_new_version_and_the_traceback_of_a_broken_one(run_python: Run) -> None:
    pytest.importorskip("watchfiles")
    text = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'%s']\n"
    flags = ("-b", "0", "--reload", "--ready-path", "/")
    variables = {"PYTHONDONTWRITEBYTECODE": ""}
    server = run_python(*SERVE, *flags, files={"app.py": text % "one"}, variables=variables)
    (address,) = facts(server)["addresses"]
    assert get(address) == (200, "one")
    saved = (server.directory / "app.py").stat().st_mtime
    (server.directory / "app.py").write_text(text % "two")
    # The two versions have the same size and are saved in the same second, so that Python would load the old bytecode.
    os.utime(server.directory / "app.py", (saved, saved))
    until(server, lambda: get(address) == (200, "two"))
    (server.directory / "app.py").write_text("price = 1 / 0\n")
    _, page = until(server, lambda: (answer := get(address))[0] == 500 and answer)
    assert "app.py:1  price = 1 / 0" in page
    assert "ZeroDivisionError" in page
    (server.directory / "app.py").write_text(text % "three")
    until(server, lambda: get(address) == (200, "three"))
    server.signal(signal.SIGTERM)
    assert server.ended() == 0


def test_reload_tells_that_it_runs_one_process(run_python: Run) -> None:
    pytest.importorskip("watchfiles")
    server = run_python(*SERVE, "-b", "0", "--reload", "-w", "3", files={"app.py": APP})
    facts(server)
    until(server, lambda: "--reload runs one process, and not the 3 of --processes" in server.said)


def test_a_port_of_the_platform_that_is_none_is_an_error(run_python: Run) -> None:
    server = run_python(*SERVE, files={"app.py": APP}, variables={"PORT": "web"})
    assert server.ended() == 2
    assert "bind: ':web' is not allowed; it must be HOST:PORT" in server.said
    assert "(from PORT)" in server.said


def test_a_number_that_is_quoted_in_a_file(run_python: Run) -> None:
    server = run_python(*SERVE, files={"app.py": APP, "intralb.toml": 'queue_size = "7"\n'})
    assert server.ended() == 2
    assert "queue_size: '7' is not allowed" in server.said
    assert "; write it without quotes" in server.said


def test_a_traceback_is_shown_on_loopback_only() -> None:
    page = b"".join(FailedApplication(LoadError("<secret>"), False)({}, lambda status, headers: None))
    assert b"secret" not in page
    assert b"See the log" in page
    assert b"&lt;secret&gt;" in b"".join(FailedApplication(LoadError("<secret>"), True)({}, lambda *given: None))


# The commands of frameworks.


def test_flask_intralb(run_python: Run) -> None:
    pytest.importorskip("flask")
    if not entry_points(group="flask.commands", name="intralb"):
        pytest.skip("the package is not installed, so Flask does not find its command")
    text = "from flask import Flask\nshop = Flask(__name__)\n@shop.get('/')\ndef home(): return 'flask'\n"
    flags = ("-b", "0", "--ready-file", "ready.json")
    server = run_python("-m", "flask", "--app", "shop", "intralb", *flags, files={"shop.py": text})
    assert get(facts(server)["addresses"][0]) == (200, "flask")


SETTINGS = """
DEBUG = True
SECRET_KEY = "x"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
STATIC_URL = "static/"
INSTALLED_APPS = ["django.contrib.staticfiles", "intralb_gevent.django", "shop"]
"""
MANAGE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


def test_manage_py_runintralb(run_python: Run) -> None:
    pytest.importorskip("django")
    files = {
        "manage.py": MANAGE,
        "shop/__init__.py": "",
        "shop/settings.py": SETTINGS,
        "shop/urls.py": "from django.http import HttpResponse\nfrom django.urls import path\n"
        "urlpatterns = [path('', lambda request: HttpResponse('django'))]\n",
    }
    flags = ("0", "--noreload", "--ready-file", "ready.json", "--queue-size", "9")
    server = run_python("manage.py", "runintralb", *flags, files=files)
    assert get(facts(server)["addresses"][0]) == (200, "django")
    assert "queue 9 each" in server.said
