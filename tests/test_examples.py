"""Start each example as a user would, send requests, and stop it with SIGTERM."""

import http.client
import json
import os
import pathlib
import queue
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

import intralb_gevent

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
PATIENCE = 20
"""Maximum number of seconds to wait for events that usually take a fraction of a second."""


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Ending(NamedTuple):
    code: int
    printed: list[str]
    errors: str


class Example:
    """A running example, whose standard output can be read line by line, and a client for it."""

    def __init__(self, name: str, directory: pathlib.Path, *arguments: str) -> None:
        self._errors = directory / "stderr"
        self._lines: queue.Queue[str | None] = queue.Queue()
        temporary = directory / "temporary"
        temporary.mkdir()
        package = pathlib.Path(intralb_gevent.__file__).parents[1]
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), "--bind", "127.0.0.1:0", *arguments],
                env={**os.environ, "PYTHONPATH": str(package), "TMPDIR": str(temporary)},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self) -> str:
        """Return the next line that the example prints."""
        line = self._lines.get(timeout=PATIENCE)
        assert line is not None, f"the example has ended: {self._errors.read_text()}"
        return line

    def wait_until_listening(self) -> None:
        line = self.line()
        assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+", line)
        self.port = int(line.rpartition(":")[2])

    def begin(self, path: str, **headers: str) -> http.client.HTTPConnection:
        """Send a request, and do not wait for the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", path, headers=headers)
        return connection

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            return read(connection)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, **fields: str) -> Answer:
        body = "&".join(f"{name}={value}" for name, value in fields.items())
        return self.ask("POST", path, body, **{"Content-Type": "application/x-www-form-urlencoded"})

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_until_refusing(self) -> None:
        """Wait until connections are refused."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE).close()
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                # The example closed its listener while this connection was being opened.
                continue
        raise AssertionError("the example still listens")

    def ending(self) -> Ending:
        """Wait for the process to end; return the exit code, the unread lines, and the standard error."""
        code = self.process.wait(PATIENCE)
        self._reader.join()
        return Ending(code, list(iter(self._lines.get, None)), self._errors.read_text())

    def stop(self) -> Ending:
        self.signal(signal.SIGTERM)
        return self.ending()

    def abandon(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join()


def read(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read().decode())


@pytest.fixture
def start(tmp_path):
    started = []

    def start(name, *arguments):
        started.append(Example(name, tmp_path, *arguments))
        started[0].wait_until_listening()
        return started[0]

    yield start
    for example in started:
        example.abandon()


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_explained_and_ends_quietly_when_nothing_was_asked(name, start):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert f"\npython examples/{name}.py" in text
    assert f"| `{name}.py` |" in (EXAMPLES / "README.md").read_text()
    ending = start(name).stop()
    assert (ending.code, ending.errors) == (0, "")


def test_the_basic_api_answers_in_json_and_logs_every_request(start):
    api = start("basic_api")
    added = api.ask("POST", "/books", '{"title": "Emma"}', **{"Content-Type": "application/json"})
    assert (added.status, added.json) == (201, {"id": 2, "title": "Emma"})
    assert api.get("/books").json["books"] == [{"id": 1, "title": "Middlemarch"}, {"id": 2, "title": "Emma"}]
    missing = api.get("/books/3/price")
    assert (missing.status, missing.json) == (404, {"error": "There is no book 3."})
    ending = api.stop()
    assert (ending.code, ending.printed) == (0, [])
    logged = [re.search(r"(\w+ /\S* \d+ \w+) worker=\d", line)[1] for line in ending.errors.splitlines()]
    assert logged == ["POST /books 201 completed", "GET /books 200 completed", "GET /books/3/price 404 completed"]


def test_requests_of_the_basic_api_do_not_wait_for_each_other(start):
    api, visitors = start("basic_api"), 20
    started = time.monotonic()
    with ThreadPoolExecutor(visitors) as pool:
        answers = list(pool.map(api.get, ["/books/1/price"] * visitors))
    assert [answer.json for answer in answers] == [{"id": 1, "price": 11}] * visitors
    assert time.monotonic() - started < visitors * 0.3 / 2
    assert api.stop().code == 0


def test_the_gateway_mounts_services_that_link_to_their_own_pages(start):
    gateway = start("gateway")
    users = gateway.get("/users").json["users"]
    products = gateway.get("/products").text.split()
    assert [gateway.get(link).json["name"] for link in users] == ["Ada", "Grace"]
    assert [gateway.get(link).text for link in products] == ["tea costs 3.\n", "coffee costs 4.\n"]
    assert users[1] == "/users/2"
    assert products[0] == "/products/tea"
    ending = gateway.stop()
    assert (ending.code, ending.printed, ending.errors) == (0, [], "")


def test_the_gateway_leaves_wrong_paths_to_whom_they_belong(start):
    gateway = start("gateway")
    nowhere, no_user, no_product = (gateway.get(path) for path in ("/orders/1", "/users/9", "/products/milk"))
    assert (nowhere.status, nowhere.text) == (404, "Mounted here: users, products.\n")
    assert (no_user.status, "There is no user 9." in no_user.text) == (404, True)
    assert (no_product.status, no_product.text) == (404, "There is no product milk.\n")
    assert gateway.stop().code == 0


def test_a_session_serves_many_requests_and_forgets_what_was_not_committed(start, tmp_path):
    notes = start("database_sessions")
    workers = []
    for number in range(4):
        kept = [f"kept{each}" for each in range(number + 1)]
        assert notes.post("/notes", text=f"kept{number}").json["notes"] == kept
        assert notes.post("/forgetful", text="lost").json["notes"] == [*kept, "lost"]
        listed = notes.get("/notes").json
        assert listed["notes"] == kept
        workers.append(listed["worker"])
    assert set(workers) == {1, 2}
    ending = notes.stop()
    assert sorted(ending.printed) == [f"opened a session for worker {worker}" for worker in (1, 2)]
    assert (ending.code, ending.errors) == (0, "")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_session_is_of_use_again_after_a_statement_that_failed(start):
    notes = start("database_sessions")
    notes.post("/notes", text="once")
    answers = [notes.post("/notes", text="once") for _ in range(4)]
    assert [(answer.status, answer.json) for answer in answers] == [(409, {"error": "There is this note already."})] * 4
    assert [notes.get("/notes").json["notes"] for _ in range(2)] == [["once"]] * 2
    ending = notes.stop()
    assert (ending.code, len(ending.printed), ending.errors) == (0, 2, "")


def test_middleware_before_the_balancer_answers_while_its_only_slot_is_busy(start):
    key = {"X-API-Key": "ada-7315"}
    reports = start("middleware")
    connection = reports.begin("/", **key)
    report = connection.getresponse()
    first_line = report.readline().decode()
    # While the report is being sent, the slot is busy, as the last of these responses shows.
    without_key, wrong_key = reports.get("/"), reports.get("/", **{"X-API-Key": "ada"})
    no_slot = reports.get("/", **key)
    assert [answer.status for answer in (without_key, wrong_key, no_slot)] == [403, 403, 503]
    assert without_key.text == wrong_key.text == "Send a valid X-API-Key.\n"
    assert (no_slot.headers["X-Intralb-Reason"], no_slot.headers["X-Intralb-Executed"]) == ("queue_full", "0")
    ids = [answer.headers["X-Request-Id"] for answer in (report, without_key, wrong_key, no_slot)]
    assert len({request_id for request_id in ids if re.fullmatch("[0-9a-f]{32}", request_id)}) == 4
    assert first_line == f"A report for Ada, request {ids[0]}:\n"
    # Begin a shutdown, which must wait for the response with the report.
    reports.signal(signal.SIGTERM)
    assert report.read() == b"all is well.\n"
    connection.close()
    ending = reports.ending()
    assert (ending.code, ending.printed) == (0, [])
    assert re.fullmatch(r"refused 1 request in \d+ s: queue_full 1\n", ending.errors)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_shutdown_still_answers_the_page_that_is_on_its_way(start, number):
    project = start("graceful")
    connection = project.begin("/slow/1")
    assert project.line() == "begun: /slow/1"
    project.signal(number)
    answer = read(connection)
    assert (answer.status, answer.text) == (200, "These were 1 seconds.\n")
    assert answer.headers["Connection"] == "close"
    ending = project.ending()
    assert ending.printed == ["done: /slow/1", "shut down: 1 answered, 0 cut"]
    assert (ending.code, ending.errors) == (0, "")


def test_a_graceful_shutdown_cuts_what_outlives_the_grace_and_says_so(start):
    project = start("graceful", "--grace", "0.2")
    connection = project.begin("/slow/30")
    assert project.line() == "begun: /slow/30"
    project.signal(signal.SIGTERM)
    answer = read(connection)
    assert (answer.status, answer.headers["X-Intralb-Reason"]) == (503, "killed")
    ending = project.ending()
    assert (ending.code, ending.printed) == (1, ["shut down: 0 answered, 1 cut"])
    assert ending.errors.startswith("cut: GET /slow/30 after ")
    assert ending.errors.count("cut: ") == 1


def test_a_second_signal_ends_a_graceful_shutdown_at_once(start):
    project = start("graceful", "--grace", "300")
    connection = project.begin("/slow/300")
    assert project.line() == "begun: /slow/300"
    project.signal(signal.SIGTERM)
    project.wait_until_refusing()
    project.signal(signal.SIGTERM)
    assert read(connection).status == 503
    ending = project.ending()
    assert (ending.code, ending.printed) == (1, ["shut down: 0 answered, 1 cut"])
    assert ending.errors.startswith("cut: GET /slow/300 after ")


@pytest.fixture
def database():
    """Return the address of a PostgreSQL server; if none responds, skip or fail the test as in tests/services."""
    runpy.run_path(str(pathlib.Path(__file__).parent / "services" / "addresses.py"))
    address = os.environ["INTRALB_TEST_POSTGRESQL"]
    url = urlsplit(address)
    try:
        socket.create_connection((url.hostname, url.port or 5432), timeout=2).close()
    except OSError as error:
        reason = f"no server answers at {url.hostname}:{url.port} ({error}); set INTRALB_TEST_POSTGRESQL to its URL"
        (pytest.fail if os.environ.get("INTRALB_REQUIRE_SERVICES") == "1" else pytest.skip)(reason)
    return address


def wait_until_running(example, queries, seconds):
    """Request /running until the database reports these queries."""
    give_up = time.monotonic() + seconds
    while (running := example.get("/running").json["running"]) != queries:
        assert time.monotonic() < give_up, f"the database is running {running}"


@pytest.mark.parametrize("name", ["slow_page_django", "slow_page_flask"])
def test_a_slow_page_is_cut_in_the_database_too_while_others_go_on(name, start, database):
    pages = start(name, "--database", database)
    began = time.monotonic()
    connection = pages.begin("/slow")
    wait_until_running(pages, ["select pg_sleep(30)"], PATIENCE)
    answer = read(connection)
    connection.close()
    assert (answer.status, answer.headers["X-Intralb-Reason"]) == (504, "timed_out")
    assert time.monotonic() - began < 4
    wait_until_running(pages, [], 1)
    ending = pages.stop()
    assert (ending.code, ending.printed) == (0, [])
    assert ending.errors.startswith("GET /slow was answered 504 ")
    assert ending.errors.count(" was answered 504 ") == 1


def test_a_slot_of_django_keeps_its_connection(start, database):
    pages = start("slow_page_django", "--database", database)
    assert len({pages.get("/running").json["connection"] for _ in range(3)}) == 1
    assert pages.stop().code == 0
