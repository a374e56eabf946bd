"""Tests of child processes that a handler forks: they must work, and must not affect the server's clients."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

ROOT = pathlib.Path(__file__).parents[1]
PATIENCE = 20.0

APP = """
import ctypes, logging, multiprocessing, os, pty, socket, subprocess, sys, threading, time, urllib.request
from concurrent.futures import ProcessPoolExecutor

import gevent, greenlet
from gevent.monkey import get_original
from intralb_gevent import LoadBalancer, WSGIServer, current_session, deadline_headers, extend_deadline

PARENT = os.getpid()
LOCK = threading.Lock()
EVENT = threading.Event()
OPENED = []

class Session:
    def __init__(self, worker_id):
        self.pid = os.getpid()
        OPENED.append(self)
    def rollback(self): note("sessions", f"{os.getpid()} has rolled back the session of {self.pid}")
    def close(self): note("sessions", f"{os.getpid()} has closed the session of {self.pid}")

def note(name, text):
    with open(name, "a") as file:
        file.write(f"{text}\\n")

# Ways in which a handler forks; the child calls the given function and exits.

def by_fork(child):
    if not os.fork():
        child()
        os._exit(0)

def by_fork_within_a_timeout(child):
    with gevent.Timeout(0.1):
        by_fork(child)

def by_native_fork(child):
    if not get_original("os", "fork")():
        child()
        os._exit(0)

def by_forkpty(child):
    if not os.forkpty()[0]:
        child()
        os._exit(0)

def by_pty(child):
    if not pty.fork()[0]:
        child()
        os._exit(0)

def by_process(child):
    multiprocessing.get_context("fork").Process(target=child, daemon=child in (linger, compute)).start()

def by_executor(child):
    ProcessPoolExecutor(1, multiprocessing.get_context("fork")).submit(child)

def by_greenlet(child):
    gevent.spawn(by_fork, child).join()

def by_thread(child):
    thread = threading.Thread(target=by_fork, args=(child,))
    thread.start()
    thread.join()

def by_greenlet_in_the_handler(child):
    greenlet.greenlet(by_fork).switch(child)

def by_native_thread(child):
    gevent.get_hub().threadpool.apply(by_native_fork, (child,))

def by_preexec(child):
    # The thread waits until the program is run, which is once the child has ended.
    threading.Thread(target=subprocess.Popen, args=(["true"],), kwargs={"preexec_fn": child}, daemon=True).start()

def by_callback(child):
    gevent.get_hub().loop.run_callback(fork_in_the_hub)

def fork_in_the_hub():
    if not os.fork():
        note("children", os.getpid())

def by_daemonizing(child):
    def again():
        os.setsid()
        by_fork(child)
    by_fork(again)

# What children do.

def linger():
    note("children", os.getpid())
    while True:
        time.sleep(0.01)

def compute():
    note("children", os.getpid())
    while True:
        pass

def sleep():
    began = time.monotonic()
    time.sleep(0.05)
    return 0.05 <= time.monotonic() - began < 5

def ask_the_parent():
    return urllib.request.urlopen("http://127.0.0.1:%s/pid" % open("port").read(), timeout=5).read() == b"%d" % PARENT

def look_up():
    return socket.getaddrinfo("localhost", 80)[0][4][0] in ("127.0.0.1", "::1")

def run_a_program():
    return subprocess.run(["echo", "hello"], capture_output=True, timeout=5).stdout == b"hello\\n"

def start_a_thread():
    done = []
    thread = threading.Thread(target=lambda: (time.sleep(0.01), done.append(threading.current_thread().name)), name="x")
    thread.start()
    thread.join(5)
    return done == ["x"]

def start_a_process():
    process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(3,))
    process.start()
    process.join(5)
    return process.exitcode == 3

def use_a_queue():
    queue = multiprocessing.get_context("fork").SimpleQueue()
    process = multiprocessing.get_context("fork").Process(target=queue.put, args=("sent",))
    process.start()
    process.join(5)
    return queue.get() == "sent"

def wait_for_a_child():
    child = os.fork()
    if not child:
        time.sleep(0.01)
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

def wait_for_a_program_with_preexec_fn():
    return subprocess.run(["sh", "-c", "exit 5"], preexec_fn=lambda: time.sleep(0.01), timeout=5).returncode == 5

def use_native_threads():
    return gevent.get_hub().threadpool.apply(os.getpid) == os.getpid()

