"""Tests of all commands: they reject invalid arguments, and leave no process running."""

import os
import pathlib
import signal
import time

import pytest
from commands import linux, run, start

OUTPUT, REPORT = "--output={}/reports", "--report={}/reports"
NOT_POSITIVE = "0 is not allowed; it must be 1 or more"
REFUSED = [
    ("closed", OUTPUT, ["--most-clients=0"], NOT_POSITIVE),
    ("deadlines", OUTPUT, ["--kinds", "nonsense"], "invalid choice: 'nonsense'"),
    ("deadlines", OUTPUT, ["--deadlines=0"], "0 is not allowed; it must be above 0 and at most 60"),
    ("deadlines", OUTPUT, ["--deadlines=nan"], "nan is not allowed"),
    ("deadlines", OUTPUT, ["--repetitions=0"], NOT_POSITIVE),
    ("overload", OUTPUT, ["--workloads", "nonsense"], "invalid choice: 'nonsense'"),
    ("overload", OUTPUT, ["--servers", "limit"], "invalid choice: 'limit'"),
    ("overload", OUTPUT, ["--loads", "0"], "0 is not allowed; it must be above 0 and at most 20"),
    ("overload", OUTPUT, ["--loads", "nan"], "nan is not allowed"),
    ("overload", OUTPUT, ["--seconds", "0"], NOT_POSITIVE),
    ("overload", OUTPUT, ["--seconds", "60"], "must not exceed 60 together"),
    ("overload", OUTPUT, ["everything"], "invalid choice: 'everything'"),
    ("overload", OUTPUT, ["--scenarios", "nonsense"], "invalid choice: 'nonsense'"),
    ("overload", OUTPUT, ["--shorten", "0"], "0 is not allowed; it must be from 1 to 20"),
    ("overload", OUTPUT, ["--from", "/nowhere/overload.json"], "cannot read '/nowhere/overload.json'"),
    ("overload", OUTPUT, ["--from", "pyproject.toml"], "'pyproject.toml' is not a file of results"),
    ("overload_locust", REPORT, ["--seconds=4"], "a spike with a before and an after needs 5 or more"),
    ("overload_locust", REPORT, ["--capacity=501"], "it must be at most 500"),
    ("overload_locust", REPORT, ["--capacity=0"], NOT_POSITIVE),
    ("overload_locust", REPORT, ["--", "--no-such-flag"], "'--no-such-flag' is not understood"),
    ("peers", OUTPUT, ["--cases", "nonsense"], "invalid choice: 'nonsense'"),
    ("peers", OUTPUT, ["--servers", "apache"], "invalid choice: 'apache'"),
    ("peers", OUTPUT, ["--rounds=0"], NOT_POSITIVE),
    ("peers", OUTPUT, ["--from", "/nowhere/peers.json"], "cannot read '/nowhere/peers.json'"),
    ("peers", OUTPUT, ["--from", "pyproject.toml"], "'pyproject.toml' is not a file of results"),
    ("run", REPORT, ["--host=http://example.org", "--admin=http://127.0.0.1:1"], "it must be http:// at 127.0.0.1, lo"),
    ("run", REPORT, ["--host=http://127.0.0.1:1", "--admin=http://127.0.0.1.example.org"], "'http://127.0.0.1.exam"),
    ("run", REPORT, ["--host=http://127.0.0.1:1"], "--host and --admin go together"),
    ("run", REPORT, ["--users=0"], NOT_POSITIVE),
    ("run", REPORT, ["--", "--no-such-flag"], "'--no-such-flag' is not understood"),
    ("smuggling", "--seed=1", ["--clients=501"], "501 is not allowed; it must be from 1 to 500"),
    ("soak", "--seed=1", ["--clients=501"], "501 is not allowed; it must be from 1 to 500"),
    ("storm", "--seed=1", ["--clients=501"], "501 is not allowed; it must be from 1 to 500"),
]


@pytest.mark.parametrize(("name", "file", "arguments", "message"), REFUSED)
def test_what_cannot_be_run_is_refused(name, file, arguments, message, tmp_path):
    code, output, errors = run(name, file.format(tmp_path), *arguments)
    assert (code, output) == (2, "")
    assert message in errors
    assert not (tmp_path / "reports").exists()


@linux
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "hello"], "wrk is not installed"),
        (["--cases", "idle", "--servers", "uwsgi"], "there is nothing to measure"),
        (["--cases", "idle", "--idle-connections", 2_000_000_000], "raise the limit (ulimit -Hn) or ask for fewer"),
    ],
)
def test_without_what_they_need_the_peers_are_not_measured(arguments, message, tmp_path):
    code, _, errors = run("peers", "--output", tmp_path, *arguments, env={**os.environ, "PATH": str(tmp_path)})
    assert (code, message in errors) == (2, True), errors


def test_the_help_says_how_long_it_takes():
    code, output, _ = run("overload", "--help")
    assert (code, "minutes" in output) == (0, True)


@linux
@pytest.mark.parametrize(
    ("name", "file", "arguments", "number"),
    [
        ("peers", OUTPUT, ["--cases", "idle", "--servers", "intralb", "--idle-connections", 10], 1),
        ("overload", OUTPUT, ["points", "--servers", "intralb", "--workloads", "cpu", "--seconds", 30], 2),
        ("overload_locust", REPORT, ["--seconds=60", "--capacity=2"], 2),
        *[("run", REPORT, ["--seconds=60"], 2)] * 3,
    ],
)
def test_a_run_that_is_ended_while_it_starts_processes_leaves_none_behind(name, file, arguments, number, tmp_path):
    if file == REPORT:
        pytest.importorskip("psutil", reason="locust is not installed")
    process = start(name, file.format(tmp_path), *arguments)
    listing = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    give_up = time.monotonic() + 20
    # Poll without a pause, because a pause would last longer than the start of a process.
    while len(children := listing.read_text().split()) < number:
        assert time.monotonic() < give_up, "it has not started its processes"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert not [child for child in children if pathlib.Path(f"/proc/{child}").exists()]
