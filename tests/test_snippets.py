"""The Python programs, settings files and commands that the pages show work as they stand."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from .transcript import Block, blocks, free_port

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
AUTHORITY = trustme.CA()
PATIENCE = 30.0


def shown(language: str) -> Iterator[pytest.ParameterSet]:
    """Yield every block of a language, except files, which a reader saves (newcomers.py does it)."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == language and not block.file:
                yield pytest.param(block, id=f"{page.stem}-{block.line}")


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INTRALB_")}
    return {**clean, "PYTHONPATH": str(ROOT)}


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=directory, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )


def answers(port: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=PATIENCE)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    return False


def serves(directory: Path, port: str) -> None:
    """Run a program until it answers a request, and stop it."""
    server = subprocess.Popen(
        [sys.executable, "program.py"], cwd=directory, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + PATIENCE
        while not answers(port):
            assert server.poll() is None, server.communicate()[1]
            assert time.monotonic() < end, "the program answers no request"
            time.sleep(0.02)
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) in (0, -signal.SIGTERM)
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("block", [*shown("python")])
def test_programs_run(block: Block, tmp_path: Path) -> None:
    port = free_port()
    certificate = AUTHORITY.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for part in certificate.cert_chain_pems:
        part.write_to_path(tmp_path / "chain.pem", append=True)
    program = tmp_path / "program.py"
    program.write_text(block.text.replace("8000", port))
    if "serve_forever()" in block.text:
        serves(tmp_path, port)
    else:
        done = run(tmp_path, program.name)
        assert not done.returncode, done.stderr


@pytest.mark.parametrize("block", [*shown("toml")])
def test_settings_files_are_valid(block: Block, tmp_path: Path) -> None:
    (tmp_path / "intralb.toml").write_text(block.text)
    done = run(tmp_path, "-m", "intralb_gevent", "serve", "--config", "intralb.toml", "--show-config")
    assert not done.returncode, done.stderr


def served() -> Iterator[pytest.ParameterSet]:
    """Yield the arguments of each `intralb-gevent serve` on the pages, in blocks and in text."""
    commands = {}
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for found in re.finditer(r"(?m)(?:^|\$ |`)intralb-gevent serve ([^`#\n]+)", text):
            commands[found[1].strip()] = page
    for command, page in commands.items():
        yield pytest.param(command, id=f"{page.stem}: {command}")


@pytest.mark.parametrize("command", [*served()])
def test_commands_have_valid_flags(command: str, tmp_path: Path) -> None:
    (tmp_path / "intralb.toml").write_text("")
    done = run(tmp_path, "-m", "intralb_gevent", "serve", *shlex.split(command), "--show-config")
    assert not done.returncode, done.stderr
