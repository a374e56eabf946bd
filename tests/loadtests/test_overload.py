"""Tests of the overload benchmark with tiny loads: requests, counts, charts and files. No test checks performance."""

import contextlib
import http.server
import itertools
import os
import socket
import statistics
import threading
import time
import xml.etree.ElementTree as ElementTree

import pytest
from commands import linux, respond, run, tables
from hypothesis import given
from hypothesis import strategies as st

from loadtests.common.client import read_answer
from loadtests.common.report import as_json, load, percentile
from loadtests.common.servers import SERVERS, filled, missing, start_command
from loadtests.overload.applications import ANSWER, application
from loadtests.overload.connected import connected_capacity
from loadtests.overload.generator import Generator, Plan, Stream, arrivals, choices, evenly, in_proportion, phased
from loadtests.overload.results import Point, Results, from_json
from loadtests.overload.seen import ANSWERED, GIVEN_UP, REFUSED, End, firsthand, kind, summed_up
from loadtests.overload.serving import WORKLOADS, Circumstances, Costs, ceiling

# Tests of arrival times.

rates = st.floats(1, 2000)
spans = st.floats(0.01, 2)


@given(rates, spans, st.text(max_size=5))
def test_arrivals_ascend_and_lie_within_their_time(rate, seconds, seed):
    instants = arrivals(rate, seconds, seed)
    assert instants == sorted(instants)
    assert all(0 <= instant < seconds for instant in instants)
    assert instants == arrivals(rate, seconds, seed)


def test_arrivals_are_a_poisson_process_and_paths_are_drawn_by_their_weights():
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals(1000, 50, "poisson"))]
    # The gaps of a Poisson process are exponential, so their standard deviation equals their mean.
    assert statistics.mean(gaps) == pytest.approx(0.001, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.001, rel=0.05)
    assert evenly(10, 0.5) == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45])
    drawn = choices({"/short": 0.95, "/long": 0.05}, 20_000, "1")
    assert drawn.count("/long") == pytest.approx(1000, rel=0.15)
    assert drawn.count("/short") + drawn.count("/long") == 20_000
    assert in_proportion({"/db": 0.5, "/cpu": 0.5}, 4) == ["/cpu", "/db", "/cpu", "/db"]


