"""The overload benchmark with tiny amounts: what it sends, counts, refuses, draws and leaves behind; never a figure."""

import contextlib
import http.server
import itertools
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

# It is not part of what is installed.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from loadtests.open_loop import answers
from loadtests.open_loop.applications import ANSWER, application, compute
from loadtests.open_loop.ceiling import Costs, ceiling
from loadtests.open_loop.connected import connected_capacity
from loadtests.open_loop.generator import Generator
from loadtests.open_loop.percentiles import percentile
from loadtests.open_loop.plan import Plan, Stream
from loadtests.open_loop.plan import as_text as plan_text
from loadtests.open_loop.plan import from_text as plan_from
from loadtests.open_loop.results import Point, Results, as_json, load
from loadtests.open_loop.schedule import arrivals, choices, evenly, in_proportion, phased
from loadtests.open_loop.seen import ANSWERED, GIVEN_UP, REFUSED, End, firsthand, kind, summed_up
from loadtests.open_loop.serving import Circumstances
from loadtests.open_loop.workloads import WORKLOADS
from loadtests.side_by_side.servers import SERVERS, missing, start_command

ROOT = pathlib.Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are pinned on Linux only")


def start(*arguments):
    command = [sys.executable, "-m", "loadtests.overload", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments):
    process = start(*arguments)
    output, errors = process.communicate(timeout=90)
    return process.returncode, output, errors


# The instants.

rates = st.floats(1, 2000)
spans = st.floats(0.01, 2)


@given(rates, spans, st.text(max_size=5))
def test_arrivals_ascend_and_lie_within_their_time(rate, seconds, seed):
    instants = arrivals(rate, seconds, seed)
    assert instants == sorted(instants)
    assert all(0 <= instant < seconds for instant in instants)
    assert instants == arrivals(rate, seconds, seed)


@given(rates, spans, st.text(max_size=5))
def test_a_longer_time_has_the_same_arrivals_and_more(rate, seconds, seed):
    short, long = arrivals(rate, seconds, seed), arrivals(rate, seconds * 2, seed)
    assert long[: len(short)] == short


def test_arrivals_come_as_a_poisson_process_does():
    instants = arrivals(1000, 50, "poisson")
    gaps = [later - earlier for earlier, later in itertools.pairwise(instants)]
    # The gaps of a Poisson process are exponential: their deviation is their mean.
    assert statistics.mean(gaps) == pytest.approx(0.001, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.001, rel=0.05)


def test_each_seed_has_arrivals_of_its_own():
    assert arrivals(100, 1, "1") != arrivals(100, 1, "2")


def test_what_is_even_is_evenly_spaced():
    assert evenly(10, 0.5) == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45])


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0.05, 0.5)), min_size=1, max_size=4), st.booleans())
def test_each_phase_has_its_own_rate(phases, even):
    own, seconds = zip(*phases, strict=True)
    instants = phased(own, seconds, "1", even)
    assert instants == sorted(instants)
    ends = list(itertools.accumulate(seconds))
    for number, (rate, length) in enumerate(phases):
        expected = evenly(rate, length) if even else arrivals(rate, length, f"1 {number}")
        begin = ends[number] - length
        assert sum(begin - 1e-9 <= instant <= ends[number] + 1e-9 for instant in instants) >= len(expected)
    assert len(instants) == sum(
        len(evenly(rate, length) if even else arrivals(rate, length, f"1 {number}"))
        for number, (rate, length) in enumerate(phases)
    )


def test_paths_are_drawn_as_often_as_they_weigh():
    drawn = choices({"/short": 0.95, "/long": 0.05}, 20_000, "1")
    assert drawn.count("/long") == pytest.approx(1000, rel=0.15)
    assert drawn.count("/short") + drawn.count("/long") == 20_000
    assert drawn == choices({"/short": 0.95, "/long": 0.05}, 20_000, "1")


def test_a_list_in_proportion_leaves_nothing_to_chance():
    assert in_proportion({"/db": 0.5, "/cpu": 0.5}, 4) == ["/cpu", "/db", "/cpu", "/db"]
    assert in_proportion({"/short": 0.95, "/long": 0.05}).count("/long") == 1


