"""Tests of a server whose working directory is removed while it serves, as a deploy may remove an old release."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

APP = """
import os, tempfile, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/remove":
        os.chdir(tempfile.mkdtemp())
        os.rmdir(os.getcwd())
    if environ["PATH_INFO"] == "/hangs":
        time.sleep(30)
    if environ["PATH_INFO"] == "/blocks":
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems keep a directory that is in use")


def test_places_in_the_log_have_their_whole_paths(serve_program: Callable[..., Any]) -> None:
    server = serve_program(APP, "--request-timeout-seconds", "2", "--routes", "/hangs request_timeout_seconds=0.2")
    assert server.get("/remove").status == 200
    assert server.get("/hangs").status == 504
    assert server.get("/blocks").status == 200
    file = Path(server.directory, "myapp.py")
    server.wait_until(lambda: f'"{file}", line 9' in server.said and "event loop from all other work" in server.said)
    # The line is that of the loop's head or body.
    assert f" at {file}:1" in server.said
    assert "FileNotFoundError" not in server.said


def test_the_status_page_shows_its_stacks(serve_program: Callable[..., Any]) -> None:
    server = serve_program(APP, "--admin-bind", "127.0.0.1:0")
    assert server.get("/remove").status == 200
    admin = json.loads(Path(server.directory, "ready.json").read_text())["admin"]["url"]
    with urllib.request.urlopen(f"{admin}/flames", timeout=10) as graphs:
        assert "computing" in json.load(graphs)
    assert "FileNotFoundError" not in server.said
