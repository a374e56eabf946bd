"""Short load tests by their documented command: locust patches the process that imports it, so none is run here."""

import html
import importlib.util
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import time

import pytest

if importlib.util.find_spec("locust") is None:
    pytest.skip("locust is not installed", allow_module_level=True)

import psutil

ROOT = pathlib.Path(__file__).parents[2]
TINY_POOL = ["--", "--max-concurrent-per-router=1", "--queue-size=0", "--min-workers=1", "--max-workers=1"]
BROKEN = """
def application(environ, start_response):
    start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
    return [b"broken"]
"""


def start(*arguments):
    command = [sys.executable, "-m", "loadtests.run", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Result:
    """How one run ended: its exit code, what it printed, and the figures on its page."""

    def __init__(self, process, path):
        self.output, self.errors = process.communicate(timeout=60)
        self.code = process.returncode
        self.page = path.read_text(encoding="utf-8") if path.exists() else ""
        _, self.clients, self.server = (
            {html.unescape(name): value for name, value in re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", part)}
            for part in re.split("What the clients saw|What the server said of itself", self.page)
        )

    def both(self, name):
        """Return what the clients and the server counted of the same matter."""
        row = re.search(f"<th>{name}</th><td>([0-9,]+)</td><td>([0-9,]+)</td>", self.page)
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
        wait_until(ready_file.exists)
        facts = json.loads(ready_file.read_text())
        yield facts["addresses"][0]["url"], facts["admin"]["url"]
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def results(tmp_path_factory, broken_server):
    """All runs at the same time, for each of them is mostly waiting."""
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
    started = {name: start(f"--report={paths[name]}", "--seconds=3", *runs[name]) for name in runs}
    return {name: Result(process, paths[name]) for name, process in started.items()}


def wait_until(condition, seconds=20.0, pause=0.02):
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it has not come about in time"
        time.sleep(pause)


@pytest.mark.parametrize("name", ["browse", "write"])
def test_a_short_run_finds_every_status_as_expected(results, name):
    result = results[name]
    assert result.code == 0, result.output + result.errors
    assert "FAILED" not in result.output
    assert "The server shut down with exit code 0" in result.output
    answers, ended = result.both("answers")
    assert ended >= answers > 10
    expected, completed = result.both("expected")
    assert completed >= expected == answers


def test_the_report_tells_both_sides(results):
    result = results["browse"]
    assert [result.clients[name] for name in ("refused", "unexpected")] == ["0", "0"]
    assert [result.server[name] for name in ("shed", "workers")] == ["0", "2"]
    for figure in (result.clients["latency p50"], result.clients["latency p99"], result.server["queue wait p99"]):
        assert re.fullmatch(r"[\d.]+ m?s", figure)
    drawn = re.findall(r'<svg [^>]*aria-label="(.*?)"', result.page)
    assert {"Users", "Answers per second", "Latency"} <= {*drawn}
    assert {"Running and queued", "Jobs ended per second", "Queue wait", "Workers"} <= {*drawn}


def test_the_report_needs_nothing_but_itself(results):
    for result in results.values():
        assert not re.search(r"(src|href)=|url\(|@import|<script", result.page)


def test_a_spike_may_be_shed_and_both_sides_count_the_same(results):
    result = results["spike"]
    assert result.code == 0, result.output + result.errors
    refused, shed = result.both("refused: queue_full")
    assert refused == shed > 0
    assert result.server["shed"] == f"{shed:,}"
    assert "Shed per second" in re.findall(r'<svg [^>]*aria-label="(.*?)"', result.page)


def test_without_a_spike_a_refusal_fails_the_run(results):
    result = results["shed"]
    assert result.code == 1
    assert re.search(r"FAILED +\d+ were refused \(\d+ with queue_full\), which this run does not allow", result.output)
    assert "refused (queue_full), and this run does not expect that" in result.page


def test_an_unexpected_status_fails_the_run(results):
    result = results["broken"]
    assert result.code == 1
    count = result.clients["requests"]
    assert f"FAILED  {count} of {count} answers were unexpected: {count} with 500." in result.output
    assert "500 instead of 200" in result.page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host=http://example.org", "--admin=http://127.0.0.1:1"], "it must be http:// at 127.0.0.1, localhost"),
        (["--host=http://127.0.0.1:1", "--admin=http://127.0.0.1.example.org"], "'http://127.0.0.1.example.org'"),
        (["--host=http://127.0.0.1:1"], "--host and --admin go together"),
        (["--users=0"], "0 is not allowed; it must be 1 or more"),
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
    run = start(f"--report={tmp_path / 'report.html'}", "--seconds=60")
    seen = psutil.Process(run.pid)
    wait_until(lambda: len(seen.children()) == 2)
    children = seen.children()
    run.terminate()
    run.communicate(timeout=30)
    assert run.returncode == 128 + 15
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_nor_does_one_that_is_ended_while_it_starts_them(tmp_path):
    runs = [start(f"--report={tmp_path / 'report.html'}", "--seconds=60") for _ in range(4)]
    pids = []
    for run in runs:
        children = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children")
        # Without a pause, which would last longer than a start.
        wait_until(lambda children=children: len(children.read_text().split()) == 2, pause=0)
        pids += children.read_text().split()
        run.terminate()
    for run in runs:
        run.communicate(timeout=30)
    assert [run.returncode for run in runs] == [128 + 15] * 4
    wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids))


def test_the_shapes_stay_within_their_users_and_their_time():
    shapes = runpy.run_path(str(ROOT / "loadtests" / "shapes.py"))
    users_at = shapes["users_at"]
    assert [users_at("step", second, 8, 40) for second in range(9)] == [10, 10, 20, 20, 30, 30, 40, 40, None]
    assert [users_at("spike", second, 10, 200) for second in range(0, 12, 2)] == [20, 20, 200, 20, 20, None]
    assert [users_at("steady", second, 2, 7) for second in range(3)] == [7, 7, None]
    assert users_at("spike", 0, 10, 1) == 1