# The figures.


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values, percent):
    found = percentile(sorted(values), percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9
    # The rounding of the product may take one value more.
    assert sum(value < found for value in values) <= len(values) * percent / 100


def test_percentiles_of_a_hundred_values_and_of_none():
    assert [percentile(range(1, 101), percent) for percent in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]
    assert percentile([], 99) is None


@given(st.floats(0, 20), st.floats(0, 0.99))
def test_at_the_ceiling_the_work_and_the_refusals_just_fit(load, k):
    useful = ceiling(load, k)
    assert 0 <= useful <= min(load, 1)
    if load > 1 and useful > 0:
        assert useful + (load - useful) * k == pytest.approx(1)


@given(st.floats(1, 20), st.floats(1, 20), st.floats(0, 0.99), st.floats(0, 0.99))
def test_more_load_or_dearer_refusals_never_raise_the_ceiling(load, other_load, k, other_k):
    assert ceiling(max(load, other_load), max(k, other_k)) <= ceiling(min(load, other_load), min(k, other_k)) + 1e-9


@pytest.mark.parametrize(
    ("load", "k", "expected"),
    [(0.5, 0.5, 0.5), (1, 0.9, 1), (10, 0, 1), (2, 0.1, 0.8 / 0.9), (10, 0.1, 0), (20, 0.1, 0)],
)
def test_the_ceiling_is_that_of_the_formula(load, k, expected):
    assert ceiling(load, k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [-0.1, 1, 2])
def test_a_refusal_that_costs_as_much_as_a_request_has_no_ceiling(k):
    with pytest.raises(ValueError, match="must cost less than a request"):
        ceiling(2, k)


def test_the_ceiling_is_that_of_what_runs_out_first():
    # 1,000 a second would fit the core, but only 200 the connections.
    assert Costs(request=0.001, refusal=0.0001).ceiling(offered=400, capacity=200) == 200
    assert Costs(request=0.001, refusal=0.0001).ceiling(offered=100, capacity=200) == 100
    # 2,000 refusals of 0.1 ms take a fifth of the core.
    costs = Costs(request=0.005, refusal=0.0001)
    assert costs.ceiling(offered=2000, capacity=200) == pytest.approx((1 - 2000 * 0.0001) / (0.005 - 0.0001))


@given(st.lists(st.tuples(st.sampled_from([200, 201, 404, 429, 500, 503, 504]), st.floats(0, 3))), st.integers(0, 5))
def test_every_request_is_counted_once(statuses, given_up):
    ends = [End(kind(status), 0.0, after) for status, after in statuses] + [End(GIVEN_UP, 0.0, 2.0)] * given_up
    seen = summed_up(ends, 0.0, 0)
    assert seen.sent == seen.answered + seen.refused + seen.given_up + sum(seen.errors.values()) == len(ends)
    assert seen.refused == sum(status in (503, 429) for status, _ in statuses)
    assert seen.useful == sum(status == 200 and after <= 0.5 for status, after in statuses)


def test_who_gave_up_counts_among_what_was_admitted_and_who_was_refused_does_not():
    seen = summed_up([End(ANSWERED, 0.001, 0.1), End(GIVEN_UP, 0.002, 2.0), End(REFUSED, 0.003, 0.004)], 0.5, 7)
    assert (seen.admitted_p50, seen.admitted_p99, seen.refusal_p50, seen.refusal_p99) == (100, 2000, 4, 4)
    assert (seen.late_p50, seen.late_p99, seen.late_worst) == (2, 3, 3)
    assert (seen.busy, seen.connections) == (0.5, 7)


# What a server says.


WHOLE = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n", 200, True),
    (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length:0\r\n\r\n", 503, True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n", 200, False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n", 200, False),
    (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nok\n", 200, True),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nok\n\r\n0\r\n\r\n", 200, True),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, True),
]


@pytest.mark.parametrize(("text", "status", "kept"), WHOLE)
def test_an_answer_is_read_when_it_is_whole_and_not_before(text, status, kept):
    assert answers.read(text, False) == (status, kept, "")
    assert all(answers.read(text[:length], False) is None for length in range(len(text)))


def test_an_answer_without_a_length_ends_with_its_connection():
    text = b"HTTP/1.0 500 Oh\r\n\r\nit broke"
    assert answers.read(text, False) is None
    assert answers.read(text, True) == (500, False, "")