def log():
    logging.getLogger("of the child").warning("a line of %d", os.getpid())
    return True

def be_timed_out():
    try:
        with gevent.Timeout(0.01):
            time.sleep(5)
    except gevent.Timeout:
        return True

def ask_for_time():
    headers = deadline_headers()
    return extend_deadline(5) > 3600 and int(headers["X-Envoy-Expected-Rq-Timeout-Ms"]) > 3_600_000

def open_a_session():
    return current_session().pid == os.getpid() and len(OPENED) == 2

def take_a_lock():
    with LOCK:
        time.sleep(0.01)
    return True

def serve():
    server = WSGIServer(("127.0.0.1", 0), LoadBalancer(app))
    server.start()
    address = "http://127.0.0.1:%d" % server.server_port
    # Its handlers fork in turn, and their children are no servers either.
    urllib.request.urlopen(address + "/fork", timeout=5)
    pids = {urllib.request.urlopen(address + "/pid", timeout=5).read() for _ in range(20)}
    server.stop()
    return pids == {b"%d" % os.getpid()}

def have_no_child():
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True

def wait_for_a_greenlet_of_the_parent():
    try:
        SPAWNED[-1].join()
    except gevent.exceptions.LoopExit:
        return True

SPAWNED = []

def report(function):
    try:
        result = "well" if function() else "wrong"
    except BaseException as error:
        result = repr(error)
    note(f"{function.__name__}.result", result)

# The application.

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    name, _, way = query.partition("&")
    out = b"forked"
    if path == "/pid":
        out = b"%d" % os.getpid()
    elif path == "/charge":
        time.sleep(float(name))
        note("ledger", f"charged by {os.getpid()}")
        out = b"receipt"
    elif path == "/locked":
        with LOCK:
            note("ledger", f"locked by {os.getpid()}")
        out = b"had the lock"
    elif path == "/session":
        out = str(current_session().pid).encode()
    elif path == "/do":
        current_session()
        SPAWNED.append(gevent.spawn(time.sleep, 60))
        time.sleep(0)
        globals()[f"by_{way}"](lambda: report(globals()[name]))
    elif path in globals():
        return globals()[path](environ, start_response)
    else:
        globals()[f"by_{path[1:]}"](globals()[name or "linger"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(out)))])
    return [out]

def page(path):
    return lambda function: globals().__setitem__(path, function)

@page("/without-length")
def without_length(environ, start_response):
    # Without a length, only the close of the connection ends the response in HTTP/1.0.
    by_fork(linger)
    start_response("200 OK", [])
    return iter([b"answer"])

@page("/unknown-child")
def unknown_child(environ, start_response):
    # Forked by C code, so that neither Python's fork hooks nor ours run.
    by_fork(sleep)
    library = ctypes.PyDLL(None)
    child = library.fork()
    if not child:
        library.sleep(30)
        library._exit(0)
    note("children", child)
    start_response("200 OK", [])
    return iter([b"answer"])

@page("/returns")
def returns(environ, start_response):
    child = os.fork()
    if not child:
        return answer_in_the_child(environ["QUERY_STRING"], start_response)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"the child has ended with {code}".encode()]

def answer_in_the_child(how, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    time.sleep(0.01)
    if how == "write":
        write(b"of the child")
    if how == "exit":
        sys.exit(6)
    if how == "fail":
        raise ValueError("in the child")
    if how == "stream":
        return (b"of the child" for _ in range(3))
    return [] if how == "nothing" else [b"of the child"]

@page("/spawned-returns")
def spawned_returns(environ, start_response):
    children = []
    def spawned():
        child = os.fork()
        if child:
            return children.append(child)
        time.sleep(0.01)
        {"fail": lambda: 1 / 0, "exit": lambda: sys.exit(6)}.get(environ["QUERY_STRING"], int)()
    start = {"thread": by_native_thread_itself}.get(environ["QUERY_STRING"], lambda f: gevent.spawn(f).join())
    start(spawned)
    code = os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"the child has ended with {code}".encode()]

def by_native_thread_itself(function):
    # gevent's os.fork() is for threads that have gevent's default loop.
    os.fork, patched = get_original("os", "fork"), os.fork
    try:
        gevent.get_hub().threadpool.apply(function)
    finally:
        os.fork = patched

