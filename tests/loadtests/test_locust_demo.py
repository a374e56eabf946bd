"""Short load tests of the sample application. They run as commands, because locust patches the process it runs in."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time

import pytest
from commands import ROOT, Report, start

if importlib.util.find_spec("locust") is None:
    pytest.skip("locust is not installed", allow_module_level=True)

TINY_POOL = ["--", "--max-concurrent-per-router=1", "--queue-size=0", "--min-workers=1", "--max-workers=1"]
BROKEN = """
def application(environ, start_response):
    start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
    return [b"broken"]
"""


def both(report, name):
    """Return two counts of the quantity `name`: the users' count and the server's."""
    row = re.search(f"<th>{name}</th><td>([0-9,]+)</td><td>([0-9,]+)</td>", report.page)
    return tuple(int(figure.replace(",", "")) for figure in row.groups())


@pytest.fixture(scope="module")
def broken_server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("broken")
    ready_file = directory / "ready.json"
    (directory / "broken.py").write_text(BROKEN)
    ports = ["--bind=127.0.0.1:0", "--admin-bind=127.0.0.1:0", f"--ready-file={ready_file}"]
    command = [sys.executable, "-m", "intralb_gevent", "serve", "broken:application", *ports]
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(command, cwd=directory, env={**os.environ, "PYTHONPATH": search})
    try:
        give_up = time.monotonic() + 20
        while not ready_file.exists():
            assert time.monotonic() < give_up, "it has not started"
            time.sleep(0.02)
        facts = json.loads(ready_file.read_text())
        yield facts["addresses"][0]["url"], facts["admin"]["url"]
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def results(tmp_path_factory, broken_server):
    """Make all runs at the same time, because each run mostly waits."""
    host, admin = broken_server
    runs = {
        "browse": ["browse", "--users=6"],
        "write": ["write", "--shape=step", "--users=8"],
        "spike": ["slow-mix", "--shape=spike", "--users=40", *TINY_POOL],
        "shed": ["slow-mix", "--users=8", *TINY_POOL],
        "broken": ["browse", "--users=3", f"--host={host}", f"--admin={admin}"],
    }
    directory = tmp_path_factory.mktemp("reports")
    paths = {name: directory / f"{name}.html" for name in runs}
    started = {name: start("run", f"--report={paths[name]}", "--seconds=3", *runs[name]) for name in runs}
    return {name: Report(process, paths[name]) for name, process in started.items()}


@pytest.mark.parametrize("name", ["browse", "write"])
def test_a_short_run_finds_every_status_as_expected(results, name):
    result = results[name]
    assert result.code == 0, result.output + result.errors
    assert "FAILED" not in result.output
    assert "The server shut down with exit code 0" in result.output
    answers, ended = both(result, "answers")
    assert ended >= answers > 10
    expected, completed = both(result, "expected")
    assert completed >= expected == answers


def test_the_report_shows_both_sides_and_needs_nothing_but_itself(results):
    result = results["browse"]
    assert [result.users[name] for name in ("refused", "unexpected")] == ["0", "0"]
    assert [result.server[name] for name in ("shed", "workers")] == ["0", "2"]
    for figure in (result.users["latency p50"], result.users["latency p99"], result.server["queue wait p99"]):
        assert re.fullmatch(r"[\d.]+ m?s", figure)
    assert {"Users", "Requests per second", "Latency"} <= {*result.charts}
    assert {"Running and queued", "Jobs ended per second", "Queue wait", "Workers"} <= {*result.charts}
    assert not any(each.needs_others() for each in results.values())


def test_a_spike_may_be_shed_and_both_sides_count_the_same(results):
    result = results["spike"]
    assert result.code == 0, result.output + result.errors
    refused, shed = both(result, "refused: queue_full")
    assert refused == shed > 0
    assert result.server["shed"] == f"{shed:,}"
    assert "Shed per second" in result.charts


def test_without_a_spike_a_refusal_fails_the_run(results):
    result = results["shed"]
    assert result.code == 1
    assert re.search(r"FAILED +\d+ were refused \(\d+ with queue_full\), which this run does not allow", result.output)
    assert "refused (queue_full), and this run does not expect that" in result.page


def test_an_unexpected_status_fails_the_run(results):
    result = results["broken"]
    assert result.code == 1
    count = result.users["requests"]
    assert f"FAILED  {count} of {count} answers were unexpected: {count} with 500." in result.output
    assert "500 instead of 200" in result.page