def test_a_refusal_of_ours_says_why():
    text = b"HTTP/1.1 429 No\r\nX-Intralb-Reason: client\r\nContent-Length: 0\r\n\r\n"
    assert answers.read(text, False) == (429, True, "client")


@pytest.mark.parametrize("text", [b"SSH-2.0-server\r\n\r\n", b"HTTP/1.1 abc\r\nContent-Length: 0\r\n\r\n"])
def test_what_is_not_an_answer_is_told(text):
    with pytest.raises(ValueError, match=r"not an answer|invalid literal"):
        answers.read(text, False)


# The generator.


@contextlib.contextmanager
def scripted(answer, close=False):
    """A server that answers the first request on every connection, and looks at no second one."""

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(connection)
            if answer is None:
                continue
            connection.recv(65536)
            connection.sendall(answer)
            if close:
                connection.close()

    accepted = []
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        listener.settimeout(None)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in accepted:
                connection.close()


def recorded(port, rate=100, seconds=0.3, patience=0.2, **stream):
    plan = Plan(port, (seconds,), [Stream("all", {"/": 1.0}, (rate,), **stream)], "1", patience)
    return Generator(plan).run(time.monotonic())


def generate(*arguments, **keywords):
    record = recorded(*arguments, **keywords)
    return summed_up(record.ends, record.busy, record.connections)


def expected_number(rate=100, seconds=0.3):
    return len(arrivals(rate, seconds, "1 all 0 0"))


def test_a_server_that_is_silent_does_not_throttle_it_and_is_given_up():
    with scripted(None) as port:
        seen = generate(port)
    assert (seen.sent, seen.given_up, seen.errors) == (expected_number(), expected_number(), {})
    assert seen.connections > 15
    assert 200 <= seen.admitted_p50 <= seen.admitted_p99


@pytest.mark.parametrize(
    ("answer", "figure"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "answered"),
        (b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "refused"),
        (b"HTTP/1.1 429 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "refused"),
    ],
)
def test_answers_and_refusals_are_told_apart(answer, figure):
    with scripted(answer, close=True) as port:
        seen = generate(port, patience=5)
    assert (getattr(seen, figure), seen.sent, seen.errors) == (expected_number(), expected_number(), {})


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "closed: ECONNRESET"),
        (b"nonsense\r\n\r\n", "not an answer"),
    ],
)
def test_errors_are_told_by_their_kind(answer, error):
    with scripted(answer, close=True) as port:
        seen = generate(port, patience=5)
    assert (seen.errors, seen.sent) == ({error: expected_number()}, expected_number())


def test_where_nobody_listens_every_request_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    seen = generate(port)
    assert sum(seen.errors.values()) == seen.sent == expected_number()
    assert all("ECONNREFUSED" in error for error in seen.errors), seen.errors


def test_a_connection_that_the_server_closes_while_it_is_idle_is_left_without_an_error():
    with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", close=True) as port:
        # So far apart that the close has been seen.
        seen = generate(port, rate=8, seconds=0.5, patience=5.0, even=True)
    assert (seen.sent, seen.answered, seen.connections, seen.errors) == (4, 4, 1, {})


def test_free_connections_are_used_before_new_ones():
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            seen = generate(server.server_port, rate=200, patience=5)
        finally:
            server.shutdown()
            thread.join()
    assert (seen.answered, seen.errors) == (seen.sent, {})
    assert seen.connections < seen.sent / 2


