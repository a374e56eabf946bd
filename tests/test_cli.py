"""Tests of the command line from outside: processes, real sockets, output and exit codes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from intralb_gevent import __version__
from intralb_gevent.config import sources
from intralb_gevent.config.options import declarations

ROOT = pathlib.Path(__file__).parents[1]
PATIENCE = 20.0

APP = """
import threading, time
import gevent.local

PATCHED_FIRST = threading.local is gevent.local.local

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open("slow-has-begun", "w").close()
        time.sleep(30)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"patched first" if PATCHED_FIRST else b"patched late"]

def create_app():
    return app

async def asgi(scope, receive, send): ...

def connect(worker_id):
    return object()
"""


def environment(**variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INTRALB_")}
    return {**clean, "PYTHONPATH": str(ROOT), **variables}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "intralb_gevent", *arguments]


class Ended(NamedTuple):
    code: int
    out: str
    error: str


@pytest.fixture(autouse=True)
def app_module(tmp_path: pathlib.Path) -> pathlib.Path:
    module = tmp_path / "myapp.py"
    module.write_text(APP)
    return module


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Callable[..., Ended]:
    """Return a function that runs a command in the test's directory until it ends."""

    def to_the_end(*arguments: str, **variables: str) -> Ended:
        done = subprocess.run(
            command(*arguments), cwd=tmp_path, env=environment(**variables), capture_output=True, text=True, timeout=20
        )
        assert "Traceback" not in done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    return to_the_end


class Answer(NamedTuple):
    status: int
    kind: str
    body: bytes


class Running:
    """A server process, with the addresses from its ready file."""

    def __init__(
        self,
        directory: pathlib.Path,
        arguments: tuple[str, ...],
        variables: dict[str, str],
        before: tuple[str, ...] = (),
    ) -> None:
        self.ready_file = directory / "ready.json"
        self.ready_file.unlink(missing_ok=True)
        self._log = directory / "stderr.txt"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*before, *command(*arguments, "--ready-file", "ready.json")],
                cwd=directory,
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.wait_until(lambda: self.ready_file.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said
        ready = json.loads(self.ready_file.read_text())
        self.pid, self.addresses = ready["pid"], ready["addresses"]

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.said
            time.sleep(0.01)

    def get(self, path: str = "/", address: int = 0) -> Answer:
        where = self.addresses[address]
        connection = http.client.HTTPConnection(where.get("host", "local"), where.get("port"), timeout=PATIENCE)
        if "unix" in where:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(where["unix"])
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, response.headers.get_content_type(), response.read())

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Running]]:
    """Return a function that starts servers; they are stopped at the end of the test."""
    with contextlib.ExitStack() as stack:

        def running(*arguments: str, before: tuple[str, ...] = (), **variables: str) -> Running:
            server = Running(tmp_path, arguments, variables, before)
            stack.callback(server.process.wait)
            stack.callback(server.process.kill)
            return server

        yield running


ANYWHERE = ("--bind", "127.0.0.1:0")


# Version and help.


def test_version(run: Callable[..., Ended]) -> None:
    ended = run("--version")
    assert ended.code == 0
    assert re.match(rf"intralb-gevent {re.escape(__version__)} \((not )?compiled, gevent ", ended.out)


def test_help_tells_the_commands_and_a_command_tells_every_setting(run: Callable[..., Ended]) -> None:
    assert re.findall(r"^    ([a-z]+)\b", run("--help").out, re.MULTILINE) == [
        *("serve", "demo", "check", "migrate", "top", "completion"),
    ]
    ended = run("serve", "--help")
    assert ended.code == 0
    for declaration in declarations():
        assert sources.flag(declaration.name) in ended.out
    assert "--no-enable-logging" in ended.out
    assert "exit codes:" in ended.out


def test_the_console_script_is_the_same(tmp_path: pathlib.Path) -> None:
    script = "import sys; sys.argv[1:] = ['--version']; from intralb_gevent.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=20)
    assert done.stdout.startswith(f"intralb-gevent {__version__}")