@page("/releases")
def releases(environ, start_response):
    LOCK.acquire()
    waiting = gevent.spawn(lambda: (EVENT.wait(), note("ledger", f"woken in {os.getpid()}")))
    note("holding", "the lock")
    while not os.path.exists("go on"):
        time.sleep(0.01)
    child = os.fork()
    LOCK.release()
    EVENT.set()
    if not child:
        waiting.kill(block=False)
        for _ in range(10):
            time.sleep(0.01)
        note("released", "in the child")
        os._exit(0)
    os.waitpid(child, 0)
    waiting.join()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"released"]

@page("/large")
def large(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"0123456789" * 1_000_000]

@page("/pair")
def pair(environ, start_response):
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        theirs.sendall(theirs.recv(100).upper())
        os._exit(0)
    theirs.close()
    time.sleep(0.05)
    ours.sendall(b"hello")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [ours.recv(100)]

@page("/upgraded")
def upgraded(environ, start_response):
    taken = environ["gunicorn.socket"]
    # An application that asks for the number may watch the socket in a selector.
    taken.fileno()
    by_process(taken.close)
    [child] = multiprocessing.active_children()
    child.join(5)
    taken.sendall(b"the child has ended with %d" % child.exitcode)
    return []

@page("/late")
def late(environ, start_response):
    note("late", "has begun")
    while accepts():
        time.sleep(0.01)
    by_process(have_no_child)
    [child] = multiprocessing.active_children()
    child.join(5)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the child has ended with %d" % child.exitcode]

def accepts():
    try:
        socket.create_connection(("127.0.0.1", int(open("port").read()))).close()
    except ConnectionRefusedError:
        return False
    return True

@page("/terminated")
def terminated(environ, start_response):
    process = multiprocessing.get_context("fork").Process(target=linger)
    process.start()
    while not os.path.exists("children"):
        time.sleep(0.01)
    process.terminate()
    process.join(5)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(process.exitcode).encode()]
