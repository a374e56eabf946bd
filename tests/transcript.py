"""Carries out a page as a reader would: saves its files, runs its commands in a shell, and compares their output.

A page marks a file by a comment before its block, `<!-- file: shop.py -->`. In a block of the language `console`, a
line that begins with `$ ` is a command, and the lines up to the next command are its output. `...` in it stands for any
text. A command that starts a server runs in the background until another one starts, as after Ctrl-C, or until the page
ends.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

SERVERS = re.compile(
    r"(intralb-gevent (serve|demo)|gunicorn -|python manage\.py runintralb|flask intralb|python server)"
)
"""Commands that run until they are stopped."""
PORTS = ("8000", "8001")
"""Ports that the pages use; free ports replace them."""
PATIENCE = 60.0


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    file: str | None
    """Name under which the reader saves the block."""
    line: int
    """Line of the page on which the text begins."""


class Mismatch(AssertionError):
    """A command failed, or its output differs from the page."""


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    language, file, text = None, None, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if language is None and (start := re.match(r"```(\w*)", line)):
            language, text = start[1], []
        elif language is not None and line.startswith("```"):
            yield Block(language, "\n".join(text) + "\n", file, number - len(text))
            language = file = None
        elif language is not None:
            text.append(line)
        elif line:
            file = match[1] if (match := re.match(r"<!-- file: (\S+) -->", line)) else None


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Yield each command of a `console` block with its expected output."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def matches(expected: str, output: str) -> bool:
    """Return whether the output is as expected, apart from space at the ends of lines and where `...` stands."""
    lines = "\n".join(line.strip() for line in output.strip().splitlines())
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, lines, re.DOTALL) is not None


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


class Reader:
    """A shell in an empty directory, in which pages are carried out one after the other."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self._ports = {port: free_port() for port in PORTS}
        self._server: subprocess.Popen[bytes] | None = None
        # As in a terminal, where curl shows no progress.
        (directory / ".curlrc").write_text("silent\nshow-error\n")
        self._state = directory / ".shell"
        # A server that is started without --bind listens on INTRALB_BIND.
        bind = f"127.0.0.1:{self._ports[PORTS[0]]}"
        self._environment = {**environment, "HOME": str(directory), "NO_COLOR": "1", "INTRALB_BIND": bind}

    def read(self, page: Path) -> int:
        """Carry out a page; return the number of its commands. Raises Mismatch."""
        count = 0
        for block in blocks(page):
            if block.file:
                self._save(block.file, self._with_ports(block.text))
            if block.language == "console":
                for command, output in commands(block):
                    self._run(self._with_ports(command), self._with_ports(output), f"{page.name}:{block.line}")
                    count += 1
        self.stop()
        return count

    def stop(self, forget: bool = False) -> None:
        """Stop the running server as Ctrl-C does. Raises Mismatch if it does not report success, unless `forget`."""
        server, self._server = self._server, None
        if server is not None:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGINT)
            code = server.wait(PATIENCE)
            # A program without a handler for SIGINT ends by it.
            if code not in (0, -signal.SIGINT) and not forget:
                raise Mismatch(f"the server exited with {code}:\n{self._log.read_text()}")

    def _with_ports(self, text: str) -> str:
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda match: self._ports[match[1]], text)

    def _save(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _run(self, command: str, expected: str, place: str) -> None:
        if SERVERS.match(command):
            self.stop()
            self._start(command, place)
        else:
            self._finish(command, expected, place)

    def _finish(self, command: str, expected: str, place: str) -> None:
        # Each command gets the directory and variables that the previous one has left, as in one shell.
        script = f"[ -f {self._state} ] && . {self._state}\n{command}\ncode=$?\n"
        script += f'{{ export -p; echo cd $(printf %q "$PWD"); }} > {self._state}; exit $code'
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=10 * PATIENCE,
        )
        if done.returncode or (expected and not matches(expected, done.stdout)):
            raise Mismatch(f"{place}: {command}\nexited with {done.returncode}:\n{done.stdout}\nexpected:\n{expected}")

    def _start(self, command: str, place: str) -> None:
        self._log = self.directory / "server.log"
        # INTRALB_COMPILE is for pip, and the server would warn of it.
        script = f"[ -f {self._state} ] && . {self._state}\nunset INTRALB_COMPILE\nexec {command}"
        with self._log.open("w") as log:
            self._server = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + PATIENCE
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > end:
                raise Mismatch(f"{place}: {command}\ndoes not serve:\n{self._log.read_text()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        # The server listens before it has imported the application, so a connection alone proves nothing.
        probe = http.client.HTTPConnection("127.0.0.1", int(self._ports[PORTS[0]]), timeout=PATIENCE)
        with contextlib.closing(probe), contextlib.suppress(OSError, http.client.HTTPException):
            probe.request("GET", "/")
            return probe.getresponse().status > 0
        return False
