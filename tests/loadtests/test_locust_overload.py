"""Tests of the overload with a few locust users: counts, output, charts and files. No test checks performance."""

import contextlib
import importlib.util
import re
import socket
import subprocess
import sys
import threading

import pytest
from commands import ROOT, Report, start

if importlib.util.find_spec("locust") is None:
    pytest.skip("locust is not installed", allow_module_level=True)

from loadtests.common.client import Answer, SharedConnections
from loadtests.common.ours import Moment, Watch
from loadtests.locust.record import GIVEN_UP, LATE, USEFUL, End, Record, end_of_overload, in_phases
from loadtests.locust.shapes import most_users, quiet_users, users_at
from loadtests.locust.spike import server, verdict

ONE_SLOT = ["--max-concurrent-per-router=1", "--queue-size=2"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Make both runs at the same time, because each run mostly waits."""
    directory = tmp_path_factory.mktemp("reports")
    few = ["--seconds=6", "--capacity=20", "--no-pin"]
    paths = {name: directory / f"{name}.html" for name in ("db", "demo")}
    runs = {name: start("overload_locust", name, *few, f"--report={paths[name]}", "--", *ONE_SLOT) for name in paths}
    return {name: Report(process, paths[name]) for name, process in runs.items()}


@pytest.mark.parametrize("name", ["db", "demo"])
def test_one_command_makes_a_spike_that_is_refused_and_no_request_fails(results, name):
    result = results[name]
    assert result.code == 0, result.output + result.errors
    assert "FAILED" not in result.output
    assert "0 ended as none should" in result.output
    assert "The server shut down with exit code 0" in result.output
    refused, shed = (
        int(figure.replace(",", "")) for figure in (result.users["refused"], result.server["shed or expired"])
    )
    assert shed >= refused > 0
    assert not result.needs_others()


def test_the_report_draws_the_users_beside_the_server(results):
    assert results["db"].charts == [
        *("Users", "Running and queued"),
        *("Requests per second", "Jobs ended per second"),
        *("Useful answers per second", "Hub lag"),
        *("Latency", "Queue wait"),
        *("Refused per second", "Shed per second"),
        "Workers",
    ]
    rows = re.findall(r"<tr><th>([^<]+)</th><td>", results["db"].page)
    assert rows == ["critical", "unmarked", "sheddable", "before", "in the spike", "after"]
    # Each column of a chart has a tooltip with its values.
    assert re.search(r"<title>second 2 to 3\nuseful: \d+", results["db"].page)


# Tests of the locust file without our command.


def locust(*arguments):
    command = [sys.executable, "-m", "locust", "-f", "loadtests/overload_locust.py", "--headless", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_locust_runs_the_file_by_itself(tmp_path):
    with server("db", [], tmp_path) as started:
        started.start()
        ended = locust(f"--host={started.target().url}", "--users=40", "--run-time=4s")
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"GET +sheddable: useful", ended.stdout + ended.stderr)


def test_locust_asks_no_other_machine():
    ended = locust("--host=http://192.0.2.1", "--users=10", "--run-time=4s")
    assert "'http://192.0.2.1' is not allowed; it must be http:// at 127.0.0.1" in ended.stderr
    assert "GET" not in ended.stdout + ended.stderr


# Tests of shared connections.


@contextlib.contextmanager
def answering(*answers):
    """Serve one connection: for each answer, read a request and send the answer; then close the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with listener.accept()[0] as connection:
                for answer in answers:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with contextlib.closing(SharedConnections(f"http://127.0.0.1:{listener.getsockname()[1]}")) as connections:
            yield connections
        thread.join(10)


REFUSAL = b"HTTP/1.1 503 No\r\nX-Intralb-Executed: 0\r\nX-Intralb-Reason: queue_full\r\nContent-Length: 0\r\n\r\n"


def test_a_connection_is_used_again_and_headers_are_read():
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", REFUSAL) as connections:
        assert connections.get("/", "", 10.0)[0].status == 200
        assert connections.get("/", "", 10.0) == (Answer(503, True, "queue_full", True), len(REFUSAL))


def test_what_is_closed_without_an_answer_is_not_sent_again():
    with answering(b"HTTP/1.1 200") as connections, pytest.raises(ConnectionError, match="without a whole answer"):
        connections.get("/", "", 10.0)


def test_patience_ends_for_all_of_an_answer_together():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = SharedConnections(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(TimeoutError):
            connections.get("/", "", 0.05)


# Tests of counting.


@pytest.mark.parametrize(
    ("answer", "after", "error", "end"),
    [
        (Answer(200, True), 0.5, None, ("served", USEFUL)),
        (Answer(200, True), 0.6, None, ("served", LATE)),
        (Answer(503, True, "queue_full", True), 0.1, None, ("refused", "queue_full")),
        (Answer(429, True, "client", True), 0.1, None, ("refused", "client")),
        (None, 2.0, TimeoutError(), ("served", GIVEN_UP)),
        (Answer(503, True), 0.1, None, ("failed", "status 503, perhaps after it had been run")),
        (Answer(500, True, "", True), 0.1, None, ("failed", "status 500, perhaps after it had been run")),
        (None, 0.1, ConnectionResetError(104, "reset"), ("failed", "no whole answer: [Errno 104] reset")),
    ],
)
def test_how_a_request_ended(answer, after, error, end):
    assert end_of_overload(answer, after, 0.0, error)[:2] == end


def gives_up(late=0.0):
    return end_of_overload(None, 1.9, late, TimeoutError())


def spike(useful_of_critical=10, useful_of_sheddable=10):
    """Return a run of 12 seconds with 10 users, or 100 in the 4 middle seconds; most requests of these are rejected."""
    record = Record(1000.0)
    for index in range(12):
        in_spike = 4 <= index < 8
        for name, useful in (("critical", useful_of_critical), ("sheddable", useful_of_sheddable)):
            for number in range(100 if in_spike else 10):
                is_useful = not in_spike or number < useful
                end = End("served", USEFUL, 0.05, 0.001) if is_useful else End("refused", "queue_full", 0.05, 0.001)
                record.add(index + 0.5, name, end)
        record.note_users(index + 0.5, 100 if in_spike else 10)
    return record


def test_a_record_survives_being_passed_on():
    record = spike()
    assert Record.from_json(record.to_json()).to_json() == record.to_json()


def test_a_timeout_counts_among_the_admitted_with_its_duration():
    record = Record(0.0)
    record.add(0.5, "critical", gives_up())
    assert record.total.admitted.quantile(0.99) == 2000.0
    assert (record.total.requests, record.total.answers) == (1, 0)


def test_the_phases_leave_out_seconds_in_which_the_users_change():
    record = spike()
    record.note_users(4.1, 10)
    phases = in_phases(record, 100)
    # The last second is incomplete, so it does not count.
    assert [(phase.name, phase.seconds) for phase in phases.all] == [("before", 4), ("in the spike", 3), ("after", 3)]
    assert phases.recovered_after == 0


def judged(record, most=100, capacity=20, locust_code=0):
    outcomes = {"completed": record.total.requests}
    watch = Watch("nowhere", [Moment(0.0, 1.0, {"outcomes": outcomes}, {})], first={"outcomes": {}})
    return verdict(in_phases(record, most), record, watch, capacity, locust_code)


def test_the_verdict_says_how_useful_it_stayed_and_whether_it_respected_priorities():
    assert judged(spike(10, 10)).headline == "It stayed useful"
    assert judged(spike(7, 7)).headline == "It lost a part of its usefulness"
    assert judged(spike(2, 2)).headline == "It collapsed"
    assert judged(spike(), most=1000).headline.startswith("There was no spike")
    assert any("preferred those that matter" in sentence for sentence in judged(spike(99, 5)).sentences)
    assert any("made no difference" in sentence for sentence in judged(spike(10, 10)).sentences)


def test_a_collapse_is_only_reported_but_an_error_fails():
    record = spike(2, 2)
    assert judged(record).passed
    record.add(3.5, "critical", End("failed", "status 500", 0.1))
    assert [check.sentence for check in judged(record).checks if not check.passed] == [
        "1 ended as none should under any load: 1 with status 500."
    ]


def test_locust_may_say_that_requests_failed_only_if_some_did():
    record = spike()
    assert not judged(record, locust_code=1).passed
    record.add(3.5, "critical", gives_up())
    assert judged(record, locust_code=1).passed


def test_the_verdict_warns_of_a_machine_that_is_not_quiet():
    record = spike()
    for _ in range(100):
        record.add(2.5, "critical", gives_up())
        record.add(5.5, "critical", End("refused", "queue_full", 0.3, 0.3))
    record.saturated = True
    assert [warning.split()[0] for warning in judged(record).warnings] == ["Even", "In", "Locust"]


def test_the_shapes_stay_within_their_users_and_their_time():
    assert [users_at("step", second, 8, 40) for second in range(9)] == [10, 10, 20, 20, 30, 30, 40, 40, None]
    assert [users_at("spike", second, 10, 200) for second in range(0, 12, 2)] == [20, 20, 200, 20, 20, None]
    assert [users_at("steady", second, 2, 7) for second in range(3)] == [7, 7, None]
    assert users_at("spike", 0, 10, 1) == 1
    # During the spike there are ten times as many users as before and after it.
    assert (most_users(200), quiet_users(most_users(200))) == (4000, 400)
    assert quiet_users(most_users(1)) >= 1
