"""The benchmark of the peers, without a timed test: what it reads, checks, refuses, prints and leaves behind."""

import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

# It is not part of what is installed.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from intralb_gevent.loading import load_application
from loadtests.side_by_side import BenchmarkError, wrk
from loadtests.side_by_side.applications import FILE_VARIABLE
from loadtests.side_by_side.cases import CASES, FILE_BYTES
from loadtests.side_by_side.measure import check_answer, serving
from loadtests.side_by_side.results import as_json, load
from loadtests.side_by_side.servers import SERVERS, Server, clean_environment, missing, start_command

ROOT = pathlib.Path(__file__).parents[2]
linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are pinned on Linux only")

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


def start(*arguments, **others):
    command = [sys.executable, "-m", "loadtests.peers", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **others)


def run(*arguments, **others):
    process = start(*arguments, **others)
    output, errors = process.communicate(timeout=30)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    directory = tmp_path_factory.mktemp("peers")
    (directory / "canned.json").write_text(json.dumps(CANNED))
    code, output, _ = run("--from", directory / "canned.json")
    return code, output, directory


@pytest.fixture
def tables(rendered):
    """Every table that was printed: by its heading, its rows by their first cell, each a list of cells."""
    found = {}
    for heading, text in re.findall(r"^### (.+?)\n\n((?:\|.*\n)+)", rendered[1], re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
        found[heading] = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    return found


# What wrk says.


def test_what_wrk_found_is_read():
    load = wrk.read(WRK_SAYS + WRK_RATES)
    assert (load.rate, load.p50, load.p99, load.errors) == (6.4, pytest.approx(0.612), 1200.0, {})


def test_wrong_answers_and_socket_errors_are_counted_and_are_not_answers():
    load = wrk.read(WRK_SAYS + WRK_ERRORS + WRK_RATES)
    assert load.rate == pytest.approx(6.4 * 24 / 32)
    assert load.errors == {"read": 3, "timeout": 24, "non-2xx": 8}


def test_no_answer_at_all_is_a_rate_of_nothing():
    silent = "  0 requests in 1.02s, 0.00B read\n  Socket errors: connect 0, read 64, write 7, timeout 0\n"
    load = wrk.read(silent + "Requests/sec:      0.00\n")
    assert (load.rate, load.errors) == (0.0, {"read": 64, "write": 7})


def test_words_of_wrk_that_cannot_be_read_are_not_taken_for_figures():
    with pytest.raises(BenchmarkError, match="unable to connect"):
        wrk.read("unable to connect to 127.0.0.1:1 Connection refused")


# The tables.


def test_a_table_tells_medians_ratios_and_memory(tables):
    hello = tables["Hello, keep-alive"]
    ours, gunicorn = hello["**intralb_gevent**"], hello["gunicorn -k gevent"]
    assert (ours["requests/s"], ours["lowest - highest"]) == ("60,000", "50,000 - 61,234")
    assert (gunicorn["ours against it"], gunicorn["p50 ms"], gunicorn["p99 ms"]) == ("6.00 x", "1.50", "123")
    assert (gunicorn["peak RSS MB"], gunicorn["CPU µs each"]) == ("50", "50.0")
    assert gunicorn["busy: server / wrk"] == "50% / 25%"


def test_of_idle_connections_fewer_bytes_are_better(tables):
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


def test_the_tables_are_also_written_and_the_script_can_be_started_by_its_path(rendered):
    _, output, directory = rendered
    (directory / "peers.md").unlink()
    command = [sys.executable, "loadtests/peers.py", "--from", directory / "canned.json"]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert again.stdout == output
    assert (directory / "peers.md").read_text() in output


def test_results_survive_being_stored(rendered, tmp_path):
    results = load(rendered[2] / "canned.json")
    (tmp_path / "peers.json").write_text(as_json(results))
    assert load(tmp_path / "peers.json") == results
    assert results.entry("hello", "uwsgi").errors == {"read": 1234}


# The chart.


@pytest.fixture
def chart(rendered):
    return ElementTree.parse(rendered[2] / "peers.svg").getroot()


SVG = "{http://www.w3.org/2000/svg}"


def test_the_chart_has_a_bar_for_every_figure_and_ours_stands_out(chart):
    shapes = [rectangle.get("class") for rectangle in chart.iter(f"{SVG}rect")]
    assert {shape: shapes.count(shape) for shape in shapes} == {"paper": 1, "ours": 3, "bar": 5, "limit": 1}


def test_bars_are_as_long_as_their_figures(chart):
    widths = [float(bar.get("width")) for bar in chart.iter(f"{SVG}rect") if bar.get("class") != "paper"]
    ours, gunicorn = widths[:2]
    assert ours / gunicorn == pytest.approx(6, rel=0.01)
    assert max(widths) == widths[4] == pytest.approx(2 * ours, rel=0.01)


def test_the_chart_marks_figures_with_errors(chart):
    texts = ["".join(text.itertext()) for text in chart.iter(f"{SVG}text")]
    assert {text for text in texts if text.endswith(" *")} == {"21,000 *", "90,000 *", "not measured *"}
    assert any("* with errors" in text for text in texts)


def test_the_chart_fits_and_is_readable_on_dark_pages(chart):
    assert "prefers-color-scheme: dark" in chart.find(f"{SVG}style").text
    _, _, width, height = map(float, chart.get("viewBox").split())
    for bar in chart.iter(f"{SVG}rect"):
        assert float(bar.get("x")) + float(bar.get("width")) <= width
        assert float(bar.get("y")) + float(bar.get("height")) <= height


# What it can be told.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "nonsense"], "invalid choice: 'nonsense'"),
        (["--servers", "apache"], "invalid choice: 'apache'"),
        (["--rounds=0"], "0 is not allowed; it must be 1 or more"),
        (["--from", "/nowhere/peers.json"], "cannot read '/nowhere/peers.json'"),
        (["--from", "pyproject.toml"], "'pyproject.toml' is not a file of results"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments, message, tmp_path):
    code, output, errors = run(*arguments, "--output", tmp_path / "reports")
    assert (code, output) == (2, "")
    assert message in errors
    assert not (tmp_path / "reports").exists()


@linux
def test_without_wrk_it_says_so(tmp_path):
    code, _, errors = run("--output", tmp_path, env={**os.environ, "PATH": str(tmp_path)})
    assert code == 2
    assert "wrk is not installed" in errors


@linux
def test_what_no_server_can_do_is_not_run(tmp_path):
    code, _, errors = run("--cases", "idle", "--servers", "uwsgi", "--output", tmp_path)
    assert code == 2
    assert "there is nothing to measure" in errors


@linux
def test_more_connections_than_open_files_are_refused(tmp_path):
    code, _, errors = run("--cases", "idle", "--idle-connections", 2_000_000_000, "--output", tmp_path)
    assert code == 2
    assert "raise the limit (ulimit -Hn) or ask for fewer with --idle-connections" in errors


def test_what_is_missing_is_named():
    nowhere = Server("nowhere", "Nowhere", "no-such-server", lambda application, port: [])
    assert missing(nowhere) == "no-such-server"
    assert missing(SERVERS["intralb"]) is None
    assert missing(SERVERS["limit"]) is None


def test_a_server_is_told_of_many_connections_only_when_there_are():
    usual = start_command(SERVERS["gunicorn"], "module:name", 8000)
    many = start_command(SERVERS["gunicorn"], "module:name", 8000, idle_connections=8000)
    assert int(many[many.index("--worker-connections") + 1]) > 8000
    assert [word for word in many if word in usual] == usual


def test_a_server_gets_none_of_the_settings_of_its_surroundings(monkeypatch):
    monkeypatch.setenv("INTRALB_QUEUE_SIZE", "1")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--workers=7")
    assert not [name for name in clean_environment({}) if name.startswith(("INTRALB_", "GUNICORN_"))]


# The applications, and the servers.


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_application_answers_what_its_case_expects(case, tmp_path, monkeypatch):
    if case.name == "flask":
        pytest.importorskip("flask")
    (tmp_path / "file").write_bytes(bytes(FILE_BYTES))
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "file"))
    environ = {"REQUEST_METHOD": case.method, "CONTENT_LENGTH": str(len(case.body)), "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    environ["wsgi.input"] = io.BytesIO(case.body)
    started = []
    answer = validator(load_application(case.application))(environ, lambda *head: started.append(head))
    assert b"".join(answer) == case.answer
    answer.close()
    status, headers = started[0]
    assert status == "200 OK"
    assert ("Content-Length", str(len(case.answer))) in headers


def alive(process):
    return [pid for pid in process.members() if pathlib.Path(f"/proc/{pid}").exists()]


def core():
    return min(os.sched_getaffinity(0))


@linux
@pytest.mark.parametrize("name", SERVERS)
def test_every_server_that_is_installed_starts_answers_and_leaves_nothing(name, tmp_path):
    if missing(SERVERS[name]):
        pytest.skip(f"{missing(SERVERS[name])} is not installed")
    with serving(SERVERS[name], CASES["hello"], core(), tmp_path) as (process, port):
        check_answer(CASES["hello"], port)
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
    with serving(SERVERS["intralb"], CASES[served], core(), tmp_path) as (_, port):
        check_answer(CASES[served], port)
        with pytest.raises(BenchmarkError, match=message):
            check_answer(CASES[asked], port)


@linux
def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path):
    broken = Server(
        "broken", "Broken", "gevent", lambda application, port: [sys.executable, "-c", "exit('no such luck')"]
    )
    with (
        pytest.raises(BenchmarkError, match="has not started; its last words: no such luck"),
        serving(broken, CASES["hello"], core(), tmp_path),
    ):
        pass


@linux
def test_a_run_that_is_ended_leaves_no_process_behind(tmp_path):
    process = start("--cases", "idle", "--servers", "intralb", "--idle-connections", 10, "--output", tmp_path)
    listing = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    give_up = time.monotonic() + 20
    while not (children := listing.read_text().split()):
        assert time.monotonic() < give_up, "it has started no server"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert not [child for child in children if pathlib.Path(f"/proc/{child}").exists()]
