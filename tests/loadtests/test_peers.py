"""Tests of the peer benchmark: parsing, checks, output and files. No test checks performance."""

import io
import json
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from commands import ROOT, linux, respond, run
from commands import tables as tables_of

from intralb_gevent.config.importer import load_application
from loadtests.common import LoadTestError
from loadtests.common.report import as_json, load
from loadtests.common.servers import SERVERS, Server, check_answer, clean_environment, missing
from loadtests.peers.applications import FILE_VARIABLE
from loadtests.peers.measure import read_wrk, serving_case
from loadtests.peers.results import CASES, FILE_BYTES, from_json

WRK_SAYS = """\
Running 5s test @ http://127.0.0.1:7912/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.20s   298.46us   1.20s    75.00%
    Req/Sec    17.80     29.31    70.00     80.00%
  Latency Distribution
     50%  612.00us
     75%    2.46ms
     90%   85.10ms
     99%    1.20s 
  32 requests in 5.02s, 2.98KB read
"""  # noqa: W291  # wrk pads its seconds
WRK_ERRORS = """\
  Socket errors: connect 0, read 3, write 0, timeout 24
  Non-2xx or 3xx responses: 8
"""
WRK_RATES = """\
Requests/sec:      6.40
Transfer/sec:    608.91B
"""


def measurement(value, **others):
    return {"value": value, "memory": 50 * 1024 * 1024, "server_busy": 0.5, "generator_busy": 0.25, **others}


def entry(*measurements, failures=()):
    return {"measurements": list(measurements), "failures": list(failures)}


CANNED = {
    "about": {"measured": "2001-02-03 04:05", "rounds": "3 of 3 s"},
    "entries": {
        "hello": {
            "limit": entry(measurement(120_000)),
            "gunicorn": entry(measurement(10_000, p50=1.5, p99=123.4)),
            "granian": entry(measurement(90_000), failures=["it | fell over"]),
            "uwsgi": entry(measurement(20_000, errors={"read": 1200}), measurement(22_000, errors={"read": 34})),
            "intralb": entry(measurement(50_000), measurement(61_234), measurement(60_000)),
            "waitress": entry(failures=["the server has not started", "the server has not started"]),
        },
        "large": {"intralb": entry(measurement(26_000)), "gunicorn": entry(measurement(11_000))},
        "idle": {"intralb": entry(measurement(3 * 1024)), "gunicorn": entry(measurement(15 * 1024))},
    },
}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    directory = tmp_path_factory.mktemp("peers")
    (directory / "canned.json").write_text(json.dumps(CANNED))
    code, output, errors = run("peers", "--from", directory / "canned.json")
    return code, output, directory, errors


@pytest.fixture
def tables(rendered):
    """Return the printed tables by heading; each table maps the first cell of a row to the row."""
    found = tables_of(rendered[1])
    return {heading: {next(iter(row.values())): row for row in rows} for heading, rows in found.items()}


# Tests of the parser of wrk's output.


def test_what_wrk_found_is_read():
    load = read_wrk(WRK_SAYS + WRK_RATES)
    assert (load.value, load.p50, load.p99, load.errors) == (6.4, pytest.approx(0.612), 1200.0, {})


def test_wrong_answers_and_socket_errors_are_counted_and_are_not_answers():
    load = read_wrk(WRK_SAYS + WRK_ERRORS + WRK_RATES)
    assert load.value == pytest.approx(6.4 * 24 / 32)
    assert load.errors == {"read": 3, "timeout": 24, "non-2xx": 8}
    with pytest.raises(LoadTestError, match="unable to connect"):
        read_wrk("unable to connect to 127.0.0.1:1 Connection refused")


# Tests of tables.


def test_a_table_tells_medians_ratios_and_memory(tables):
    hello = tables["Hello, keep-alive"]
    ours, gunicorn = hello["**intralb_gevent**"], hello["gunicorn -k gevent"]
    assert (ours["requests/s"], ours["lowest - highest"]) == ("60,000", "50,000 - 61,234")
    assert (gunicorn["ours against it"], gunicorn["p50 ms"], gunicorn["p99 ms"]) == ("6.00 x", "1.50", "123")
    assert (gunicorn["peak RSS MB"], gunicorn["CPU µs each"]) == ("50", "50.0")
    assert gunicorn["busy: server / wrk"] == "50% / 25%"
    # Idle connections are measured in bytes, where less is better.
    idle = tables["Idle keep-alive connections"]
    assert idle["**intralb_gevent**"]["KB each"] == "3.0"
    assert idle["gunicorn -k gevent"]["ours against it"] == "5.00 x"


def test_errors_of_all_rounds_and_failed_rounds_are_told(rendered, tables):
    hello = tables["Hello, keep-alive"]
    assert {name: row["errors"] for name, row in hello.items() if row["errors"] != "0"} == {
        "uwsgi --gevent": "read 1,234",
        "granian, WSGI": "not measured 1",
        "waitress": "not measured 2",
    }
    assert rendered[1].count("- waitress could not be measured: the server has not started\n") == 1
    assert "- granian, WSGI could not be measured: it | fell over\n" in rendered[1]
    assert rendered[0] == 1


