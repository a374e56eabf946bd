"""The overload that one can watch, with few users: what it counts, says, draws and leaves behind; never a figure."""

import contextlib
import html
import importlib.util
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

if importlib.util.find_spec("locust") is None:
    pytest.skip("locust is not installed", allow_module_level=True)

import psutil

# It is not part of what is installed.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from loadtests.watch import Moment, Watch
from loadtests.watched_spike.connections import Connections, Reply
from loadtests.watched_spike.load import most_users, quiet_users
from loadtests.watched_spike.phases import parted
from loadtests.watched_spike.seen import GIVEN_UP, LATE, REFUSED, USEFUL, End, Seen, how_it_ended
from loadtests.watched_spike.server import WORKLOADS, server
from loadtests.watched_spike.verdict import verdict

ROOT = pathlib.Path(__file__).parents[2]
NOT_RUN = {"x-intralb-executed": "0", "x-intralb-reason": "queue_full"}
ONE_SLOT = ["--max-concurrent-per-router=1", "--queue-size=2"]


def start(*arguments):
    command = [sys.executable, "-m", "loadtests.overload_locust", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Result:
    """How one run ended: its exit code, what it printed, and the figures on its page."""

    def __init__(self, process, path):
        self.output, self.errors = process.communicate(timeout=90)
        self.code = process.returncode
        self.page = path.read_text(encoding="utf-8") if path.exists() else ""
        _, self.users, self.server = (
            {html.unescape(name): value for name, value in re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", part)}
            for part in re.split("What the users saw|What the server said of itself", self.page)
        )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Both runs at the same time, for each of them is mostly waiting."""
    directory = tmp_path_factory.mktemp("reports")
    few = ["--seconds=6", "--capacity=20", "--no-pin"]
    paths = {name: directory / f"{name}.html" for name in ("db", "demo")}
    started = {name: start(name, *few, f"--report={path}", "--", *ONE_SLOT) for name, path in paths.items()}
    return {name: Result(process, paths[name]) for name, process in started.items()}


# One command.


@pytest.mark.parametrize("name", ["db", "demo"])
def test_one_command_makes_a_spike_that_is_refused_and_no_request_fails(results, name):
    result = results[name]
    assert result.code == 0, result.output + result.errors
    assert "FAILED" not in result.output
    assert "0 ended as none should" in result.output
    assert "The server shut down with exit code 0" in result.output


@pytest.mark.parametrize("name", ["db", "demo"])
def test_the_report_tells_both_sides_of_the_refusals(results, name):
    refused, shed = (
        int(figure.replace(",", ""))
        for figure in (results[name].users["refused"], results[name].server["shed or expired"])
    )
    assert shed >= refused > 0


def test_the_report_draws_the_users_beside_the_server(results):
    drawn = re.findall(r'<svg [^>]*aria-label="(.*?)"', results["db"].page)
    assert drawn == [
        *("Users", "Running and queued"),
        *("Requests per second", "Jobs ended per second"),
        *("Useful answers per second", "Hub lag"),
        *("Latency of the admitted", "Queue wait"),
        *("Refused per second", "Shed per second"),
        "Workers",
    ]


def test_the_report_tells_the_parts_and_the_classes(results):
    rows = re.findall(r"<tr><th>([^<]+)</th><td>", results["db"].page)
    assert rows == ["critical", "unmarked", "sheddable", "before", "in the spike", "after"]


def test_the_report_needs_nothing_but_itself(results):
    for result in results.values():
        assert not re.search(r"(src|href)=|url\(|@import|<script", result.page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds=4"], "a spike with a before and an after needs 5 or more"),
        (["--capacity=501"], "it must be at most 500"),
        (["--capacity=0"], "0 is not allowed; it must be 1 or more"),
        (["--", "--no-such-flag"], "'--no-such-flag' is not understood"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments, message, tmp_path):
    process = start(f"--report={tmp_path / 'report.html'}", *arguments)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (2, "")
    assert message in errors
    assert not (tmp_path / "report.html").exists()


def test_a_run_that_is_ended_leaves_no_process_behind(tmp_path):
    run = start(f"--report={tmp_path / 'report.html'}", "--seconds=60", "--capacity=2")
    seen = psutil.Process(run.pid)
    give_up = time.monotonic() + 20
    while len(children := seen.children()) < 2:
        assert time.monotonic() < give_up, "it has not started a server and locust"
        time.sleep(0.02)
    run.terminate()
    run.communicate(timeout=30)
    assert run.returncode == 128 + signal.SIGTERM
    assert psutil.wait_procs(children, timeout=10)[1] == []


# Locust by hand.


def locust(*arguments):
    command = [sys.executable, "-m", "locust", "-f", "loadtests/overload_locust.py", "--headless", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_locust_runs_the_file_by_itself(tmp_path):
    with server(WORKLOADS["db"], [], tmp_path) as started:
        started.start()
        ended = locust(f"--host={started.target().url}", "--users=40", "--run-time=4s")
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"GET +sheddable: useful", ended.stdout + ended.stderr)


def test_locust_asks_nobody_elses_machine():
    ended = locust("--host=http://192.0.2.1", "--users=10", "--run-time=4s")
    assert "'http://192.0.2.1' is not allowed; it must be http:// at 127.0.0.1" in ended.stderr
    assert "GET" not in ended.stdout + ended.stderr


# The connections.


@contextlib.contextmanager
def answering(*answers):
    """Serve one connection: read a request, send an answer, as often as there are answers; then close."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with listener.accept()[0] as connection:
                for answer in answers:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with contextlib.closing(Connections(f"http://127.0.0.1:{listener.getsockname()[1]}")) as connections:
            yield connections
        thread.join(10)


REFUSAL = b"HTTP/1.1 503 No\r\nX-Intralb-Executed: 0\r\nX-Intralb-Reason: queue_full\r\nContent-Length: 0\r\n\r\n"


def test_a_connection_is_used_again_and_headers_are_read():
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", REFUSAL) as connections:
        assert connections.get("/", "", 10.0).status == 200
        reply = connections.get("/", "", 10.0)
    assert (reply.status, reply.length) == (503, len(REFUSAL))
    assert reply.headers.items() >= NOT_RUN.items()


def test_what_is_closed_without_an_answer_is_not_sent_again():
    with answering(b"HTTP/1.1 200") as connections, pytest.raises(ConnectionError, match="before it had answered"):
        connections.get("/", "", 10.0)


def test_patience_ends_for_all_of_an_answer_together():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections = Connections(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(TimeoutError):
            connections.get("/", "", 0.05)


# The counting.


@pytest.mark.parametrize(
    ("reply", "after", "error", "kind"),
    [
        (Reply(200, {}, 9), 0.5, None, USEFUL),
        (Reply(200, {}, 9), 0.6, None, LATE),
        (Reply(503, NOT_RUN, 9), 0.1, None, REFUSED),
        (Reply(429, NOT_RUN, 9), 0.1, None, REFUSED),
        (None, 2.0, TimeoutError(), GIVEN_UP),
        (Reply(503, {}, 9), 0.1, None, "status 503, perhaps after it had been run"),
        (Reply(500, NOT_RUN, 9), 0.1, None, "status 500, perhaps after it had been run"),
        (None, 0.1, ConnectionResetError(104, "reset"), "no whole answer: [Errno 104] reset"),
    ],
)
def test_how_a_request_ended(reply, after, error, kind):
    end = how_it_ended(reply, after, error)
    assert (end.kind, end.is_error) == (kind, kind not in {USEFUL, LATE, REFUSED, GIVEN_UP})


def spike(useful_of_critical=10, useful_of_sheddable=10):
    """A run of 12 seconds with 10 users, and with 100 in the 4 of its middle; in the spike most is refused."""
    seen = Seen(1000.0)
    for index in range(12):
        in_spike = 4 <= index < 8
        for name, useful in (("critical", useful_of_critical), ("sheddable", useful_of_sheddable)):
            for number in range(100 if in_spike else 10):
                kind = USEFUL if not in_spike or number < useful else REFUSED
                seen.add(index + 0.5, name, 0.001, End(kind, 0.05, "" if kind == USEFUL else "queue_full"))
        seen.note_users(index + 0.5, 100 if in_spike else 10)
    return seen


def test_what_was_seen_survives_being_handed_on():
    seen = spike()
    again = Seen.from_json(seen.to_json())
    assert again.to_json() == seen.to_json()
    assert again.total.counts == seen.total.counts


def test_who_gives_up_counts_among_the_admitted_with_all_its_patience():
    seen = Seen(0.0)
    seen.add(0.5, "critical", 0.0, End(GIVEN_UP, 1.9))
    assert seen.total.admitted.quantile(0.99) == 2000.0


def test_the_parts_leave_out_seconds_in_which_users_come_and_go():
    seen = spike()
    seen.note_users(4.1, 10)
    phases = parted(seen, 100)
    # The last second is not whole.
    assert [(phase.name, phase.seconds) for phase in phases.all] == [("before", 4), ("in the spike", 3), ("after", 3)]
    assert phases.recovered_after == 0


def told(seen, most=100, capacity=20, locust_code=0):
    outcomes = {"completed": seen.total.sent}
    watch = Watch("nowhere", [Moment(0.0, 1.0, {"outcomes": outcomes}, {})], first={"outcomes": {}})
    return verdict(parted(seen, most), seen, watch, capacity, locust_code)


def test_the_verdict_says_how_useful_it_stayed():
    assert told(spike(10, 10)).headline == "It stayed useful"
    assert told(spike(7, 7)).headline == "It lost a part of its usefulness"
    assert told(spike(2, 2)).headline == "It collapsed"
    assert told(spike(), most=1000).headline.startswith("There was no spike")


def test_the_verdict_says_whether_classes_were_told_apart():
    assert any("preferred those that matter" in sentence for sentence in told(spike(99, 5)).sentences)
    assert any("made no difference" in sentence for sentence in told(spike(10, 10)).sentences)


def test_a_collapse_is_only_told_but_an_error_fails():
    seen = spike(2, 2)
    assert told(seen).passed
    seen.add(3.5, "critical", 0.0, End("status 500", 0.1))
    assert [check.sentence for check in told(seen).checks if not check.passed] == [
        "1 ended as none should, however much arrives: 1 with status 500."
    ]


def test_locust_may_say_that_requests_failed_only_if_some_did():
    seen = spike()
    assert not told(seen, locust_code=1).passed
    seen.add(3.5, "critical", 0.0, End(GIVEN_UP, 2.0))
    assert told(seen, locust_code=1).passed


def test_the_verdict_warns_of_a_machine_that_is_not_quiet():
    seen = spike()
    for _ in range(100):
        seen.add(2.5, "critical", 0.0, End(GIVEN_UP, 2.0))
        seen.add(5.5, "critical", 0.3, End(REFUSED, 0.3, "queue_full"))
    seen.saturated = True
    assert [warning.split()[0] for warning in told(seen).warnings] == ["Even", "In", "Locust"]


def test_ten_times_as_many_users_come_and_they_send_what_the_server_can_do():
    assert (most_users(200), quiet_users(most_users(200))) == (4000, 400)
    assert quiet_users(most_users(1)) >= 1