# Tests of figures.


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values, percent):
    found = percentile(sorted(values), percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9
    # The comparison is not strict, because rounding the product can add one value.
    assert sum(value < found for value in values) <= len(values) * percent / 100


@given(st.floats(0, 20), st.floats(0, 0.99))
def test_at_the_ceiling_the_work_and_the_refusals_just_fit(load, k):
    useful = ceiling(load, k)
    assert 0 <= useful <= min(load, 1)
    if load > 1 and useful > 0:
        assert useful + (load - useful) * k == pytest.approx(1)
    with pytest.raises(ValueError, match="must cost less than a request"):
        ceiling(load, k + 1)


def test_the_ceiling_is_that_of_what_runs_out_first():
    # The core allows 1,000 requests a second, but the connections allow only 200.
    assert Costs(request=0.001, refusal=0.0001).ceiling(offered=400, capacity=200) == 200
    assert Costs(request=0.001, refusal=0.0001).ceiling(offered=100, capacity=200) == 100
    # 2,000 rejections a second, at 0.1 ms each, use a fifth of the core.
    costs = Costs(request=0.005, refusal=0.0001)
    assert costs.ceiling(offered=2000, capacity=200) == pytest.approx((1 - 2000 * 0.0001) / (0.005 - 0.0001))


@given(st.lists(st.tuples(st.sampled_from([200, 201, 404, 429, 500, 503, 504]), st.floats(0, 3))), st.integers(0, 5))
def test_every_request_is_counted_once_and_a_timeout_among_the_admitted(statuses, given_up):
    ends = [End(kind(status), 0.0, after) for status, after in statuses] + [End(GIVEN_UP, 0.0, 2.0)] * given_up
    seen = summed_up(ends, 0.0, 0)
    assert seen.sent == seen.answered + seen.refused + seen.given_up + sum(seen.errors.values()) == len(ends)
    assert seen.refused == sum(status in (503, 429) for status, _ in statuses)
    assert seen.useful == sum(status == 200 and after <= 0.5 for status, after in statuses)
    assert (seen.admitted_p99 is None) == (seen.answered + seen.given_up == 0)
    assert (seen.refusal_p99 is None) == (seen.refused == 0)


# Tests of the response parser.


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
    assert read_answer(text, False) == (status, kept, "", False)
    assert all(read_answer(text[:length], False) is None for length in range(len(text)))


def test_an_answer_may_end_with_its_connection_and_a_refusal_says_why():
    text = b"HTTP/1.0 500 Oh\r\n\r\nit broke"
    assert (read_answer(text, False), read_answer(text, True)) == (None, (500, False, "", False))
    text = b"HTTP/1.1 429 No\r\nX-Intralb-Reason: client\r\nX-Intralb-Executed: 0\r\nContent-Length: 0\r\n\r\n"
    assert read_answer(text, False) == (429, True, "client", True)


@pytest.mark.parametrize("text", [b"SSH-2.0-server\r\n\r\n", b"HTTP/1.1 abc\r\nContent-Length: 0\r\n\r\n"])
def test_what_is_not_an_answer_is_told(text):
    with pytest.raises(ValueError, match=r"not an answer|invalid literal"):
        read_answer(text, False)


# Tests of the generator.


@contextlib.contextmanager
def scripted(answer, close=False):
    """Start a server that sends `answer` to the first request on each connection, and ignores further requests."""

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
    ("answer", "what"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "answered"),
        (b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "refused"),
        (b"HTTP/1.1 429 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "refused"),
        (b"HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "closed: ECONNRESET"),
        (b"nonsense\r\n\r\n", "not an answer"),
    ],
)
def test_answers_refusals_and_errors_are_distinguished(answer, what):
    with scripted(answer, close=True) as port:
        seen = generate(port, patience=5)
    assert {"answered": seen.answered, "refused": seen.refused, **seen.errors}[what] == seen.sent == expected_number()


def test_where_nobody_listens_every_request_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    seen = generate(port)
    assert sum(seen.errors.values()) == seen.sent == expected_number()
    assert all("ECONNREFUSED" in error for error in seen.errors), seen.errors


def test_a_connection_that_the_server_closes_while_it_is_idle_is_left_without_an_error():
    with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", close=True) as port:
        # At this low rate, the generator notices that the connection was closed before the next request is due.
        seen = generate(port, rate=8, seconds=0.5, patience=5.0, even=True)
    assert (seen.sent, seen.answered, seen.connections, seen.errors) == (4, 4, 1, {})


def test_a_client_that_asks_again_does_so_at_once_and_no_oftener_than_it_may():
    with scripted(b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", close=True) as port:
        record = recorded(port, patience=5, retries=3)
    assert len(record.ends) == 4 * expected_number()
    joined = firsthand(record.ends)
    assert [end.kind for end in joined] == [REFUSED] * expected_number()
    for end in record.ends:
        if end.repeats >= 0:
            assert end.due >= record.ends[end.repeats].due + record.ends[end.repeats].after - 1e-9


@contextlib.contextmanager
def served():
    """Start a server that answers /one with 200 and other paths with 503, and records the requested paths."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            received.append((self.path, self.headers["X-Client"]))
            self.send_response(200 if self.path == "/one" else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, received
        finally:
            server.shutdown()
            thread.join()


def test_requests_are_those_of_their_streams_and_reuse_free_connections():
    streams = [
        Stream("one", {"/one": 1.0}, (0, 200), {"X-Client": "a"}, even=True),
        Stream("two", {"/two": 1.0}, (20, 0), {"X-Client": "b"}, even=True),
    ]
    with served() as (port, received):
        plan = Plan(port, (0.2, 0.5), streams, "1", 5.0, preopened=3)
        record = Generator(Plan.from_json(plan.to_json())).run(time.monotonic())
    assert sorted(received) == [("/one", "a")] * 100 + [("/two", "b")] * 4
    ends = sorted((end.stream, end.kind, end.due >= 0.2) for end in record.ends)
    assert ends == [(0, ANSWERED, True)] * 100 + [(1, REFUSED, False)] * 4
    assert 3 <= record.connections < 52


# Tests of the applications, and of the flags of servers.


@pytest.mark.parametrize("path", ["/db", "/bulk", "/short", "/long", "/wait", "/cpu", "/orm"])
def test_every_path_answers_the_same_and_computing_takes_its_time(path):
    began = time.thread_time()
    status, _, body = respond(application, {"PATH_INFO": path, "SCRIPT_NAME": ""})
    assert (status, body) == ("200 OK", ANSWER)
    assert time.thread_time() - began >= {"/cpu": 0.005, "/orm": 0.02}.get(path, 0.0)


def test_workloads_are_what_they_are_called():
    assert [sum(workload.paths.values()) for workload in WORKLOADS.values()] == pytest.approx([1] * 5)
    assert [round(workload.capacity) for workload in WORKLOADS.values()] == [200, 200, 50, 400, 506]
    assert WORKLOADS["db"].chance(10_000) == WORKLOADS["mixed"].chance(20_000) == pytest.approx(0.01)
    # The mean is 19.75 ms, and the mean of the squares is 4523.75 ms².
    assert WORKLOADS["bimodal"].chance(10_000) == pytest.approx(4523.75**0.5 / 19.75 / 100)


def test_the_capacity_is_what_was_measured():
    bimodal, cpu, costs = WORKLOADS["bimodal"], WORKLOADS["cpu"], Costs(0.0055, 0.0001)
    assert bimodal.capacity_at(None, None) == bimodal.capacity
    assert bimodal.capacity_at(Costs(0.0002, 0.0001), 490.0) == 490
    assert cpu.capacity_at(costs, None) == pytest.approx(1 / 0.0055)
    assert [[*workload.connected] for workload in WORKLOADS.values()] == [["/db"], [], [], ["/db"], ["/short", "/long"]]


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
    # Timers never fire early, but requests end in groups, so one second can contain a few more than the capacity.
    assert 100 < connected_capacity(WORKLOADS["db"], around) <= 210
    assert 200 < connected_capacity(WORKLOADS["mixed"], around) <= 420


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
    told = start_command(SERVERS[name], "module:name", 8000, flags=filled(SERVERS[name].slots, number=10))
    assert [word for word in told if word not in usual] == [flag for flag in flags if flag not in usual]
    assert len(told) == len(usual) + len(flags)


# Tests of the whole command.

PEERS = [name for name in ("waitress", "gunicorn", "pywsgi-nodelay") if not missing(SERVERS[name])][:1]
MEASURED = ["intralb", *PEERS, "intralb-fixed"]
LOADS = [0.5, 3.0]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes are pinned on Linux only")
    directory = tmp_path_factory.mktemp("overload")
    amounts = ("--workloads", "db", "--loads", *LOADS, "--seconds", 1, "--warm-up", 1, "--output", directory)
    code, output, errors = run("overload", "points", *amounts, "--servers", *MEASURED)
    assert code == 0, errors
    return output, directory, load(directory / "overload.json", from_json)


def test_every_server_was_sent_the_same_and_each_request_has_ended_in_one_way(measured):
    results = measured[2]
    rate = results.capacity("db")
    for server in MEASURED:
        points = results.entries["db"][server].points
        assert [point.load for point in points] == LOADS
        for point in points:
            seen, instants = point.seen, phased([rate * point.load] * 2, [1, 1], f"1 db {point.load:g} all 0")
            assert seen.sent == sum(instant >= 1 for instant in instants)
            assert seen.sent == seen.answered + seen.refused + seen.given_up + sum(seen.errors.values()) > 0
            assert seen.useful <= seen.answered
            assert 0 <= seen.late_p50 <= seen.late_p99 <= seen.late_worst
            assert (seen.refusal_p99 is None) == (seen.refused == 0)
            assert min(point.server_busy, point.others_busy) >= 0 < seen.busy


def test_the_table_has_a_row_for_every_point_and_the_chart_a_line_for_every_server(measured):
    output, directory, _ = measured
    (rows,) = tables(output).values()
    titles = [f"**{SERVERS['intralb'].title}**", *(SERVERS[name].title for name in PEERS), "intralb_gevent, fixed"]
    shown = [(row["server"], row["load"]) for row in rows]
    assert shown == [(name, f"{times:g}") for name in titles for times in LOADS]
    assert (directory / "overload.md").read_text() in output
    texts = [text.text for text in ElementTree.parse(directory / "overload-db.svg").iter() if text.text]
    assert all(texts.count(name.strip("*")) == 2 for name in titles)
    assert {"0.5", "3", "ceiling", "useful below this"} <= {*texts}


def test_the_results_can_be_shown_again(measured, tmp_path):
    output, directory, results = measured
    assert run("overload", "--from", directory / "overload.json", "--output", tmp_path)[:2] == (0, output)
    assert {path.name for path in tmp_path.iterdir()} == {"overload.json", "overload.md", "overload-db.svg"}
    assert load(tmp_path / "overload.json", from_json) == results


# Tests with fixed results, for cases that do not always occur in a tiny run.


def point(load, useful, late=1.0, others_busy=0.0):
    ends = [End(ANSWERED, late / 1000, 0.1)] * useful + [End(GIVEN_UP, late / 1000, 2.0)]
    return Point(load, 1.0, summed_up(ends, 0.1, 5), 0.5, others_busy)


@pytest.fixture(scope="module")
def canned(tmp_path_factory):
    directory = tmp_path_factory.mktemp("canned")
    results = Results({"measured": "2001-02-03 04:05"}, {"cpu": Costs(0.005, 0.00005)})
    results.entry("cpu", "intralb").points += [point(0.5, 100), point(10.0, 180)]
    results.entry("cpu", "gunicorn").points += [point(0.5, 99, late=30.0, others_busy=0.6)]
    results.entry("cpu", "gunicorn").failures["10"] = "it fell over"
    results.connected["db"] = 197.5
    (directory / "canned.json").write_text(as_json(results))
    return run("overload", "--from", directory / "canned.json")


def test_a_ceiling_stands_beside_each_figure(canned):
    _, output, _ = canned
    assert "a refusal 50 µs: k = 0.010" in output
    ours = tables(output)["5 ms of Python (cpu)"][:2]
    assert [(row["goodput/s"], row["ceiling"], row["of it"]) for row in ours] == [
        ("100", "101", "99%"),
        ("180", "181", "99%"),
    ]


def test_what_spoils_a_figure_and_a_point_that_failed_are_told(canned):
    code, output, _ = canned
    rows = tables(output)["5 ms of Python (cpu)"]
    assert ["(!)" in row["sent late ms: p50 / p99 / worst"] for row in rows] == [False, False, True]
    assert "(!): the generator was late" in output
    assert [row["CPU: server / others there"] for row in rows] == ["50% / 0%", "50% / 0%", "50% / 60% (?)"]
    assert "(?): others used the server's core" in output
    assert "- gunicorn -k gevent could not be measured at 10: it fell over\n" in output
    assert code == 1