def test_a_client_that_asks_again_does_so_at_once_and_no_oftener_than_it_may():
    with scripted(b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", close=True) as port:
        record = recorded(port, patience=5, retries=3)
    assert len(record.ends) == 4 * expected_number()
    joined = firsthand(record.ends)
    assert [end.kind for end in joined] == [REFUSED] * expected_number()
    for end in record.ends:
        if end.repeats >= 0:
            assert end.due >= record.ends[end.repeats].due + record.ends[end.repeats].after - 1e-9


def test_who_asks_again_where_nobody_listens_ends_too():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert len(recorded(port, retries=2).ends) == 3 * expected_number()


def test_requests_say_what_their_stream_says_and_are_told_of_by_it():
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            received.append((self.path, self.headers["X-Client"]))
            self.send_response(200 if self.path == "/one" else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    streams = [
        Stream("one", {"/one": 1.0}, (0, 20), {"X-Client": "a"}, even=True),
        Stream("two", {"/two": 1.0}, (20, 0), {"X-Client": "b"}, even=True),
    ]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            plan = Plan(server.server_port, (0.2, 0.2), streams, "1", 5.0, preopened=3)
            record = Generator(plan_from(plan_text(plan))).run(time.monotonic())
        finally:
            server.shutdown()
            thread.join()
    assert sorted(received) == [("/one", "a")] * 4 + [("/two", "b")] * 4
    assert sorted((end.stream, end.kind, end.due >= 0.2) for end in record.ends) == [
        *[(0, ANSWERED, True)] * 4,
        *[(1, REFUSED, False)] * 4,
    ]
    assert record.connections >= 3


# The applications, and what servers are told.


@pytest.mark.parametrize("path", ["/db", "/bulk", "/short", "/long", "/wait", "/cpu"])
def test_every_path_answers_the_same(path):
    environ = {"PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    started = []
    answer = validator(application)(environ, lambda *head: started.append(head))
    assert b"".join(answer) == ANSWER
    answer.close()
    assert started[0][0] == "200 OK"


def test_the_paths_of_a_workload_weigh_one_together():
    for workload in WORKLOADS.values():
        assert sum(workload.paths.values()) == pytest.approx(1)
    assert [round(workload.capacity) for workload in WORKLOADS.values()] == [200, 200, 400, 506]


def test_the_work_of_a_few_long_ones_varies_more_than_that_of_many_alike():
    assert WORKLOADS["db"].chance(10_000) == pytest.approx(0.01)
    assert WORKLOADS["mixed"].chance(20_000) == pytest.approx(0.01)
    # The mean is 19.75 ms, that of the squares 4523.75 ms².
    assert WORKLOADS["bimodal"].chance(10_000) == pytest.approx(4523.75**0.5 / 19.75 / 100)


def test_the_capacity_is_what_was_measured():
    bimodal, cpu, costs = WORKLOADS["bimodal"], WORKLOADS["cpu"], Costs(0.0055, 0.0001)
    assert bimodal.capacity_at(None, None) == bimodal.capacity
    assert bimodal.capacity_at(Costs(0.0002, 0.0001), 490.0) == 490
    assert cpu.capacity_at(costs, None) == pytest.approx(1 / 0.0055)
    assert [[*workload.connected] for workload in WORKLOADS.values()] == [["/db"], [], ["/db"], ["/short", "/long"]]


def test_the_ceiling_is_that_of_those_that_were_answered():
    results = Results(costs={"bimodal": Costs(0.0002, 0.0001)}, connected={"bimodal": 494.0})
    usual, more_long, only_short = ({"/short": 95, "/long": 5}, {"/short": 90, "/long": 10}, {"/short": 95})
    ceilings = []
    for counts in (usual, more_long, only_short):
        ends = [End(ANSWERED, 0.0, 0.1, path=path) for path, count in counts.items() for _ in range(count)]
        ends += [End(REFUSED, 0.0, 0.001, path="/short")] * 1000
        ceilings.append(results.ceiling_of("bimodal", Point(2.0, 1.0, summed_up(ends, 0.1, 5), 0.5, 0.0)))
    assert ceilings[0] == pytest.approx(494)
    assert ceilings[1] == pytest.approx(494 * 0.01975 / 0.0345)
    assert ceilings[2] == pytest.approx(1095)
    assert Results().ceiling_of("bimodal", point(1.0, 100)) is None


@linux
def test_connections_allow_nearly_what_they_are_called(tmp_path):
    around = Circumstances(1, 1, "1", 0, 0, tmp_path)
    assert connected_capacity(WORKLOADS["cpu"], around) is None
    # Timers are never early, but one second may have a few more of those that end together.
    assert 100 < connected_capacity(WORKLOADS["db"], around) <= 210
    assert 200 < connected_capacity(WORKLOADS["mixed"], around) <= 420


def test_computing_takes_the_processor_as_long_as_it_is_told():
    began = time.thread_time()
    compute(0.02)
    assert time.thread_time() - began >= 0.02


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("intralb", ["--max-workers", "1", "--max-concurrent-per-router", "10"]),
        ("waitress", ["--threads=10"]),
        ("granian", ["--blocking-threads", "10"]),
        ("gunicorn", []),
    ],
)
def test_a_server_is_told_of_the_slots_where_it_can_be(name, flags):
    usual = start_command(SERVERS[name], "module:name", 8000)
    told = start_command(SERVERS[name], "module:name", 8000, flags=SERVERS[name].slots(10))
    assert [word for word in told if word not in usual] == [flag for flag in flags if flag not in usual]
    assert len(told) == len(usual) + len(flags)


# The whole.

PEERS = [name for name in ("waitress", "gunicorn", "pywsgi-nodelay") if not missing(SERVERS[name])][:1]
MEASURED = ["intralb", *PEERS, "intralb-fixed"]
LOADS = [0.5, 3.0]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes are pinned on Linux only")
    directory = tmp_path_factory.mktemp("overload")
    amounts = ("points", "--workloads", "db", "--loads", *LOADS, "--seconds", 1, "--warm-up", 1, "--output", directory)
    return *run(*amounts, "--servers", *MEASURED), directory


@pytest.fixture(scope="module")
def results(measured):
    code, _, errors, directory = measured
    assert code == 0, errors
    return load(directory / "overload.json")


def test_every_server_has_a_point_for_every_load(results):
    assert {
        name: [point.load for point in entry.points] for name, entry in results.entries["db"].items()
    } == dict.fromkeys(MEASURED, LOADS)


def test_every_request_that_was_sent_has_ended_in_one_way(results):
    for entry in results.entries["db"].values():
        for point in entry.points:
            seen = point.seen
            assert seen.sent == seen.answered + seen.refused + seen.given_up + sum(seen.errors.values()) > 0
            assert seen.useful <= seen.answered


def test_all_servers_were_sent_the_same(results):
    for number, times in enumerate(LOADS):
        sent = {entry.points[number].seen.sent for entry in results.entries["db"].values()}
        rate = results.capacity("db") * times
        instants = phased([rate, rate], [1, 1], f"1 db {times:g} all 0")
        assert sent == {sum(instant >= 1 for instant in instants)}


def test_percentiles_are_in_order_and_there_where_something_was_seen(results):
    for entry in results.entries["db"].values():
        for point in entry.points:
            seen = point.seen
            assert 0 <= seen.late_p50 <= seen.late_p99 <= seen.late_worst
            assert (seen.refusal_p99 is None) == (seen.refused == 0)
            assert (seen.admitted_p99 is None) == (seen.answered + seen.given_up == 0)
            assert min(point.server_busy, point.others_busy) >= 0
            assert seen.busy > 0


def tables(text):
    """Every table by the name in its heading: a list of rows, each by its header."""
    found = {}
    for part in text.split("### ")[1:]:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        found[part.splitlines()[0]] = [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    return found


def test_the_table_has_a_row_for_every_point(measured):
    _, output, _, directory = measured
    (rows,) = tables(output).values()
    titles = [f"**{SERVERS['intralb'].title}**", *(SERVERS[name].title for name in PEERS), "intralb_gevent, fixed"]
    assert [(row["server"], row["load"]) for row in rows] == [
        (name, f"{times:g}") for name in titles for times in LOADS
    ]
    assert (directory / "overload.md").read_text() in output


def test_the_results_can_be_shown_again(measured, tmp_path):
    _, output, _, directory = measured
    again = run("--from", directory / "overload.json", "--output", tmp_path)
    assert (again[0], again[1]) == (0, output)
    assert {path.name for path in tmp_path.iterdir()} == {"overload.json", "overload.md", "overload-db.svg"}
    assert load(tmp_path / "overload.json") == load(directory / "overload.json")


def test_the_chart_has_a_line_for_every_server_within_its_frame(measured, results):
    chart = ElementTree.parse(measured[3] / "overload-db.svg").getroot()
    lines = [path.get("class").split()[1] for path in chart.iter(f"{SVG}path") if path.get("class") != "grid"]
    # In the legend, and in both panels.
    assert {name: lines.count(name) for name in MEASURED} == dict.fromkeys(MEASURED, 3)
    assert "prefers-color-scheme: dark" in chart.find(f"{SVG}style").text
    texts = {"".join(text.itertext()) for text in chart.iter(f"{SVG}text")}
    assert {f"{times:g}" for times in LOADS} <= texts


# Canned results, for what a tiny run need not show.


def point(load, useful, late=1.0, others_busy=0.0):
    ends = [End(ANSWERED, late / 1000, 0.1)] * useful + [End(GIVEN_UP, late / 1000, 2.0)]
    return Point(load, 1.0, summed_up(ends, 0.1, 5), 0.5, others_busy)


@pytest.fixture
def canned(tmp_path):
    results = Results({"measured": "2001-02-03 04:05"}, {"cpu": Costs(0.005, 0.00005)})
    results.entry("cpu", "intralb").points += [point(0.5, 100), point(10.0, 180)]
    results.entry("cpu", "gunicorn").points += [point(0.5, 99, late=30.0, others_busy=0.6)]
    results.entry("cpu", "gunicorn").failures["10"] = "it fell over"
    results.connected["db"] = 197.5
    (tmp_path / "canned.json").write_text(as_json(results))
    return run("--from", tmp_path / "canned.json"), tmp_path


def test_a_ceiling_stands_beside_each_figure(canned):
    (_, output, _), _ = canned
    assert "a refusal 50 µs: k = 0.010" in output
    ours = tables(output)["5 ms of Python (cpu)"][:2]
    assert [(row["goodput/s"], row["ceiling"], row["of it"]) for row in ours] == [
        ("100", "101", "99%"),
        ("180", "181", "99%"),
    ]


def test_what_spoils_a_figure_and_a_point_that_failed_are_told(canned):
    (code, output, _), _ = canned
    rows = tables(output)["5 ms of Python (cpu)"]
    assert ["(!)" in row["sent late ms: p50 / p99 / worst"] for row in rows] == [False, False, True]
    assert "(!): the generator was late" in output
    assert [row["CPU: server / others there"] for row in rows] == ["50% / 0%", "50% / 0%", "50% / 60% (?)"]
    assert "(?): others used the server's core" in output
    assert "- gunicorn -k gevent could not be measured at 10: it fell over\n" in output
    assert code == 1


def test_lines_are_as_high_as_their_figures(canned):
    chart = ElementTree.parse(canned[1] / "overload-cpu.svg").getroot()
    goodput = next(
        path.get("d") for path in chart.iter(f"{SVG}path") if "ours" in path.get("class") and "L" in path.get("d")
    )
    (left, low), (right, high) = (map(float, place.split()) for place in goodput[1:].split("L"))
    bottom = max(
        float(path.get("d").split()[1].partition("h")[0])
        for path in chart.iter(f"{SVG}path")
        if path.get("class") == "grid"
    )
    assert (bottom - high) / (bottom - low) == pytest.approx(1.8, rel=0.02)
    assert left < right


# What it can be told.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "nonsense"], "invalid choice: 'nonsense'"),
        (["--servers", "limit"], "invalid choice: 'limit'"),
        (["--loads", "0"], "0 is not allowed; it must be above 0 and at most 20"),
        (["--loads", "nan"], "nan is not allowed"),
        (["--seconds", "0"], "0 is not allowed; it must be 1 or more"),
        (["--seconds", "60"], "must not exceed 60 together"),
        (["everything"], "invalid choice: 'everything'"),
        (["--scenarios", "nonsense"], "invalid choice: 'nonsense'"),
        (["--shorten", "0"], "0 is not allowed; it must be from 1 to 20"),
        (["--from", "/nowhere/overload.json"], "cannot read '/nowhere/overload.json'"),
        (["--from", "pyproject.toml"], "'pyproject.toml' is not a file of results"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments, message, tmp_path):
    code, output, errors = run(*arguments, "--output", tmp_path / "reports")
    assert (code, output) == (2, "")
    assert message in errors
    assert not (tmp_path / "reports").exists()


def test_the_help_says_how_long_it_takes():
    code, output, _ = run("--help")
    assert code == 0
    assert "minutes" in output


@linux
def test_a_run_that_is_ended_leaves_no_process_behind(tmp_path):
    process = start("points", "--servers", "intralb", "--workloads", "cpu", "--seconds", 30, "--output", tmp_path)
    listing = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    give_up = time.monotonic() + 20
    while len(children := listing.read_text().split()) < 2:
        assert time.monotonic() < give_up, "it has not started a server and a generator"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert not [child for child in children if pathlib.Path(f"/proc/{child}").exists()]
