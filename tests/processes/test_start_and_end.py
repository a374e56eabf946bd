"""Several processes under a supervisor start and end as one server."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

PATIENCE = 25.0


def test_the_processes_serve_and_the_supervisor_imports_neither_gevent_nor_the_application(
    serve_site: Callable[..., Any],
) -> None:
    site = serve_site("--db-init-func", "builtins:len")
    assert re.search(r"supervisor \d+: 2 processes of served:app on http://127.0.0.1:\d+\n", site.said)
    assert site.said.count(" up to 2000 database sessions, as there are 2 processes x 10 workers x 100") == 1
    pids = site.ready()
    assert len(pids) == 2
    assert {int(line) for line in (site.directory / "imported").read_text().split()} == set(pids)
    assert "gevent" not in pathlib.Path(f"/proc/{site.pid}/maps").read_text()
    pid, multiprocess, version = site.get()[1].split()
    assert (int(pid) in pids, multiprocess, version) == (True, "1", "one")
    site.signal(signal.SIGTERM)
    assert site.ended() == 0
    assert all(map(site.is_over, pids))
    assert not site.process.ready_file.exists()


@pytest.mark.parametrize(
    ("flags", "variables", "said"),
    [
        (("--processes", "0"), {}, "processes: 0 is not allowed; it must be a whole number from 1 to 1024, or auto"),
        ((), {"INTRALB_PROCESSES": "many"}, "processes: 'many' is not allowed"),
        (("--process-max-rss", "1T"), {}, "process_max_rss: '1T' is not allowed; it must be a number of bytes above 0"),
        (("--processes", "2", "--ready-path", "health"), {}, "ready_path: 'health' is not allowed"),
        (("--processes", "2", "--bind", "nowhere"), {}, "bind: 'nowhere' is not allowed"),
        (("--procesess", "2"), {}, "did you mean --processes?"),
    ],
)
def test_wrong_settings_are_one_line_and_code_2(
    run_python: Callable[..., Any],
    flags: Sequence[str],
    variables: dict[str, str],
    said: str,
    app_text: str,
) -> None:
    arguments = ["-c", _WITH_VARIABLES, json.dumps(variables), "serve", "served:app", *flags]
    process = run_python(*arguments, files={"served.py": app_text})
    assert process.process.wait(PATIENCE) == 2
    assert said in process.said
    assert process.said.count("\n") == 1


_WITH_VARIABLES = """
import json, os, sys
os.environ.update(json.loads(sys.argv.pop(1)))
from intralb_gevent.__main__ import main
sys.exit(main())
"""


def test_one_process_has_no_supervisor_unless_a_setting_needs_one(
    serve_app: Callable[..., Any], serve_site: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "one.toml").write_text("processes = 1\n")
    process = serve_app(flags=("--config", str(tmp_path / "one.toml")))
    assert json.loads(process.ready_file.read_text())["pid"] == process.process.pid
    assert "supervisor" not in process.said
    (tmp_path / "limits.toml").write_text("process_max_seconds = 3600\n")
    assert serve_site("--config", str(tmp_path / "limits.toml"), processes="1").serves(1)


def test_a_start_that_never_succeeds_ends_with_the_last_traceback(begin: Callable[..., Any]) -> None:
    site = begin(app="def load():\n    raise ValueError('no database')\n\nload()\n")
    began = time.monotonic()
    assert site.ended() == 3
    assert time.monotonic() - began > 1.5
    assert "in load\n    raise ValueError('no database')\nValueError: no database\n" in site.said
    last = site.said.splitlines()[-1]
    assert re.fullmatch(
        r"\S+ CRITICAL \d+ no process could be started: process \d+ \(generation 1\) exited with code 2: "
        r"importing 'served' failed: ValueError: no database \(.*served.py:2\)",
        last,
    )
    assert site.said.count("generation 1) exited") == 3 + 1


def test_a_log_file_that_cannot_be_opened_is_reported_once(begin: Callable[..., Any]) -> None:
    site = begin("--log-file", "nowhere/log")
    assert site.ended() == 2
    (line,) = site.said.splitlines()
    assert line.startswith("intralb-gevent: error: log_file: cannot open 'nowhere/log': No such file or directory; ")


def test_the_log_may_be_a_named_pipe(begin: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        site = begin("--log-file", str(pipe))
        site.is_ready()
        site.signal(signal.SIGTERM)
        assert site.ended() == 0
        text, _ = reader.communicate(timeout=20)
    assert "supervisor" in text
    assert "stopped, exit 0" in text


def test_a_shutdown_finishes_running_requests(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    result = site.asked("/wait/1")
    site.signal(signal.SIGTERM)
    assert result() == 200
    assert site.ended() == 0


def test_a_signal_to_all_processes_at_once_counts_once(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    pids = site.ready()
    result = site.asked("/wait/1")
    for pid in (*pids, site.pid):
        site.signal(signal.SIGTERM, pid)
    assert result() == 200
    assert site.ended() == 0


def test_a_second_signal_forces_the_end(serve_site: Callable[..., Any]) -> None:
    site = serve_site("--graceful-timeout-seconds", "60")
    result = site.asked("/wait/30")
    site.signal(signal.SIGINT)
    site.until(lambda: "shutting down" in site.said)
    site.signal(signal.SIGINT)
    assert site.ended() == 1
    assert result() == 503


def test_quit_ends_at_once(serve_site: Callable[..., Any]) -> None:
    site = serve_site("--graceful-timeout-seconds", "60")
    pids = site.ready()
    result = site.asked("/wait/30")
    began = time.monotonic()
    site.signal(signal.SIGQUIT)
    assert site.ended() == 1
    assert time.monotonic() - began < 2
    assert all(map(site.is_over, pids))
    assert result() is None


def test_what_has_connected_before_the_end_is_answered(serve_site: Callable[..., Any], clients: Any) -> None:
    site = serve_site()
    with clients(site) as crowd:
        site.until(lambda: crowd.answers > 50)
        site.signal(signal.SIGTERM)
        site.until(lambda: crowd.errors)
    assert site.ended() == 0
    assert {error.partition("(")[0] for error in crowd.errors} == {"ConnectionRefusedError"}


def test_a_process_that_is_ended_by_hand_is_replaced(serve_site: Callable[..., Any], clients: Any) -> None:
    site = serve_site()
    before = site.ready()
    with clients(site, 2) as crowd:
        site.signal(signal.SIGTERM, before[0])
        site.until(lambda: site.is_over(before[0]) and len(site.ready()) == 2)
    assert crowd.errors == []
    assert site.state()["failure"] == ""


LOGS = {
    "a full disk": "os.open('/dev/full', os.O_WRONLY)",
    "a pipe without a reader": "[os.close(r) or w for r, w in [os.pipe()]][0]",
}


@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
def test_a_log_that_cannot_be_written_prevents_nothing(serve_site: Callable[..., Any], log: str) -> None:
    program = f"import os, sys; os.dup2({log}, 2); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    site = serve_site(program=("-c", program, "-m", "intralb_gevent"))
    assert site.get()[0] == 200
    site.signal(signal.SIGHUP)
    site.until(lambda: site.serves(2, generation=2))
    site.signal(signal.SIGTERM)
    assert site.ended() == 0


NOHUP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "intralb_gevent", *sys.argv[1:]])
"""


def test_a_supervisor_under_nohup_reloads(serve_site: Callable[..., Any]) -> None:
    site = serve_site(program=("-c", NOHUP))
    site.signal(signal.SIGHUP)
    site.until(lambda: site.serves(2, 2))