# Wrong usage.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("sreve",), "did you mean serve?"),
        (("serve",), "there is no application here (no FLASK_APP, wsgi.py, app.py, or */wsgi.py beside manage.py); "),
        (("check",), "name it, as MODULE:APP"),
        (("serve", "myapp:app", "--queue-sise", "5"), "'--queue-sise' is not understood; did you mean --queue-size?"),
        (("serve", "myapp:app", "--queue", "5"), "'--queue' is not understood"),
        (("serve", "myapp:app", "other:app"), "'other:app' is not understood"),
        (("serve", "myapp:app", "--queue-size", "many"), "queue_size: 'many' is not allowed"),
        (("serve", "myapp:app", "--min-workers", "20"), "min_workers: 20 is not allowed"),
        (("serve", "myapp:app", "--db-init-func", "myapp:conect"), "did you mean 'connect'? (from --db-init-func)"),
        (("serve", "myapp:app", "--config", "nothing.toml"), "cannot read the settings file 'nothing.toml'"),
        (("serve", "myapp:app", "--bind", "here"), "bind: 'here' is not allowed; it must be HOST:PORT"),
        (("serve", "myapp:app", "--bind", "127.0.0.1:65536"), "bind: '127.0.0.1:65536' is not allowed"),
        (("serve", "myapp:app", "--bind", "unix:"), "bind: 'unix:' is not allowed"),
        (("serve", "myapp:app", "--bind", "fd:93"), "bind: descriptor 93 is not open"),
        (("serve", "myapp:app", "--workers", "4"), "'--workers' is not understood; use --processes 4"),
        (("serve", "myapp:app", "-k", "gevent"), "'-k' is not understood; leave it out"),
        (("serve", "myapp:app", "--timeout=9"), "use --request-timeout-seconds 9"),
        (("serve", "myapp:app", "--threads", "8"), "for 8, --max-workers 1 --max-concurrent-per-router 8"),
        (
            ("serve", "myapp:app", "-k", "gevent", "--workers", "4"),
            "; '--workers' is not understood; use --processes 4",
        ),
        (("serve", "myapp:app", "--prot", "80"), "'--prot' is not understood; write --bind :80"),
        (("serve", "myapp:app", "-p", "80"), "'-p' is not understood; write --bind :80"),
        (("myapp:app",), "invalid choice: 'myapp:app' (choose from"),
        (("myapp:app",), "; did you mean 'serve myapp:app'?"),
        (("serve", "myapp.app"), "there is no module 'myapp.app'; did you mean myapp:app?"),
        (("serve", "myapp:app", "--bind", "80000"), "with a port of at most 65535"),
        (("serve", "myapp:app", "--cert-reqs", "optional"), "cert_reqs: not allowed alone; ca_certs must name"),
        (("serve", "myapp:app", "--certfile", "no.pem"), "certfile: 'no.pem' cannot be read"),
        (("serve", "myapp:app", "--keyfile", "key.pem"), "keyfile: not allowed alone; certfile must name"),
        (("serve", "myapp:app", "--bind", "fd:" + "1" * 5000), "is not allowed; it must be HOST:PORT"),
        (("serve", "myapp:app", "--user", "1" * 5000), "is not allowed; an id is at most 4294967294"),
        (("serve", "myapp:app", "--group", "4294967295"), "is not allowed; an id is at most 4294967294"),
        (("serve", "myapp:app", "--user", "no-such"), "user: there is no user 'no-such'"),
        (("serve", "myapp:app", "--chdir", "nowhere"), "chdir: 'nowhere' cannot be entered"),
        (("serve", "myapp:app", "--env-file", "none.env"), "env_file: 'none.env' cannot be read"),
        (("serve", "myapp:app", "--env-file", "/dev/zero"), "env_file: '/dev/zero' cannot be read (File too large)"),
        (("serve", "nowhere:app"), "there is no module 'nowhere'"),
        (("serve", "myapp:asgi"), "is an ASGI application"),
        (("serve", "myapp:create_app"), "write myapp:create_app() if it makes the application"),
        (("check", "myapp:ap"), "module 'myapp' has no 'ap'; did you mean 'app'?"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(run: Callable[..., Ended], arguments: tuple[str, ...], said: str) -> None:
    ended = run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(r"(intralb-gevent( \w+)?: error:|\S+ ERROR \d+) .*\n", ended.error)
    assert said in ended.error


def test_an_application_that_fails_is_told_with_the_line_that_fails(
    run: Callable[..., Ended], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "broken.py").write_text("import os\nos.environ['NOT_SET_ANYWHERE']\n")
    ended = run("serve", "broken:app")
    assert ended.code == 2
    assert re.sub(r"^\S+ ERROR \d+ ", "", ended.error) == (
        f"importing 'broken' failed: KeyError: 'NOT_SET_ANYWHERE' ({tmp_path}/broken.py:2)\n"
        "  broken.py:2  os.environ['NOT_SET_ANYWHERE']\n"
    )


# Addresses on which the server cannot listen.


def refusal(ended: Ended) -> str:
    assert (ended.code, ended.out) == (1, "")
    assert ended.error.count("\n") == 1
    return re.sub(r"^(intralb-gevent: error:|\S+ ERROR \d+) ", "", ended.error).rstrip("\n")


def test_a_taken_port(run: Callable[..., Ended]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("serve", "myapp:app", "--bind", f"127.0.0.1:{port}")
    told = f"cannot listen on http://127.0.0.1:{port}: Address already in use; "
    assert refusal(ended) == told + "stop what listens there, or choose another --bind"


def test_a_taken_unix_socket_is_left_alone(run: Callable[..., Ended], tmp_path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "app.sock"))
        taken.listen()
        assert "Address already in use" in refusal(run("serve", "myapp:app", "--bind", "unix:app.sock"))
        assert (tmp_path / "app.sock").is_socket()


def test_a_unix_socket_whose_backlog_is_full_is_left_alone(run: Callable[..., Ended], tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "app.sock")
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.socket(socket.AF_UNIX))
        taken.bind(path)
        taken.listen(0)
        full = None
        while not full:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            full = client.connect_ex(path)
        assert "Address already in use" in refusal(run("serve", "myapp:app", "--bind", "unix:app.sock"))
        assert (tmp_path / "app.sock").is_socket()


