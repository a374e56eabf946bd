"""The systemd units: systemd verifies them, and the command of the service runs with the listener of the socket."""

from __future__ import annotations

import configparser
import http.client
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
PATIENCE = 60.0


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNITS / name)
    return parser


def test_systemd_finds_no_fault(tmp_path: pathlib.Path, program: Callable[[str], str]) -> None:
    home = tmp_path / "myapp"
    command = home / "venv/bin/intralb-gevent"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for each in UNITS.iterdir():
        (tmp_path / each.name).write_text(each.read_text().replace("/srv/myapp", str(home)))
    verified = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", *map(str, tmp_path.glob("myapp.*"))],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    ours = [line for line in verified.stderr.splitlines() if "myapp" in line]
    assert (verified.returncode, ours) == (0, [])


@pytest.mark.usefixtures("bounded")
def test_the_command_runs_with_the_listener_of_the_socket_unit(
    tmp_path: pathlib.Path, program: Callable[[str], str], ports: Callable[[], int], until: Callable[..., Any]
) -> None:
    (tmp_path / "myapp.py").write_text("""
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]
""")
    service, socket_unit = unit("myapp.service")["Service"], unit("myapp.socket")["Socket"]
    port = ports()
    listen = re.sub(r"^0\.0\.0\.0:8000$", f"127.0.0.1:{port}", socket_unit["ListenStream"])
    assert listen.endswith(str(port))
    _, *arguments = shlex.split(service["ExecStart"])
    given = arguments.index("auto")
    arguments[given] = "2"
    activate = [program("systemd-socket-activate"), "-l", listen, f"--setenv=PYTHONPATH={ROOT}"]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*activate, sys.executable, "-m", "intralb_gevent", *arguments], cwd=tmp_path, stderr=output
        )
    try:

        def answered() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            try:
                connection.request("GET", "/hello")
                return connection.getresponse().read() == b"/hello"
            except OSError:
                return False
            finally:
                connection.close()

        until(answered, log.read_text)
        # The command that ExecReload= runs.
        assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
        process.send_signal(signal.SIGHUP)
        until(lambda: "processes of generation 2 serve" in log.read_text(), log.read_text)
        assert answered()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
