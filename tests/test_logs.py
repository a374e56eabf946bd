"""The log of `serve`: one format for every line, files, and what is logged about requests that do not end well."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest

PATIENCE = 10.0
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
LINE = re.compile(r"(\S+) (DEBUG|INFO|WARNING|ERROR|CRITICAL) (\d+) (.*)").fullmatch

PAGES = """
import logging
logging.getLogger("shop").addHandler(logging.FileHandler("shop.log"))

@at
def fails():
    raise ValueError("caf\u00e9 \u20ac")

@at
def sleeps():
    time.sleep(30)

@at
def blocks():
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass

@at
def sells():
    logging.getLogger("shop").warning("sold")
"""

STREAM = """
plain = app

def app(environ, start_response):
    if environ["PATH_INFO"] != "/stream":
        return plain(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    def parts():
        yield b"one"
        time.sleep(30)
    return parts()
"""

LIMITS = ("--request-timeout-seconds", "0.5", "--stream-idle-timeout-seconds", "0.5")
Serve = Callable[..., Any]


def ask(server: Any, path: str, **fields: str) -> tuple[int, str]:
    """Make a request; return the status and the response's X-Request-ID ('' without one)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    with closing(connection):
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in fields.items()})
        response = connection.getresponse()
        with_id = response.headers.get("X-Request-ID", "")
        try:
            response.read()
        except http.client.IncompleteRead:
            return 0, with_id
        return response.status, with_id


def ended(server: Any) -> int:
    server.signal(signal.SIGTERM)
    return int(server.ended())


def records(text: str) -> list[dict[str, Any]]:
    """Return the objects of a JSON log, as `jq` reads them; fail if any line is something else."""
    jq = shutil.which("jq")
    if jq is not None:
        done = subprocess.run([jq, "-ceR", "fromjson"], input=text, capture_output=True, text=True, check=True)
        text = done.stdout
    return [json.loads(line) for line in text.splitlines()]


def json_flags(*more: str) -> Sequence[str]:
    return ("--enable-logging", "--log-format", "json", *more)


# One format.


def test_every_line_of_text_has_time_level_and_pid(serve_app: Serve) -> None:
    server = serve_app(PAGES, flags=("--enable-logging", "--queue-size", "7"))
    assert ask(server, "/")[0] == 200
    assert ask(server, "/fails")[0] == 500
    assert ended(server) == 0
    lines = [line for line in server.said.splitlines() if not line.startswith("  | ")]
    found = [LINE(line) for line in lines]
    assert all(found), server.said
    assert {int(each[3]) for each in found if each} == {server.process.pid}
    assert all(datetime.fromisoformat(each[1]).utcoffset() is not None for each in found if each)
    texts = [f"{each[2]} {each[4]}" for each in found if each]
    assert re.match("INFO intralb-gevent .* serving served:app on http", texts[0])
    assert texts[1].startswith("INFO GET / 200 completed worker=")
    assert texts[2].startswith("ERROR GET /fails failed: ValueError (request ")
    # The handler that has failed may still be busy with its log record.
    assert re.fullmatch("INFO SIGTERM: finishing [01] requests?, at most 5 s", texts[-2])
    assert texts[-1] == "INFO stopped, exit 0"


