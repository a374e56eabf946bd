"""The command `top`, in a pipe and in a terminal."""

import contextlib
import http.client
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from intralb_gevent.cli.topscreen import Screen

PATIENCE = 20.0

HELLO = {"pid": 7, "series": ["completed", "overloaded"], "reasons": ["overloaded"]}
LANE = {
    "name": "/reports/*",
    "workers": 1,
    "workers_max": 2,
    "limit": 10,
    "running": 10,
    "queued": 3,
    "overloaded": "critical",
    "oldest": 0.25,
}
REQUEST = {
    "method": "GET",
    "path": "/reports/\x1b[2J1",
    "age": 3.0,
    "left": 27.0,
    "state": "waits",
    "place": "x at y:1",
}
FRAME = {
    "pid": 7,
    "time": 1795984677.2,
    "condition": "serving",
    "verdict": {
        "level": "alarm",
        "kind": "overloaded",
        "seconds": 14.0,
        "text": "Overloaded: all 10 slots are busy.",
        "place": "",
        "unaffected": "",
        "advice": "",
        "further": [],
    },
    "row": [33, 31],
    "lanes": [LANE],
    "running": [REQUEST] * 50,
    "loop": {"busy": 0.25},
}


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (200, 60)])
def test_a_screen_fits_the_terminal_and_contains_no_command_of_a_client(size: tuple[int, int]) -> None:
    width, height = size
    lines = Screen(HELLO, colours=False).lines(FRAME, width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert "\x1b" not in "".join(lines)
    assert lines[1] == "ALARM for 14 s"
    assert lines[2].startswith("Overloaded:")


def test_in_a_pipe_one_screen_is_printed(serve_app, run_python) -> None:
    server = serve_app(flags=("--admin-bind", "127.0.0.1:0"))
    admin = json.loads(server.ready_file.read_text())["admin"]["port"]
    server.asked("/wait/20")
    shown = run_python("-m", "intralb_gevent", "top", f"127.0.0.1:{admin}")
    assert shown.process.wait(PATIENCE) == 0
    assert re.search(r"All is well: .* 1 of \d+ slots busy", shown.printed)
    assert re.search(r"GET /wait/20 .* waits in gevent.sleep at served.py:\d+", shown.printed)


def test_with_several_processes_the_screen_shows_all_of_them(begin_serving, run_python) -> None:
    flags = ("--admin-bind", "127.0.0.1:0", "--processes=2", "--max-workers=1", "--worker-group-size=1")
    server = begin_serving(flags=(*flags, "--max-concurrent-per-router=1", "--queue-size=0"))
    server.is_ready()
    admin = json.loads(server.ready_file.read_text())["admin"]["port"]
    server.asked("/wait/25")
    threading.Thread(target=ask_until_served, args=(server, "/wait/26"), daemon=True).start()
    server.until((server.directory / "begun-wait-26").exists)
    shown = run_python("-m", "intralb_gevent", "top", f"127.0.0.1:{admin}")
    assert shown.process.wait(PATIENCE) == 0
    assert "intralb_gevent  2 processes  serving" in shown.printed
    assert "slots 2 of 2  queued 0  busiest event loop" in shown.printed
    assert re.search(r"general .* 2 of 2", shown.printed)
    assert len(re.findall(r"GET /wait/2[56] .* waits in gevent.sleep at served.py:\d+", shown.printed)) == 2


def ask_until_served(server, path: str) -> None:
    """Ask again after a rejection: on a busy machine, a process may not know yet that the other one has a free slot."""
    # The server ends before it has answered.
    with contextlib.suppress(OSError, http.client.HTTPException):
        while server.get(path) != 200:
            pass


def test_in_a_terminal_the_screen_is_drawn_again_until_ctrl_c(serve_app) -> None:
    server = serve_app(flags=("--admin-bind", "127.0.0.1:0"))
    admin = json.loads(server.ready_file.read_text())["admin"]["port"]
    master, terminal = pty.openpty()
    command = [sys.executable, "-m", "intralb_gevent", "top", f"127.0.0.1:{admin}"]
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environ) as process:
        os.close(terminal)
        try:
            text = read_until(master, lambda text: text.count("All is well") >= 2)
            assert text.startswith("\x1b[?1049h")
            process.send_signal(signal.SIGINT)
            read_until(master, lambda text: "\x1b[?1049l" in text)
            assert process.wait(PATIENCE) == 0
        finally:
            # Nobody reads the terminal now, so the program might wait forever for space in the terminal's buffer.
            process.kill()
    os.close(master)


def read_until(master: int, reached) -> str:
    text, end = "", time.monotonic() + PATIENCE
    while not reached(text):
        assert time.monotonic() < end, text
        if select.select([master], [], [], 0.1)[0]:
            text += os.read(master, 65536).decode()
    return text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the address of admin_bind"),
        (("127.0.0.1:1",), "no status page at http://127.0.0.1:1"),
        (("unix:/nowhere.sock",), "no status page at unix:/nowhere.sock"),
    ],
)
def test_a_wrong_address_is_explained(run_python, arguments, message: str) -> None:
    shown = run_python("-m", "intralb_gevent", "top", *arguments)
    assert shown.process.wait(PATIENCE) == 2
    assert message in shown.said