def test_a_file_is_not_taken_for_a_stale_socket(run: Callable[..., Ended], tmp_path: pathlib.Path) -> None:
    assert "a file that is not a socket is there" in refusal(run("serve", "myapp:app", "--bind", "unix:myapp.py"))
    assert (tmp_path / "myapp.py").read_text() == APP


def test_a_path_or_host_that_is_not_there(run: Callable[..., Ended]) -> None:
    ended = run("serve", "myapp:app", "--bind", "unix:nowhere/app.sock")
    assert "nowhere/app.sock: No such file or directory; choose another --bind" in refusal(ended)


def test_a_ready_file_that_cannot_be_written(run: Callable[..., Ended]) -> None:
    ended = run("serve", "myapp:app", *ANYWHERE, "--ready-file", "nowhere/ready.json")
    assert refusal(ended).startswith("cannot write the ready file 'nowhere/ready.json': No such file or directory; ")


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(("flag", "what"), [("--ready-file", "ready file"), ("--pid-file", "pid file")])
def test_a_pipe_or_device_is_not_replaced_by_a_file(
    run: Callable[..., Ended], tmp_path: pathlib.Path, flag: str, what: str, processes: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        ended = run("serve", "myapp:app", *ANYWHERE, "--processes", processes, flag, name)
        assert f"{what} '{name}': a file that is not a regular file is there; choose another {flag}" in refusal(ended)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


# Serving.


def test_serve_patches_first_tells_where_and_ends_well(start: Callable[..., Running]) -> None:
    server = start("serve", "myapp:app", *ANYWHERE, "--max-workers", "4", "--queue-size", "7")
    assert server.get().body == b"patched first"
    (address,) = server.addresses
    assert (address["host"], server.pid) == ("127.0.0.1", server.process.pid)
    assert address["url"] == f"http://127.0.0.1:{address['port']}"
    assert re.sub(r"^\S+ INFO \d+ ", "", server.said) == (
        f"intralb-gevent {__version__} (process {server.pid}) serving myapp:app on {address['url']} - "
        "3-4 workers x 100 slots, queue 7 each, deadline 30 s\n"
    )
    assert server.end() == 0
    assert not server.ready_file.exists()


def test_the_address_by_default(run: Callable[..., Ended]) -> None:
    with contextlib.ExitStack() as stack:
        # The port is used by this socket or by another process; in both cases, the error must name the port.
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", 8000)))
        assert "cannot listen on http://127.0.0.1:8000: " in refusal(run("serve", "myapp:app"))


def test_an_interrupt_ends_it_as_well(start: Callable[..., Running]) -> None:
    assert start("serve", "myapp:app", *ANYWHERE).end(signal.SIGINT) == 0


def test_a_request_that_is_cut_is_told_by_the_exit_code(start: Callable[..., Running], tmp_path: pathlib.Path) -> None:
    server = start(
        "serve", "myapp:app", *ANYWHERE, "--graceful-timeout-seconds", "0.2", "--request-timeout-seconds", "60"
    )
    with socket.create_connection(("127.0.0.1", server.addresses[0]["port"])) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n")
        server.wait_until((tmp_path / "slow-has-begun").exists)
        assert server.end() == 1


def test_a_factory(start: Callable[..., Running]) -> None:
    assert start("serve", "myapp:create_app()", *ANYWHERE).get().status == 200


def test_a_handler_waits_for_a_process_that_ended_as_soon_as_it_was_forked(
    start: Callable[..., Running], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "forking.py").write_text("""
import os

os.register_at_fork(after_in_parent=lambda: os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT))

def app(environ, start_response):
    child = os.fork()
    if child == 0:
        os._exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(code).encode()]
""")
    assert start("serve", "forking:app", *ANYWHERE).get().body == b"7"


@pytest.mark.parametrize(
    ("leaving", "code"), [("sys.exit(7)", 7), ("sys.exit()", 0), ("sys.exit('why')", 1), ("raise ValueError", 1)]
)
def test_a_process_that_a_handler_forks_ends_with_what_it_raises(
    start: Callable[..., Running], tmp_path: pathlib.Path, leaving: str, code: int
) -> None:
    (tmp_path / "forking.py").write_text(f"""
import os, sys

def app(environ, start_response):
    child = os.fork()
    if child == 0:
        {leaving}
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(code).encode()]
""")
    server = start("serve", "forking:app", *ANYWHERE)
    assert server.get().body == str(code).encode()
    assert server.end() == 0


def test_several_addresses_share_one_balancer(start: Callable[..., Running], tmp_path: pathlib.Path) -> None:
    server = start("serve", "myapp:app", *ANYWHERE, "--bind", "unix:app.sock", "--bind", "[::1]:0")
    assert [server.get(address=number).status for number in range(3)] == [200, 200, 200]
    assert server.addresses[1] == {"unix": str(tmp_path / "app.sock")}
    assert server.addresses[2]["url"].startswith("http://[::1]:")
    assert all(str(address.get("url", address.get("unix"))) in server.said for address in server.addresses)
    assert server.end() == 0
    assert not (tmp_path / "app.sock").exists()


def test_probes_have_an_address_of_their_own(start: Callable[..., Running]) -> None:
    server = start("serve", "myapp:app", *ANYWHERE, "--admin-bind", "127.0.0.1:0")
    admin = json.loads(server.ready_file.read_text())["admin"]
    connection = http.client.HTTPConnection(admin["host"], admin["port"], timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/ready")
        assert connection.getresponse().read() == b"serving\n"
    assert server.end() == 0


def test_a_ready_file_is_not_written_through_a_link_that_somebody_has_planted(
    start: Callable[..., Running], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "victim").write_text("precious")
    # Create links as an attacker could who guesses the process id; the shell and the server have the same id.
    plant = 'for name in ready.json.$$ ready.json.tmp ready.json~; do ln -s victim $name; done; exec "$@"'
    server = start("serve", "myapp:app", *ANYWHERE, before=("/bin/sh", "-c", plant, "sh"))
    assert (tmp_path / f"ready.json.{server.pid}").is_symlink()
    assert (tmp_path / "victim").read_text() == "precious"
    assert not server.ready_file.is_symlink()
    (tmp_path / "other").touch()
    assert server.ready_file.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_ready_file_that_cannot_be_filled_leaves_nothing(tmp_path: pathlib.Path) -> None:
    serving = command("serve", "myapp:app", *ANYWHERE, "--ready-file", "ready.json")
    full_disk = ("/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh")
    done = subprocess.run(
        [*full_disk, *serving],
        cwd=tmp_path,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert "cannot write the ready file 'ready.json': File too large; " in done.stderr
    assert done.returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == {"myapp.py"}


def test_a_stale_unix_socket_is_replaced(start: Callable[..., Running], tmp_path: pathlib.Path) -> None:
    killed = start("serve", "myapp:app", "--bind", "unix:app.sock")
    killed.end(signal.SIGKILL)
    assert (tmp_path / "app.sock").is_socket()
    assert killed.ready_file.exists()
    assert start("serve", "myapp:app", "--bind", "unix:app.sock").get().status == 200


def test_the_socket_of_a_successor_stays(start: Callable[..., Running], tmp_path: pathlib.Path) -> None:
    server = start("serve", "myapp:app", "--bind", "unix:app.sock")
    (tmp_path / "app.sock").unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(tmp_path / "app.sock"))
        assert server.end() == 0
        assert (tmp_path / "app.sock").is_socket()


# Settings.


def test_the_flag_of_routes_may_be_given_several_times(run: Callable[..., Ended]) -> None:
    flags = ("--routes", "/a request_timeout_seconds=2; /b", "--routes", "", "--routes=/c/* stream_timeout_seconds=9")
    shown = run("serve", "--show-config", *flags, INTRALB_ROUTES="/d").out
    tables = '{ path = "/a", request_timeout_seconds = 2.0 }, { path = "/b" }, '
    assert f'routes = [{tables}{{ path = "/c/*", stream_timeout_seconds = 9.0 }}]  # --routes\n' in shown


def test_show_config_prints_values_and_sources(run: Callable[..., Ended], tmp_path: pathlib.Path) -> None:
    (tmp_path / "intralb.toml").write_text('queue_size = 8\nmax_workers = 4\ndb_init_func = "myapp:connect"\n')
    ended = run("serve", "--show-config", "--config", "intralb.toml", "--queue-size=9", INTRALB_MAX_WORKERS="5")
    assert (ended.code, ended.error) == (0, "")
    shown = {line.split(" = ")[0]: line.split(" = ")[-1] for line in ended.out.splitlines()}
    assert shown["queue_size"].split() == ["9", "#", "--queue-size"]
    assert shown["max_workers"].split() == ["5", "#", "INTRALB_MAX_WORKERS"]
    assert shown["db_init_func"].split() == ['"myapp:connect"', "#", "intralb.toml"]
    assert shown["worker_group_size"].split() == ["3", "#", "default"]


def test_a_variable_that_is_no_setting_is_told_but_not_refused(run: Callable[..., Ended]) -> None:
    ended = run("serve", "--show-config", INTRALB_QUEU_SIZE="5")
    assert ended.code == 0
    assert ended.error == (
        "intralb-gevent: warning: INTRALB_QUEU_SIZE is not a setting and has no effect; "
        "did you mean INTRALB_QUEUE_SIZE?\n"
    )


# The job log.


def job_lines(server: Running) -> list[str]:
    server.get("/logged")
    server.wait_until(lambda: "logged" in server.said)
    assert server.end() == 0
    return [line for line in server.said.splitlines() if "logged" in line]


def test_a_line_for_each_request_on_the_standard_error(start: Callable[..., Running]) -> None:
    (line,) = job_lines(start("serve", "myapp:app", *ANYWHERE, "--enable-logging"))
    assert re.match(r"\S+ INFO \d+ GET /logged 200 completed ", line)


def test_lines_of_json_are_nothing_but_json(start: Callable[..., Running]) -> None:
    (line,) = job_lines(start("serve", "myapp:app", *ANYWHERE, "--enable-logging", "--log-format", "json"))
    assert json.loads(line)["path"] == "/logged"


@pytest.mark.parametrize(
    "configuration",
    [
        "logging.basicConfig(format='APPLICATION %(message)s', level=logging.INFO)",
        "import intralb_gevent.pool.joblog; logging.getLogger('intralb_gevent.jobs')\n"
        "logging.config.dictConfig({'version': 1, 'disable_existing_loggers': True, 'root': {'level': 'ERROR'}})",
    ],
    ids=["another format", "loggers turned off"],
)
def test_the_applications_own_logging_neither_doubles_nor_hides_them(
    start: Callable[..., Running], app_module: pathlib.Path, configuration: str
) -> None:
    app_module.write_text(f"import logging.config\n{configuration}\n{APP}")
    (line,) = job_lines(start("serve", "myapp:app", *ANYWHERE, "--enable-logging"))
    assert re.match(r"\S+ INFO \d+ GET /logged 200 ", line)


def test_an_application_that_configures_our_logger_has_its_way(
    start: Callable[..., Running], app_module: pathlib.Path
) -> None:
    own = (
        "import logging\nhandler = logging.StreamHandler()\n"
        "handler.setFormatter(logging.Formatter('OWN %(message)s'))\n"
        "logging.getLogger('intralb_gevent.jobs').addHandler(handler)\n"
    )
    app_module.write_text(own + APP)
    (line,) = job_lines(start("serve", "myapp:app", *ANYWHERE, "--enable-logging"))
    assert line.startswith("OWN GET /logged 200 ")


# The demo.


def test_the_demo_serves_its_pages_and_logs_them(start: Callable[..., Running], tmp_path: pathlib.Path) -> None:
    server = start("demo", *ANYWHERE, INTRALB_DEMO_DATABASE=str(tmp_path / "demo.sqlite3"))
    answer = server.get("/")
    assert (answer.status, answer.kind) == (200, "text/html")
    assert b"<html" in answer.body.lower()
    server.wait_until(lambda: "GET / 200" in server.said)
    assert f"open {server.addresses[0]['url']} in a browser" in server.said
    assert "deadline 30 s" in server.said
    assert server.end() == 0
    assert (tmp_path / "demo.sqlite3").exists()


def test_the_demo_takes_the_same_settings(run: Callable[..., Ended]) -> None:
    shown = run("demo", "--show-config", "--no-enable-logging", INTRALB_REQUEST_TIMEOUT_SECONDS="3").out
    assert re.search(r"^enable_logging = false +# --no-enable-logging$", shown, re.MULTILINE)
    assert re.search(r"^request_timeout_seconds = 3.0 +# INTRALB_REQUEST_TIMEOUT_SECONDS$", shown, re.MULTILINE)
    assert re.search(r'^db_init_func = "intralb_gevent.demo:open_session" ', shown, re.MULTILINE)
