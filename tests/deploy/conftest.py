"""Fixtures: the programs that deploy/ configures. A test is skipped without its program, or fails if it is required."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PATIENCE = 60.0
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"

APP = """
import json, os, time

KEYS = ("REMOTE_ADDR", "HTTP_HOST", "wsgi.url_scheme", "SCRIPT_NAME", "intralb.priority")
FORWARDED = ("HTTP_X_FORWARDED_", "HTTP_FORWARDED", "HTTP_X_REAL_IP")

def wait():
    while not os.path.exists("go"):
        time.sleep(0.01)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/ws":
        from simple_websocket import ConnectionClosed, Server
        ws = Server(environ)
        try:
            while True:
                ws.send(ws.receive())
        except ConnectionClosed:
            return []
    if path == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no")])
        return events()
    if path == "/go":
        open("go", "w").close()
    if path == "/hold":
        wait()
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "application/json")])
    seen = {key: environ.get(key) for key in KEYS}
    seen["forwarded"] = sorted(key for key in environ if key.startswith(FORWARDED))
    return [json.dumps({**seen, "pid": os.getpid(), "size": size}).encode()]

def events():
    yield b"data: first\\n\\n"
    wait()
    yield b"data: second\\n\\n"
"""


def skip(reason: str) -> None:
    """Skip the test, or fail it if all services are required."""
    (pytest.fail if os.environ.get("INTRALB_REQUIRE_SERVICES") == "1" else pytest.skip)(reason)


@pytest.fixture
def program() -> Callable[[str], str]:
    """Return a function that returns the path of an installed program."""

    def find(name: str) -> str:
        found = shutil.which(name, path=PATH)
        if found is None:
            skip(f"{name} is not installed")
        return str(found)

    return find


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def until() -> Callable[..., Any]:
    """Return a function that waits until a condition returns a true value, and returns that value."""

    def wait(condition: Callable[[], Any], explain: Callable[[], str] = str) -> Any:
        end = time.monotonic() + PATIENCE
        while not (result := condition()):
            assert time.monotonic() < end, explain()
            time.sleep(0.02)
        return result

    return wait


@pytest.fixture
def ports() -> Callable[[], int]:
    return free_port


@pytest.fixture
def configured() -> Callable[..., str]:
    """Return a function that returns a file of deploy/ with other addresses; each of these must occur in the file."""

    def read(name: str, changes: Mapping[str, str]) -> str:
        text = (DEPLOY / name).read_text()
        for pattern, value in changes.items():
            text, count = re.subn(pattern, value.replace("\\", r"\\"), text, flags=re.MULTILINE)
            assert count, f"{name} does not contain {pattern}"
        return text

    return read


@pytest.fixture
def run(tmp_path: pathlib.Path, until: Callable[..., Any]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that runs a program until the end of the test; it waits until the program accepts at `port`."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*command: str, port: int, **more: Any) -> subprocess.Popen[bytes]:
        log = tmp_path / f"log-{len(running)}"
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path, **more)
        running.append(process)
        until(lambda: accepts(port) or process.poll() is not None, log.read_text)
        assert process.poll() is None, log.read_text()
        return process

    yield start
    for process in running:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture
def server(run_python: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that serves APP by the command line, with the given flags."""

    def start(*flags: str) -> Any:
        command = ("-m", "intralb_gevent", "serve", "served:app", "--ready-file", "ready.json")
        process = run_python(*command, *flags, files={"served.py": APP})
        process.until(lambda: process.ready_file.exists() or process.process.poll() is not None)
        assert process.process.poll() is None, process.said
        return process

    return start