def test_every_record_is_one_json_object_that_jq_reads(serve_app: Serve) -> None:
    server = serve_app(PAGES, STREAM, flags=json_flags(*LIMITS))
    assert ask(server, "/caf%C3%A9?q=1", traceparent=TRACEPARENT, user_agent='a "b" \u00e9'.encode().decode("latin-1"))
    failed = ask(server, "/fails", traceparent="none")[1]
    late = ask(server, "/sleeps")[1]
    ask(server, "/stream")
    assert ended(server) == 0
    found = records(server.said)
    for each in found:
        assert datetime.fromisoformat(each["time"]).utcoffset() is not None
        assert {type(each[name]) for name in ("level", "logger", "message")} == {str}
        assert each["pid"] == server.process.pid
    requests = [each for each in found if each["logger"] == "intralb_gevent.jobs"]
    first = requests[0]
    assert (first["path"], first["query"], first["agent"]) == ("/caf\u00e9", "q=1", 'a "b" \u00e9')
    assert "caf\u00e9" in server.said
    assert first["traceparent"] == TRACEPARENT
    assert (first["status"], first["bytes"], first["protocol"], first["reason"]) == (200, 5, "HTTP/1.1", None)
    assert {type(first[name]) for name in ("queue_wait_ms", "run_time_ms", "worker")} <= {int, float}
    assert [each["outcome"] for each in requests] == ["completed", "failed", "timed_out", "timed_out"]
    assert "traceparent" not in requests[1]
    (trace,) = [each for each in found if "traceback" in each]
    assert (trace["level"], trace["request_id"]) == ("ERROR", failed)
    assert trace["traceback"].endswith("ValueError: caf\u00e9 \u20ac")
    (cut,) = [each for each in found if each["level"] == "WARNING" and each.get("request_id") == late]
    assert (cut["setting"], cut["at"][:10]) == ("request_timeout_seconds=0.5", "served.py:")
    assert cut["elapsed_seconds"] >= 0.5
    assert "in sleeps\n    time.sleep(30)" in cut["stack"]


def test_a_request_without_a_method_has_dashes_in_the_message(serve_app: Serve) -> None:
    server = serve_app(flags=json_flags())
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(b"BAD\r\n\r\n")
        assert b" 400 " in client.recv(65536)
    assert ended(server) == 0
    (line,) = [each for each in records(server.said) if each.get("outcome") == "malformed"]
    assert line["message"] == "- - 400"


