"""Tests of the deadline benchmark: results, counts, goals, output and left-out kinds. No test checks real timing."""

import json
import os
import socket
import threading

import pytest
from commands import linux, respond, run, tables

from loadtests.deadlines.measure import KINDS, Crowd, Seen
from loadtests.deadlines.measure import run as run_crowd
from loadtests.deadlines.results import Entry, Results, as_markdown

MEASURED = ("socket", "sleep", "lock", "queue", "subprocess", "loop", "swallow", "stalled", "endless")
REPETITIONS = 2
DEADLINE = 0.3  # on a busy machine, a handler can wait 100 ms before it runs
SECONDS = 60


# Tests of a short run.


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    directory = tmp_path_factory.mktemp("deadlines")
    amounts = ("--deadlines", DEADLINE, "--repetitions", REPETITIONS)
    return *run("deadlines", "--kinds", *MEASURED, *amounts, "--output", directory), directory


@linux
def test_every_request_is_ended_at_its_deadline_as_it_has_to_be_and_none_early(measured):
    _, output, errors, directory = measured
    stored = json.loads((directory / "deadlines.json").read_text())
    assert (stored["failures"], [*stored["entries"]]) == ({}, [*MEASURED]), output + errors
    for kind, by_deadline in stored["entries"].items():
        assert [*by_deadline] == [str(DEADLINE)]
        assert by_deadline[str(DEADLINE)]["otherwise"] == {}, kind
        late = by_deadline[str(DEADLINE)]["late"]
        assert (len(late), min(late) >= 0) == (REPETITIONS, True), kind


@linux
def test_the_tables_tell_of_every_kind_and_are_also_written(measured):
    code, output, _, directory = measured
    rows = [row for table in tables(output).values() for row in table]
    assert [row["kind"] for row in rows] == [KINDS[name].title for name in MEASURED]
    assert {(row["deadline"], row["measured"]) for row in rows} == {("300 ms", str(REPETITIONS))}
    for row in rows:
        assert 0 <= float(row["earliest ms"]) <= float(row["p50 ms"]) <= float(row["p99 ms"]) <= float(row["worst ms"])
    assert code == int(any(row["reached"] == "no" for row in rows))
    assert (directory / "deadlines.md").read_text() in output
    assert "- handlers not measured: none\n" in output


@linux
def test_a_database_server_that_does_not_answer_is_left_out_and_named(tmp_path):
    pytest.importorskip("psycopg")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    nowhere = f"postgresql://postgres@127.0.0.1:{port}/test"
    code, output, errors = run(
        "deadlines", "--kinds", "psycopg", "--output", tmp_path, env={**os.environ, "INTRALB_TEST_POSTGRESQL": nowhere}
    )
    assert (code, output) == (2, "")
    assert f"psycopg is left out: there is no PostgreSQL at 127.0.0.1:{port}" in errors
    assert "there is nothing to measure" in errors


# Tests of the results of requests.


def seen(answer, patience=10.0, closes=True):
    """Return the result of a request to a server that sends `answer` and, if `closes`, closes the connection."""
    over = threading.Event()

    def serve():
        connection = listener.accept()[0]
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
            closes or over.wait(SECONDS)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        (only,) = run_crowd(Crowd(listener.getsockname()[1], "/", 1, 1, 0.0, patience))
        over.set()
        server.join()
    return only.end


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 3\r\n\r\nlat", "504"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200"),
        (CHUNKED + b"3\r\nxxx\r\n", "cut"),
        (CHUNKED, "cut"),
        (CHUNKED + b"3\r\nxxx\r\n0\r\n\r\n", "200"),
        (CHUNKED + b"0\r\n\r\n", "200"),
        (b"HTTP/1.1 504 Gate", "no answer"),
        (b"", "no answer"),
    ],
)
def test_an_answer_a_cut_and_a_whole_body_are_told_apart(answer, end):
    assert seen(answer) == end


@pytest.mark.parametrize("answer", [b"", CHUNKED + b"3\r\nxxx\r\n"])
def test_a_request_that_nobody_ends_is_given_up(answer):
    assert seen(answer, patience=0.05, closes=False) == "no answer"


# Tests of goals.


def entry(late=(), otherwise=()):
    return Entry(list(late), dict(otherwise))


@pytest.mark.parametrize(
    ("measured", "reached"),
    [
        (entry([0.025]), True),
        (entry([0.001] * 99 + [3.0]), True),
        (entry([0.001] * 98 + [3.0] * 2), False),
        (entry([0.001, -0.001]), False),
        (entry([0.001], {"503": 1}), False),
        (entry(), False),
    ],
)
def test_a_goal_is_reached_by_ninety_nine_of_a_hundred_if_all_ended_as_they_had_to_and_none_early(measured, reached):
    assert measured.reaches(0.025) is reached
    assert Results(entries={"sleep": {0.1: measured}}).missed is not reached


def test_another_end_than_the_right_one_is_counted_apart_and_told():
    results = Results({"measured": "2001-02-03 04:05"}, failures={"lock": "it fell over"})
    for end, seconds in (("504", 1.25), ("503", 1.0), ("503", 1.0), ("504", 0.99)):
        results.entry("sleep", 1.0).add(KINDS["sleep"], 1.0, Seen(end, seconds))
    results.entry("stalled", 0.1).add(KINDS["stalled"], 0.1, Seen("504", 0.1))
    text = as_markdown(results)
    (row,) = tables(text)["Handlers that wait"]
    assert (row["measured"], row["worst ms"], row["earliest ms"], row["reached"]) == ("2", "250.0", "-10.0", "no")
    assert "- `time.sleep`, 1 s: seen instead of 504: 2 x 503\n" in text
    assert "- `time.sleep`, 1 s: 1 ended before the deadline\n" in text
    assert "- `threading.Lock` could not be measured to the end: it fell over\n" in text
    assert "- a generator that waits, 100 ms: seen instead of cut: 1 x 504\n" in text
    assert results.missed


def test_a_failure_is_a_missed_goal():
    assert Results(entries={"sleep": {0.1: entry([0.001])}}, failures={"sleep": "it fell over"}).missed


# Tests of the applications.


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_application_answers_at_rest_at_once(kind):
    pytest.importorskip(kind.package or "sys")
    module, _, name = kind.reference.partition(":")
    application = getattr(__import__(module, fromlist=[name]), name)
    assert respond(application, {"PATH_INFO": "/rest", "SCRIPT_NAME": ""})[::2] == ("200 OK", b"")