"""


class Server:
    """A server process, and the files that its handlers' child processes write."""

    def __init__(
        self, directory: pathlib.Path, *arguments: str, command: list[str] | None = None, fds: Any = ()
    ) -> None:
        self.directory = directory
        (directory / "forking.py").write_text(APP)
        ready = directory / "ready.json"
        ready.unlink(missing_ok=True)
        serve = [sys.executable, "-m", "intralb_gevent", "serve", "forking:app", "--bind", "127.0.0.1:0"]
        serve += ["--ready-file", "ready.json", "--db-init-func", "forking:Session", *arguments]
        self._log = (directory / "stderr.txt").open("w")
        self.process = subprocess.Popen(
            command or serve, cwd=directory, env=environment(), pass_fds=fds, stdin=subprocess.DEVNULL, stderr=self._log
        )
        if command is None:
            until(lambda: ready.exists() or self.process.poll() is not None, lambda: self.said)
            facts = json.loads(ready.read_text())
            self.port = facts["addresses"][0]["port"]
            self.admin = facts.get("admin", {}).get("port")
            (directory / "port").write_text(str(self.port))

    @property
    def said(self) -> str:
        return (self.directory / "stderr.txt").read_text()

    def connect(self, port: int | None = None) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=PATIENCE)

    def get(self, path: str, version: str = "1.0") -> bytes:
        """Send a request on a new connection, and return all data until the connection is closed."""
        with self.connect() as connection:
            connection.sendall(f"GET {path} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
            return everything(connection)

    def body(self, path: str) -> bytes:
        return self.get(path).partition(b"\r\n\r\n")[2]

    def lines(self, name: str) -> list[str]:
        file = self.directory / name
        return file.read_text().splitlines() if file.exists() else []

    def wait_for_lines(self, name: str, number: int = 1) -> list[str]:
        until(lambda: len(self.lines(name)) >= number, lambda: self.said)
        return self.lines(name)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()
        for child in self.lines("children"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INTRALB_")}
    return {**clean, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore::DeprecationWarning"}


def until(condition: Callable[[], Any], why: Callable[[], str] = str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, why()
        time.sleep(0.005)


def everything(connection: socket.socket) -> bytes:
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


def is_alive(pid: int) -> bool:
    """Return True if a process is running; a zombie is not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(*arguments: str, **started: Any) -> Server:
        made.append(Server(tmp_path, *arguments, **started))
        return made[-1]

    yield make
    for server in made:
        server.clean_up()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start one server for all tests that do not change its state."""
    server = Server(tmp_path_factory.mktemp("shared"))
    yield server
    server.clean_up()


WAYS = (
    *("fork", "forkpty", "pty", "process", "executor", "greenlet", "thread", "greenlet_in_the_handler"),
    *("fork_within_a_timeout", "native_thread", "preexec", "daemonizing"),
)


@pytest.mark.parametrize("way", WAYS)
def test_a_child_that_waits_is_no_second_server(start: Callable[..., Server], way: str) -> None:
    server = start("--request-timeout-seconds", "1")
    with server.connect() as other, server.connect() as asking:
        other.sendall(b"GET /charge?0.8 HTTP/1.1\r\nHost: x\r\n\r\n")
        asking.sendall(f"GET /{way} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        (child,) = map(int, server.wait_for_lines("children"))
        pids = {server.body("/pid") for _ in range(50)}
        assert pids == {b"%d" % server.process.pid}
        server.wait_for_lines("ledger")
        # After this response, the deadlines of all requests that were running at the fork have passed.
        assert server.get("/charge?60").startswith(b"HTTP/1.1 504")
        assert is_alive(child)
        if way == "executor":
            # Kill the child, because Python would wait at its exit for the running jobs of an executor.
            os.kill(child, signal.SIGKILL)
        assert server.end() == 0
        if way != "preexec":
            assert everything(asking).count(b"HTTP/1.1") == 1
        assert everything(other).endswith(b"receipt")
    assert server.lines("ledger") == [f"charged by {server.process.pid}"]
    # If a fork hook raises an exception, Python ignores the exception, and the child is not isolated.
    assert "Exception ignored" not in server.said


def test_a_child_of_a_callback_of_the_event_loop_ends_with_that(start: Callable[..., Server]) -> None:
    server = start()
    for _ in range(3):
        assert server.body("/callback") == b"forked"
    children = [int(child) for child in server.wait_for_lines("children", 3)]
    assert {server.body("/pid") for _ in range(50)} == {b"%d" % server.process.pid}
    until(lambda: not any(map(is_alive, children)))


def test_a_child_that_computes_has_no_deadline(start: Callable[..., Server]) -> None:
    server = start("--request-timeout-seconds", "0.2")
    assert server.body("/fork?compute") == b"forked"
    (child,) = map(int, server.wait_for_lines("children"))
    assert server.get("/charge?60").startswith(b"HTTP/1.1 504")
    assert is_alive(child)


TASKS = (
    *("sleep", "ask_the_parent", "look_up", "run_a_program", "start_a_thread", "start_a_process", "use_a_queue"),
    *("wait_for_a_child", "wait_for_a_program_with_preexec_fn", "use_native_threads", "log", "be_timed_out"),
    *("serve", "take_a_lock", "have_no_child", "wait_for_a_greenlet_of_the_parent"),
)


@pytest.mark.parametrize("way", ["fork", "process", "greenlet", "daemonizing"])
@pytest.mark.parametrize("task", TASKS)
def test_what_works_in_a_child(shared: Server, task: str, way: str) -> None:
    (shared.directory / f"{task}.result").unlink(missing_ok=True)
    assert shared.body(f"/do?{task}&{way}") == b"forked"
    assert shared.wait_for_lines(f"{task}.result") == ["well"], shared.said


def test_a_child_has_a_session_of_its_own_and_no_deadline(start: Callable[..., Server]) -> None:
    server = start("--max-workers", "1", "--min-workers", "1", "--max-concurrent-per-router", "1")
    assert server.body("/session") == b"%d" % server.process.pid
    for task in ("open_a_session", "ask_for_time"):
        assert server.body(f"/do?{task}&fork") == b"forked"
        assert server.wait_for_lines(f"{task}.result") == ["well"]
    assert server.body("/session") == b"%d" % server.process.pid
    assert server.end() == 0
    assert {line.split()[0] for line in server.lines("sessions")} == {str(server.process.pid)}


@pytest.mark.parametrize(
    ("how", "code"), [("list", 0), ("nothing", 0), ("write", 0), ("stream", 0), ("exit", 6), ("fail", 1)]
)
def test_a_handler_that_returns_in_a_child_ends_it_and_writes_nothing(shared: Server, how: str, code: int) -> None:
    received = shared.get(f"/returns?{how}")
    assert received.count(b"HTTP/1.1") == 1
    assert received.endswith(b"the child has ended with %d" % code)
    assert ("ValueError: in the child" in shared.said) == (how == "fail")


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("thread", 0), ("exit", 6), ("fail", 1)])
def test_a_greenlet_that_returns_in_a_child_ends_it(shared: Server, how: str, code: int) -> None:
    assert shared.body(f"/spawned-returns?{how}") == b"the child has ended with %d" % code


def test_what_a_child_releases_wakes_no_greenlet_of_its_parent(start: Callable[..., Server]) -> None:
    server = start()
    with server.connect() as holding, server.connect() as waiting:
        holding.sendall(b"GET /releases HTTP/1.0\r\n\r\n")
        server.wait_for_lines("holding")
        waiting.sendall(b"GET /locked HTTP/1.0\r\n\r\n")
        # Once a later request has been answered, the handler of /locked is waiting.
        assert server.body("/pid")
        (server.directory / "go on").touch()
        assert everything(waiting).endswith(b"had the lock")
        assert everything(holding).endswith(b"released")
    assert server.lines("released") == ["in the child"]
    assert sorted(server.lines("ledger")) == [f"locked by {server.process.pid}", f"woken in {server.process.pid}"]


def test_a_child_leaves_what_its_parent_has_still_to_send(shared: Server) -> None:
    with shared.connect() as slow:
        slow.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        received = slow.recv(1)
        for way in ("fork", "process", "greenlet"):
            assert shared.body(f"/do?sleep&{way}") == b"forked"
        received += everything(slow)
    assert received.partition(b"\r\n\r\n")[2] == b"0123456789" * 1_000_000


def test_a_socket_that_a_handler_has_made_works_in_its_child(shared: Server) -> None:
    assert shared.body("/pair") == b"HELLO"


@pytest.mark.parametrize("flags", [(), ("--processes=2",), ("--admin-bind=127.0.0.1:0",)])
def test_a_handler_forks_during_a_shutdown(start: Callable[..., Server], flags: tuple[str, ...]) -> None:
    server = start("--graceful-timeout-seconds=20", *flags)
    with server.connect() as connection:
        connection.sendall(b"GET /late HTTP/1.0\r\nHost: x\r\n\r\n")
        server.wait_for_lines("late")
        server.process.terminate()
        assert everything(connection).endswith(b"the child has ended with 0"), server.said
    assert server.process.wait(PATIENCE) == 0


def test_a_child_can_close_the_socket_of_a_connection_that_its_handler_has_taken_over(shared: Server) -> None:
    with shared.connect() as connection:
        connection.sendall(b"GET /upgraded HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
        assert everything(connection) == b"the child has ended with 0", shared.said


def test_a_child_can_be_terminated(start: Callable[..., Server]) -> None:
    assert start().body("/terminated") == str(-signal.SIGTERM).encode()


@pytest.mark.parametrize("path", ["/without-length", "/unknown-child"])
def test_an_answer_ends_while_a_child_lives(start: Callable[..., Server], path: str) -> None:
    server = start()
    assert server.body(path) == b"answer"
    (child,) = map(int, server.wait_for_lines("children"))
    assert is_alive(child)


def test_an_answer_over_tls_ends_while_a_child_lives(tmp_path: pathlib.Path, start: Callable[..., Server]) -> None:
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    (tmp_path / "program.py").write_text(PROGRAM.format(arguments=", certfile='server.pem'"))
    server = start(command=[sys.executable, "program.py"])
    server.port = int(server.wait_for_lines("port")[0])
    context = ssl.create_default_context()
    authority.configure_trust(context)
    for path in ("/without-length", "/unknown-child"):
        with context.wrap_socket(server.connect(), server_hostname="localhost") as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            # Reading raises an exception if the connection ends without a close_notify.
            assert everything(connection).endswith(b"answer")
    assert all(map(is_alive, map(int, server.wait_for_lines("children", 2))))


PROGRAM = """
from gevent import monkey
monkey.patch_all()
import forking
from intralb_gevent import WSGIServer

server = WSGIServer(("127.0.0.1", 0), forking.app{arguments})
server.start()
forking.note("port", server.server_port)
server.serve_forever()
"""


@pytest.mark.parametrize(
    ("way", "number"),
    [
        *[(way, signal.SIGKILL) for way in ("fork", "process", "executor", "native_thread")],
        *[(way, signal.SIGTERM) for way in ("fork", "process")],
    ],
)
def test_nothing_is_left_of_a_server_that_ends_before_a_child(
    start: Callable[..., Server], way: str, number: int
) -> None:
    server = start("--admin-bind", "127.0.0.1:0")
    with server.connect() as kept, server.connect(server.admin) as probing:
        kept.sendall(f"GET /{way} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        probing.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert probing.recv(4096).startswith(b"HTTP/1.1 200")
        (child,) = map(int, server.wait_for_lines("children"))
        assert kept.recv(4096).endswith(b"forked")
        server.end(number)
        # Only daemonic children of multiprocessing are allowed to have ended, because Python ends them at its exit.
        assert is_alive(child) or (way, number) == ("process", signal.SIGTERM)
        assert everything(kept) == b""
        with contextlib.suppress(ConnectionResetError):
            everything(probing)
    for port in (server.port, server.admin):
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("how", ["pywsgi", "gunicorn", "handler_class"])
@pytest.mark.parametrize("way", ["fork", "process"])
def test_a_child_is_no_second_server_inside_another_server(
    start: Callable[..., Server], tmp_path: pathlib.Path, how: str, way: str
) -> None:
    (tmp_path / "outer.py").write_text(OUTER)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        gunicorn = ["-m", "gunicorn", "-k", "gevent", "-b", f"fd://{number}", "--no-control-socket", "outer:app"]
        arguments = gunicorn if how == "gunicorn" else ["outer.py", str(number), how]
        server = start(command=[sys.executable, *arguments], fds=[number])
        server.port = listener.getsockname()[1]
        with server.connect() as other, server.connect() as asking:
            serving = server.body("/pid")
            other.sendall(b"GET /charge?0.8 HTTP/1.1\r\nHost: x\r\n\r\n")
            asking.sendall(f"GET /{way} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            (child,) = map(int, server.wait_for_lines("children"))
            assert {server.body("/pid") for _ in range(50)} == {serving}
            server.wait_for_lines("ledger")
            # After this response, the deadlines of both requests have passed.
            assert b" 504 " in server.get("/charge?60")
            assert is_alive(child)
            other.setblocking(False)
            asking.setblocking(False)
            assert [client.recv(65536).count(b"HTTP/1.1") for client in (other, asking)] == [1, 1]
            for path in ("/returns?list", "/returns?write", "/returns?stream"):
                assert server.body(path) == b"the child has ended with 0"
        assert server.lines("ledger") == [f"charged by {serving.decode()}"]


OUTER = """
from gevent import monkey
monkey.patch_all()
import socket, sys
from gevent import pywsgi
import forking
from intralb_gevent import LoadBalancer, Options, WSGIServer

options = Options(request_timeout_seconds=1, db_init_func=forking.Session)
app = LoadBalancer(forking.app, options).balance_load()
if __name__ == "__main__":
    listener = socket.socket(fileno=int(sys.argv[1]))
    if sys.argv[2] == "pywsgi":
        pywsgi.WSGIServer(listener, app, log=None).serve_forever()
    WSGIServer(listener, app, log=None, handler_class=pywsgi.WSGIHandler).serve_forever()
"""


def test_a_fork_during_the_shutdown_leaves_nothing_behind(start: Callable[..., Server]) -> None:
    server = start("--graceful-timeout-seconds", "5", "--drain-delay-seconds", "0")
    with server.connect() as running:
        running.sendall(b"GET /charge?0.5 HTTP/1.1\r\nHost: x\r\n\r\nGET /fork HTTP/1.1\r\nHost: x\r\n\r\n")
        assert server.body("/pid")
        assert server.end() == 0
        received = everything(running)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) in ([b"200"], [b"200", b"200"])
    socket.create_server(("127.0.0.1", server.port)).close()


def test_a_fork_of_the_programs_main_greenlet_is_left_as_it_is(
    start: Callable[..., Server], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "program.py").write_text(PREFORK)
    server = start(command=[sys.executable, "program.py"])
    server.port = int(server.wait_for_lines("port")[0])
    until(lambda: len({server.body("/pid") for _ in range(20)}) == 2)
    assert b"%d" % server.process.pid not in {server.body("/pid") for _ in range(20)}


PREFORK = """
from gevent import monkey
monkey.patch_all()
import os, socket, time
import forking
from intralb_gevent import LoadBalancer, WSGIServer

balancer = LoadBalancer(forking.app)
listener = socket.create_server(("127.0.0.1", 0))
# A balancer that has begun to serve in the master.
balancer.resize(1 + balancer.options.first_workers)
for _ in range(2):
    if not os.fork():
        forking.note("children", os.getpid())
        WSGIServer(listener, LoadBalancer(forking.app)).serve_forever()
forking.note("port", listener.getsockname()[1])
time.sleep(60)
"""