def test_goaccess_reads_the_combined_format(serve_app: Serve, tmp_path: pathlib.Path) -> None:
    server = serve_app(PAGES, flags=("--enable-logging", "--log-format", "combined", "--log-file", "access.log"))
    assert ask(server, '/a?b=%22"', user_agent='agent "quoted" \\', referer="http://here/")[0] == 200
    assert ask(server, "/fails")[0] == 500
    assert ended(server) == 0
    path = server.directory / "access.log"
    first, second = path.read_text().splitlines()
    fields = r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    assert re.fullmatch(
        fields + r'"GET /a\?b=%22\\x22 HTTP/1\.1" 200 5 "http://here/" "agent \\x22quoted\\x22 \\x5c" '
        r"0\.\d{6} 0\.\d{6} \d+ completed - [0-9a-f]{20}",
        first,
    )
    assert '"GET /fails HTTP/1.1" 500 ' in second
    assert "serving served:app" in server.said
    goaccess = shutil.which("goaccess")
    if goaccess is None:
        pytest.skip("goaccess is not installed")
    report = tmp_path / "report.json"
    command = [goaccess, str(path), "--log-format=COMBINED", "--no-global-config", "-o", str(report)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    general = json.loads(report.read_text())["general"]
    assert (general["valid_requests"], general["failed_requests"]) == (2, 0)


def test_the_supervisor_writes_the_same_format(serve_app: Serve) -> None:
    server = serve_app(PAGES, flags=json_flags("--processes", "2", "--log-file", "log"))
    assert ask(server, "/")[0] == 200
    assert ended(server) == 0
    found = records((server.directory / "log").read_text())
    assert server.said == ""
    own = [each["message"] for each in found if each["pid"] == server.process.pid]
    assert re.match("intralb-gevent .* supervisor .*: 2 processes of served:app on ", own[0])
    assert own[1:] == ["SIGTERM: shutting down 2 processes", "stopped, exit 0"]
    assert len({each["pid"] for each in found}) == 3


@pytest.mark.parametrize("flags", [(), ("--processes", "2")], ids=["alone", "supervised"])
def test_an_error_at_the_start_has_the_format_too(begin_serving: Serve, flags: Sequence[str]) -> None:
    server = begin_serving("raise ValueError('no \u20ac')", flags=json_flags(*flags))
    # A supervisor tries several times.
    assert server.process.wait(4 * PATIENCE) == (3 if flags else 2)
    found = records(server.said)
    assert "importing 'served' failed: ValueError: no \u20ac" in found[0 if not flags else 1]["message"]
    if flags:
        assert "ValueError: no \u20ac" in next(each["traceback"] for each in found if "traceback" in each)


# Where the log goes.


def test_a_log_file_is_opened_again_after_it_was_rotated(serve_app: Serve) -> None:
    server = serve_app(PAGES, flags=("--enable-logging", "--log-file", "log"))
    log, rotated = server.directory / "log", server.directory / "log.1"
    assert ask(server, "/before")[0] == 200
    server.until(lambda: "GET /before 200" in log.read_text())
    log.rename(rotated)
    server.signal(signal.SIGUSR1)
    server.until(lambda: log.exists() and "SIGUSR1: reopened 2 log files" in log.read_text())
    assert ask(server, "/after")[0] == 200
    assert ended(server) == 0
    assert "GET /after 200" in log.read_text()
    assert "/after" not in rotated.read_text()
    assert server.said == ""


def test_a_log_file_whose_directory_is_removed_costs_records_and_no_request(
    serve_app: Serve, tmp_path: pathlib.Path
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    server = serve_app(PAGES, flags=("--enable-logging", "--log-file", str(logs / "log")))
    shutil.rmtree(logs)
    server.signal(signal.SIGUSR1)
    server.until(lambda: "ERROR" in server.said)
    assert [ask(server, path)[0] for path in ("/", "/fails", "/")] == [200, 500, 200]
    logs.mkdir()
    assert ask(server, "/again")[0] == 200
    server.until(lambda: (logs / "log").exists() and "GET /again 200" in (logs / "log").read_text())
    assert ended(server) == 0
    (line,) = server.said.splitlines()
    assert "ERROR" in line
    assert "a logging handler failed, so 1 log records were lost in all: FileNotFoundError" in line


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_handler_that_raises_stops_neither_the_server_nor_a_request(
    begin_serving: Serve, tmp_path: pathlib.Path, processes: str
) -> None:
    (tmp_path / "broken.py").write_text(
        "import logging\n\nclass Broken(logging.Handler):\n    def emit(self, record):\n"
        "        raise ConnectionError(f'{record.getMessage()}: no\\nsink')\n"
    )
    described = {
        "handlers": {"broken": {"class": "broken.Broken"}},
        "loggers": {"intralb_gevent": {"level": "INFO", "handlers": ["broken"]}},
    }
    config = tmp_path / "log.json"
    config.write_text(json.dumps(described))
    path = f"{pathlib.Path(__file__).parents[1]}:{tmp_path}"
    flags = ("--enable-logging", "--processes", processes, "--log-config", str(config), *LIMITS)
    server = begin_serving(PAGES, flags=flags, variables={"PYTHONPATH": path})
    server.is_ready()
    assert [ask(server, path)[0] for path in ("/", "/fails", "/sleeps", "/")] == [200, 500, 504, 200]
    assert ended(server) == 0
    assert "Traceback" not in server.said
    assert "a logging handler failed, so 1 log records were lost in all: ConnectionError: intralb-gevent" in server.said
    # The lines of the supervisor are not lost.
    assert ("SIGTERM: shutting down 2 processes" in server.said) == (processes == "2")


@pytest.mark.parametrize("error", ["gevent.Timeout(1)", "SystemExit(3)", "KeyboardInterrupt", "gevent.GreenletExit"])
def test_a_handler_that_raises_no_exception_class_but_another_one_costs_only_records(
    begin_serving: Serve, tmp_path: pathlib.Path, error: str
) -> None:
    """A handler that limits its time with `gevent.Timeout` raises a `BaseException`."""
    (tmp_path / "broken.py").write_text(
        "import logging, gevent\n\nclass Broken(logging.Handler):\n    def emit(self, record):\n"
        f"        if record.name == 'intralb_gevent': raise {error}\n"
    )
    described = {
        "handlers": {"broken": {"class": "broken.Broken"}},
        "loggers": {"intralb_gevent": {"level": "INFO", "handlers": ["broken"]}},
    }
    config = tmp_path / "log.json"
    config.write_text(json.dumps(described))
    path = f"{pathlib.Path(__file__).parents[1]}:{tmp_path}"
    server = begin_serving(PAGES, flags=("--log-config", str(config), *LIMITS), variables={"PYTHONPATH": path})
    server.is_ready()
    assert [ask(server, path)[0] for path in ("/", "/fails", "/sleeps", "/")] == [200, 500, 504, 200]
    assert ended(server) == 0
    (line,) = server.said.splitlines()
    assert "a logging handler failed, so 1 log records were lost in all: " in line
    assert error.partition("(")[0].rpartition(".")[2] in line


def test_a_full_disk_under_the_log_delays_no_request(serve_app: Serve) -> None:
    server = serve_app(PAGES, flags=(*json_flags("--log-file", "/dev/full"), *LIMITS))
    for _ in range(50):
        assert ask(server, "/")[0] == 200
    assert ask(server, "/sleeps")[0] == 504
    assert ended(server) == 0


def test_an_error_that_ends_the_start_is_shown_even_if_the_log_file_is_on_a_full_disk(begin_serving: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
        server = begin_serving(flags=("--bind", address, "--log-file", "/dev/full"))
        assert server.ended() == 1
    assert f"cannot listen on http://{address}: Address already in use" in server.said


def test_a_file_may_configure_logging(serve_app: Serve, tmp_path: pathlib.Path) -> None:
    described = {
        "formatters": {"json": {"()": "intralb_gevent.logformats.JSONFormatter"}},
        "handlers": {
            "own": {"class": "logging.FileHandler", "filename": "own.log", "formatter": "json"},
            "requests": {"class": "logging.FileHandler", "filename": "requests.log"},
        },
        "loggers": {
            "intralb_gevent": {"level": "WARNING", "handlers": ["own"]},
            "intralb_gevent.jobs": {"level": "INFO", "handlers": ["requests"], "propagate": False},
        },
    }
    config = tmp_path / "log.json"
    config.write_text(json.dumps(described))
    server = serve_app(PAGES, flags=("--enable-logging", "--log-config", str(config)))
    assert [ask(server, path)[0] for path in ("/", "/fails")] == [200, 500]
    assert ended(server) == 0
    (failure,) = records((server.directory / "own.log").read_text())
    assert failure["message"].startswith("GET /fails failed: ValueError (request ")
    lines = (server.directory / "requests.log").read_text().splitlines()
    assert [line.split(" worker=")[0] for line in lines] == ["GET / 200 completed", "GET /fails 500 failed"]


def test_the_file_configures_the_lines_of_the_supervisor_too(serve_app: Serve, tmp_path: pathlib.Path) -> None:
    handler = {"class": "logging.FileHandler", "filename": "own.log", "formatter": "json"}
    described = {
        "formatters": {"json": {"()": "intralb_gevent.logformats.JSONFormatter"}},
        "handlers": {"own": handler},
        "loggers": {"intralb_gevent": {"level": "INFO", "handlers": ["own"], "propagate": False}},
    }
    config = tmp_path / "log.json"
    config.write_text(json.dumps(described))
    server = serve_app(PAGES, flags=("--processes", "2", "--log-config", str(config)))
    log, rotated = server.directory / "own.log", server.directory / "own.log.1"
    server.until(lambda: log.exists() and "supervisor" in log.read_text())
    log.rename(rotated)
    server.signal(signal.SIGUSR1)
    server.until(lambda: log.exists() and "SIGUSR1: reopened" in log.read_text())
    server.signal(signal.SIGTTIN)
    server.until(lambda: log.exists() and "3 processes are wanted" in log.read_text())
    assert ended(server) == 0
    own = [each["message"] for each in records(rotated.read_text()) if each["pid"] == server.process.pid]
    assert [re.sub(":.*", "", text) for text in own] == [f"intralb-gevent 0.1.0 supervisor {server.process.pid}"]
    own = [each["message"] for each in records(log.read_text()) if each["pid"] == server.process.pid]
    assert own == ["3 processes are wanted", "SIGTERM: shutting down 3 processes", "stopped, exit 0"]
    assert server.said == ""


def test_a_handler_that_never_returns_delays_no_supervisor(begin_serving: Serve, tmp_path: pathlib.Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "stuck.py").write_text(
        "import logging, sys, time\n\nclass Stuck(logging.Handler):\n    def emit(self, record):\n"
        "        while 'gevent' not in sys.modules:\n            time.sleep(1)\n"
    )
    described = {
        "handlers": {"stuck": {"class": "stuck.Stuck"}},
        "loggers": {"intralb_gevent": {"level": "INFO", "handlers": ["stuck"]}},
    }
    config = tmp_path / "log.json"
    config.write_text(json.dumps(described))
    root = pathlib.Path(__file__).parents[1]
    flags = ("--processes", "2", "--log-config", str(config))
    server = begin_serving(PAGES, flags=flags, variables={"PYTHONPATH": f"{root}:{modules}"})
    server.is_ready()
    for _ in range(1000):
        server.signal(signal.SIGTTIN)
        server.signal(signal.SIGTTOU)
    assert ask(server, "/")[0] == 200
    assert ended(server) == 0
    assert server.said == ""


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_log_server_that_never_answers_delays_neither_the_start_nor_the_end(
    begin_serving: Serve, tmp_path: pathlib.Path, processes: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = "{}:{}".format(*silent.getsockname())
        handler = {"class": "logging.handlers.HTTPHandler", "host": host, "url": "/log"}
        described = {
            "handlers": {"far": handler},
            "loggers": {"intralb_gevent": {"level": "INFO", "handlers": ["far"]}},
        }
        config = tmp_path / "log.json"
        config.write_text(json.dumps(described))
        flags = ("--processes", processes, "--log-config", str(config), "--graceful-timeout-seconds", "20")
        server = begin_serving(PAGES, flags=flags)
        server.is_ready()
        assert ask(server, "/")[0] == 200
        # While handlers are stuck, the shutdown waits two seconds, and not until its own time limits.
        began = time.monotonic()
        assert ended(server) == 0
        assert time.monotonic() - began < 15
        assert "log records were lost in all: the handler has not returned within 2 s" in server.said
        assert "Traceback" not in server.said


def test_a_request_that_fails_does_not_wait_for_a_handler_that_is_stuck(
    begin_serving: Serve, tmp_path: pathlib.Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = "{}:{}".format(*silent.getsockname())
        described = {
            "handlers": {"far": {"class": "logging.handlers.HTTPHandler", "host": host, "url": "/log"}},
            "loggers": {"intralb_gevent": {"level": "INFO", "handlers": ["far"]}},
        }
        config = tmp_path / "log.json"
        config.write_text(json.dumps(described))
        server = begin_serving(PAGES, flags=("--log-config", str(config), *LIMITS))
        server.is_ready()
        # The first record has been stuck for two seconds when the fifth request is late.
        assert [ask(server, path)[0] for path in (*5 * ("/sleeps",), "/fails")] == [*5 * (504,), 500]
        assert ended(server) == 0
        assert "in all: the handler has not returned within 2 s" in server.said


def test_a_slow_handler_gets_the_time_to_write_all_records(begin_serving: Serve, tmp_path: pathlib.Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import logging, time\n\nclass Slow(logging.FileHandler):\n    def emit(self, record):\n"
        "        time.sleep(0.3)\n        super().emit(record)\n"
    )
    described = {
        "handlers": {"slow": {"class": "slow.Slow", "filename": "slow.log"}},
        "loggers": {"intralb_gevent": {"level": "INFO", "handlers": ["slow"]}},
    }
    config = tmp_path / "log.json"
    config.write_text(json.dumps(described))
    path = f"{pathlib.Path(__file__).parents[1]}:{tmp_path}"
    flags = ("--enable-logging", "--log-config", str(config))
    server = begin_serving(PAGES, flags=flags, variables={"PYTHONPATH": path})
    server.is_ready()
    for _ in range(10):
        assert ask(server, "/")[0] == 200
    assert ended(server) == 0
    text = (server.directory / "slow.log").read_text()
    assert text.count("GET / 200") == 10
    assert text.splitlines()[-1] == "stopped, exit 0"
    assert server.said == ""


def test_a_supervisor_whose_file_cannot_be_used_writes_to_the_standard_error(begin_serving: Serve) -> None:
    server = begin_serving(flags=("--processes", "2", "--log-config", "nowhere.ini"))
    assert server.process.wait(4 * PATIENCE) == 3
    assert "log_config: 'nowhere.ini' cannot configure logging: FileNotFoundError" in server.said
    assert "CRITICAL" in server.said
    assert "no process could be started" in server.said
    assert "Traceback" not in server.said


def test_a_changed_file_is_logged_in_the_format(serve_app: Serve) -> None:
    pytest.importorskip("watchfiles")
    server = serve_app(PAGES, flags=json_flags("--reload", "--log-file", "log"))
    log = server.directory / "log"

    def changed() -> bool:
        (server.directory / "served.py").touch()
        return "changed" in log.read_text()

    server.until(changed)
    assert ended(server) == 0
    assert "served.py changed" in [each["message"] for each in records(log.read_text())]
    assert server.said == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--log-config", "nowhere.ini"), "log_config: 'nowhere.ini' cannot configure logging: FileNotFoundError"),
        (("--log-config", "served.py"), "log_config: 'served.py' cannot configure logging: "),
        (("--log-file", "nowhere/log"), "log_file: cannot open 'nowhere/log': No such file or directory; name a file"),
        (("--log-config", "a.ini", "--log-file", "log"), "log_file: 'log' is not allowed beside log_config"),
        (("--log-level", "loud"), "log_level: 'loud' is not allowed; it must be one of debug, info, warning"),
    ],
)
def test_what_cannot_be_used_is_told_with_the_remedy(begin_serving: Serve, flags: Sequence[str], said: str) -> None:
    server = begin_serving(flags=flags)
    assert server.ended() == 2
    assert said in server.said
    assert "Traceback" not in server.said


def test_the_level_leaves_out_what_is_less_important_but_no_request(serve_app: Serve) -> None:
    server = serve_app(PAGES, flags=("--enable-logging", "--log-level", "error"))
    assert [ask(server, path)[0] for path in ("/", "/blocks")] == [200, 200]
    assert ended(server) == 0
    lines = server.said.splitlines()
    assert [line.split(" ", 3)[3].split(" worker=")[0] for line in lines] == [
        "GET / 200 completed",
        "GET /blocks 200 completed",
    ]


def test_the_logging_of_the_application_is_its_own(serve_app: Serve) -> None:
    server = serve_app(PAGES, flags=json_flags())
    assert ask(server, "/sells")[0] == 200
    assert ended(server) == 0
    assert (server.directory / "shop.log").read_text() == "sold\n"
    assert "sold" not in server.said


# What is logged.


@pytest.mark.parametrize("path", ["/sleeps", "/stream"])
def test_a_deadline_shows_the_setting_and_where_the_application_was(serve_app: Serve, path: str) -> None:
    server = serve_app(PAGES, STREAM, flags=(*LIMITS, "--routes", f"{path} request_timeout_seconds=0.4"))
    ask(server, path)
    assert ended(server) == 0
    (line,) = [line for line in server.said.splitlines() if f"WARNING {server.process.pid} GET {path} was " in line]
    setting = "request_timeout_seconds=0.4" if path == "/sleeps" else "stream_idle_timeout_seconds=0.5"
    assert re.search(rf"its deadline has passed \({setting}, route {path}, request [0-9a-f]+\); it was at:$", line)
    stack = server.said.partition(line)[2]
    assert re.match(r'(\n  .*)*\n  File ".*/served\.py", line \d+, in (sleeps|parts)\n    time\.sleep\(30\)\n', stack)


def test_many_of_one_place_are_limited_and_counted(serve_app: Serve) -> None:
    server = serve_app(PAGES, flags=("--request-timeout-seconds", "0.2"))
    statuses = [server.asked("/sleeps") for _ in range(15)]
    assert {status() for status in statuses} == {504}
    assert ended(server) == 0
    assert server.said.count("it was at:") == 10
    assert "5 more like this in the last 10 s: GET /sleeps was answered 504 after " in server.said


def test_a_place_that_blocks_the_loop_is_shown_once(serve_app: Serve) -> None:
    server = serve_app(PAGES)
    for _ in range(3):
        assert ask(server, "/blocks")[0] == 200
    assert ended(server) == 0
    kept = r"GET /blocks kept the event loop from all other work for \d\.\d{3} s at served\.py:\d+"
    assert len(re.findall(rf"{kept} \(request \w+\); it was at:\n", server.said)) >= 1
    shown = re.findall(r"at (served\.py:\d+) \(request", server.said)
    assert len(shown) == len(set(shown))
    assert re.search(rf"\d more like this in the last 60 s: {kept}\n", server.said)


def test_the_json_record_of_a_blocked_loop_has_its_place(serve_app: Serve) -> None:
    server = serve_app(PAGES, flags=json_flags())
    assert ask(server, "/blocks")[0] == 200
    assert ended(server) == 0
    (record,) = (each for each in records(server.said) if "kept the event loop" in each["message"])
    assert re.fullmatch(r"served\.py:\d+", record["at"])


def test_the_record_of_a_blocked_loop_says_if_the_process_had_no_processor(serve_app: Serve) -> None:
    server = serve_app(PAGES)
    (processor, *_) = os.sched_getaffinity(0)
    for thread in os.listdir(f"/proc/{server.process.pid}/task"):
        os.sched_setaffinity(int(thread), {processor})
    burn = f"import os\nos.sched_setaffinity(0, {{{processor}}})\nprint(flush=True)\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE) for _ in range(5)]
    try:
        assert [other.stdout.readline() for other in others] == [b"\n"] * 5
        assert ask(server, "/blocks")[0] == 200
    finally:
        for other in others:
            other.kill()
            other.communicate()
    assert ended(server) == 0
    kept = r"GET /blocks kept the event loop from all other work for (\d\.\d{3}) s at served\.py:\d+ \(request \w+\)"
    found = re.search(rf"{kept}, but for (\d\.\d{{3}}) s of this time it had no processor: ", server.said)
    assert found, server.said
    assert float(found[1]) / 2 <= float(found[2]) <= float(found[1])


def test_a_shutdown_tells_what_it_finishes_and_what_it_cuts(serve_app: Serve) -> None:
    server = serve_app(PAGES, flags=("--graceful-timeout-seconds", "0.3"))
    status = server.asked("/sleeps")
    assert ended(server) == 1
    assert status() == 503
    texts = [line.split(" ", 3)[3] for line in server.said.splitlines() if LINE(line)]
    assert texts[1] == "SIGTERM: finishing 1 request, at most 0.3 s"
    cut = r"cut: GET /sleeps after \d\.\d{3} s at served\.py:\d+: answered 503 "
    assert re.match(cut + r"\(graceful_timeout_seconds, request \w+\)", texts[2])
    assert texts[-1] == "stopped, exit 1: 1 request was cut"


def test_an_access_line_has_the_client_behind_a_trusted_proxy(serve_app: Serve) -> None:
    server = serve_app(PAGES, flags=json_flags("--trusted-proxies", "127.0.0.1"))
    assert ask(server, "/", x_forwarded_for="192.0.2.7", x_request_id="of-the-proxy")[0] == 200
    assert ended(server) == 0
    (line,) = [each for each in records(server.said) if each["logger"] == "intralb_gevent.jobs"]
    assert (line["client"], line["request_id"]) == ("192.0.2.7", "of-the-proxy")
