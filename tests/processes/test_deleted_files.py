"""SIGHUP creates the sockets and the pid file of a running server again if they were deleted."""

from __future__ import annotations

import http.client
import os
import pathlib
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

FLAGS = ("--bind", "unix:own.sock", "--pid-file", "own.pid")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: pathlib.Path) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        # A path relative to the current directory is short enough for a socket's address.
        self.sock.connect(os.path.relpath(self.path))


def ask(path: pathlib.Path) -> int:
    client = UnixConnection(path)
    try:
        client.request("GET", "/")
        return client.getresponse().status
    finally:
        client.close()


def reachable(path: pathlib.Path) -> bool:
    try:
        return ask(path) == 200
    except OSError:
        return False


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sighup_restores_a_deleted_socket_and_the_pid_file(begin: Callable[..., Any], processes: str) -> None:
    site = begin(*FLAGS, processes=processes)
    site.is_ready()
    path, pid = site.directory / "own.sock", site.directory / "own.pid"
    for _ in range(2):
        kept = UnixConnection(path)
        kept.request("GET", "/")
        kept.getresponse().read()
        path.unlink()
        pid.unlink()
        site.signal(signal.SIGHUP)
        site.until(lambda: reachable(path))
        site.until(pid.exists)
        assert int(pid.read_text()) == site.pid
        assert "listens on unix:" in site.said
        if processes == "1":
            # The connections of clients are kept.
            kept.request("GET", "/")
            assert kept.getresponse().status == 200
            assert "is ignored" not in site.said
        else:
            site.until(lambda: "reload: 2 processes" in site.said)
        kept.close()
        assert site.get()[0] == 200
        assert all(reachable(path) for _ in range(20))
    assert path.stat().st_mode & 0o777 == 0o777
    site.signal(signal.SIGTERM)
    assert site.ended() == 0
    assert not path.exists()
    assert not pid.exists()
    assert "Traceback" not in site.said


def test_after_a_failed_reload_no_client_waits_at_a_restored_socket(begin: Callable[..., Any], app_text: str) -> None:
    site = begin(*FLAGS)
    site.is_ready()
    path = site.directory / "own.sock"
    for number in (1, 2):
        path.unlink()
        site.deploy("raise ValueError('broken')")
        site.until(lambda number=number: site.said.count("only new processes could have listened") == number)
        assert not path.exists()
        assert site.get()[0] == 200
        site.deploy(app_text)
        site.until(lambda number=number: site.said.count("reload: 2 processes of generation") == number)
        assert reachable(path)
    assert "reload failed; 2 processes go on serving" in site.said
    site.signal(signal.SIGTERM)
    assert site.ended() == 0
    assert not path.exists()


def test_if_two_reloads_in_a_row_fail_no_client_waits_at_a_restored_socket(
    begin: Callable[..., Any], app_text: str
) -> None:
    site = begin(*FLAGS)
    site.is_ready()
    path, begun, goes_on = (site.directory / name for name in ("own.sock", "importing", "goes_on"))
    path.unlink()
    waits = f"import os, time\nopen({str(begun)!r}, 'w').close()\nwhile not os.path.exists({str(goes_on)!r}):"
    site.deploy(f"{waits}\n    time.sleep(0.01)\nraise ValueError('broken')")
    site.until(begun.exists)
    site.signal(signal.SIGHUP)
    site.until(lambda: "starting generation 3" in site.said)
    goes_on.touch()
    site.until(lambda: "only new processes could have listened" in site.said)
    assert not path.exists()
    site.deploy(app_text)
    site.until(lambda: "reload: 2 processes of generation" in site.said)
    assert all(reachable(path) for _ in range(20))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_files_that_cannot_be_restored_are_reported_and_the_server_continues(
    begin: Callable[..., Any], processes: str
) -> None:
    site = begin("--bind", "unix:run/own.sock", "--pid-file", "run/own.pid", processes=processes, files={"run/x": ""})
    site.is_ready()
    directory = site.directory / "run"
    directory.rename(site.directory / "moved")
    site.signal(signal.SIGHUP)
    site.until(lambda: "again: No such file or directory; restart the server" in site.said)
    site.until(lambda: "cannot write the pid file 'run/own.pid': No such file or directory" in site.said)
    assert site.get()[0] == 200
    directory.mkdir()
    site.signal(signal.SIGHUP)
    site.until(lambda: (directory / "own.sock").exists() and reachable(directory / "own.sock"))
    site.signal(signal.SIGTERM)
    assert site.ended() == 0
    assert "Traceback" not in site.said


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_directory_that_is_replaced_by_a_file_does_not_make_the_exit_fail(
    begin: Callable[..., Any], processes: str
) -> None:
    site = begin("--bind", "unix:run/own.sock", "--pid-file", "run/own.pid", processes=processes, files={"run/x": ""})
    site.is_ready()
    directory = site.directory / "run"
    directory.rename(site.directory / "moved")
    directory.touch()
    site.signal(signal.SIGTERM)
    assert site.ended() == 0
    assert "Traceback" not in site.said


def test_a_socket_of_another_server_is_left_alone(begin: Callable[..., Any]) -> None:
    site = begin(*FLAGS, processes="1")
    site.is_ready()
    path = site.directory / "own.sock"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.path.relpath(path))
        site.signal(signal.SIGHUP)
        site.until(lambda: "SIGHUP is ignored" in site.said)
        site.signal(signal.SIGTERM)
        assert site.ended() == 0
        assert path.is_socket()