def test_goals_are_judged_beside_the_server_they_name_or_the_best(tables, rendered):
    goals = rendered[1].partition("### Goals")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in goals.splitlines() if line][2:]
    assert ["Hello, keep-alive", "gunicorn -k gevent", "5.00 x", "6.00 x", "yes"] in rows
    assert ["Hello, keep-alive", "granian, WSGI", "1.00 x", "0.67 x", "no"] in rows
    assert ["64 KB response", "gunicorn -k gevent, the best", "1.20 x", "2.36 x", "yes"] in rows
    assert ["Idle keep-alive connections", "", "at most 4.0 KB", "3.0 KB", "yes"] in rows
    assert not any("NODELAY" in row[1] for row in rows)


def test_the_chart_shows_every_figure_and_marks_those_with_errors(rendered):
    chart = (rendered[2] / "peers.svg").read_text()
    ElementTree.fromstring(chart)
    for text in ("60,000", "10,000", "21,000 *", "90,000 *", "not measured *", "3.0", "* with errors", "Outlined"):
        assert re.search(rf">[^<]*{re.escape(text)}[^<]*<", chart), text
    assert "prefers-color-scheme: dark" in chart


def test_without_matplotlib_only_the_chart_is_left_out(rendered, tmp_path):
    program = "import runpy, sys; sys.modules['matplotlib'] = None; runpy.run_module('loadtests.peers', {}, '__main__')"
    command = [sys.executable, "-c", program]
    arguments = ["--from", rendered[2] / "canned.json", "--output", tmp_path]
    ended = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, rendered[1])
    assert "matplotlib is not installed, so the charts are left out" in ended.stderr
    assert not (tmp_path / "peers.svg").exists()


def test_the_tables_are_also_written_and_results_survive_being_stored(rendered, tmp_path):
    assert (rendered[2] / "peers.md").read_text() in rendered[1]
    results = load(rendered[2] / "canned.json", from_json)
    (tmp_path / "peers.json").write_text(as_json(results))
    assert load(tmp_path / "peers.json", from_json) == results


def test_a_server_gets_none_of_the_settings_of_its_surroundings(monkeypatch):
    monkeypatch.setenv("INTRALB_QUEUE_SIZE", "1")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--workers=7")
    assert not [name for name in clean_environment({}) if name.startswith(("INTRALB_", "GUNICORN_"))]


# Tests of the applications and the servers.


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_application_answers_what_its_case_expects(case, tmp_path, monkeypatch):
    if case.name == "flask":
        pytest.importorskip("flask")
    (tmp_path / "file").write_bytes(bytes(FILE_BYTES))
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "file"))
    request = {"REQUEST_METHOD": case.method, "CONTENT_LENGTH": str(len(case.body))}
    environ = {**request, "wsgi.input": io.BytesIO(case.body)}
    status, headers, body = respond(load_application(case.application), environ)
    assert (status, body) == ("200 OK", case.answer)
    assert ("Content-Length", str(len(case.answer))) in headers


def check_case(port, case):
    check_answer(port, case.answer, body=case.body, headers=case.headers)


def alive(process):
    return [pid for pid in process.members() if pathlib.Path(f"/proc/{pid}").exists()]


def core():
    return min(os.sched_getaffinity(0))


@linux
@pytest.mark.parametrize("name", SERVERS)
def test_every_server_that_is_installed_starts_answers_and_leaves_nothing(name, tmp_path):
    if missing(SERVERS[name]):
        pytest.skip(f"{missing(SERVERS[name])} is not installed")
    with serving_case(SERVERS[name], CASES["hello"], core(), tmp_path) as (process, port):
        check_case(port, CASES["hello"])
        assert alive(process)
        assert min(process.memory(), process.peak_memory()) > 5 * 1024 * 1024
        assert all(os.sched_getaffinity(pid) == {core()} for pid in process.members())
    assert not alive(process)


@linux
@pytest.mark.parametrize(
    ("served", "asked", "message"),
    [
        ("hello", "large", r"wrong: 11 bytes that begin with b'Hello World', instead of 65536"),
        ("post", "hello", "answered 500 instead of 200"),
    ],
)
def test_a_wrong_answer_is_not_measured(served, asked, message, tmp_path):
    with serving_case(SERVERS["intralb"], CASES[served], core(), tmp_path) as (_, port):
        check_case(port, CASES[served])
        with pytest.raises(LoadTestError, match=message):
            check_case(port, CASES[asked])


@linux
def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path):
    command = [sys.executable, "-c", "exit('no such luck')", "FLAGS"]
    broken = Server("broken", "Broken", "gevent", command)
    with (
        pytest.raises(LoadTestError, match="has not started; its last words: no such luck"),
        serving_case(broken, CASES["hello"], core(), tmp_path),
    ):
        pass
