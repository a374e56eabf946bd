"""Runs the commands of the load tests, and parses their output."""

import html
import os
import pathlib
import re
import subprocess
import sys
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

ROOT = pathlib.Path(__file__).parents[2]
linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are pinned on Linux only")


def start(name, *arguments, **more):
    command = [sys.executable, "-m", f"loadtests.{name}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def run(name, *arguments, **more):
    """Run a command; return its exit code, its standard output and its standard error."""
    return result_of(start(name, *arguments, **more))


def result_of(process):
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


class Runs:
    """Commands that run at the same time, because each of them mostly waits: `Runs({"name": ("storm", "--seed", 7)})`.

    If a test is repeated after a command has failed, the command runs again.
    """

    def __init__(self, commands):
        self._commands = commands
        self._started = {name: start(*arguments) for name, arguments in commands.items()}
        self._results = {}

    def __getitem__(self, name):
        """Wait for a command to end; return its exit code, its standard output and its standard error."""
        if name in self._started:
            self._results[name] = result_of(self._started.pop(name))
        elif self._results[name][0] != 0:
            self._results[name] = run(*self._commands[name])
        return self._results[name]

    def end(self):
        """End the commands whose results no test has needed."""
        for process in self._started.values():
            process.terminate()
            process.communicate()


def respond(application, environ):
    """Call an application through `wsgiref.validate`; return the status, the headers and the body."""
    complete = {"QUERY_STRING": "", **environ}
    setup_testing_defaults(complete)
    started = []
    answer = validator(application)(complete, lambda *head: started.append(head))
    body = b"".join(answer)
    answer.close()
    return *started[0][:2], body


def tables(text):
    """Return the tables by heading. A table is a list of rows, and a row maps headers to cells."""
    found = {}
    for heading, table in re.findall(r"^### (.+?)$(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        found[heading] = [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    return found


class Report:
    """The result of a run with locust: its exit code, its output, and the figures on its page."""

    def __init__(self, process, path):
        self.output, self.errors = process.communicate(timeout=120)
        self.code = process.returncode
        self.page = path.read_text(encoding="utf-8") if path.exists() else ""
        _, self.users, self.server = (
            {html.unescape(name): value for name, value in re.findall(r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd>", part)}
            for part in re.split("<h2>What the", self.page)
        )
        self.charts = re.findall(r'<svg role="img" aria-label="(.*?)"', self.page)

    def needs_others(self):
        """Return whether the page refers to other files or hosts."""
        return re.search(r'(src|href)="(?!#)|url\((?!#)|@import|<script', self.page)
