"""Watch the files of an application, and send SIGHUP to the supervisor when a file changes: `serve --reload`.

This module runs as a separate program, because watching needs a thread, and a supervisor that forks must have none.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Final

from ..errors import OptionError
from ..process.logline import LINES
from ..supervise.log import Log

__all__ = ["start_watching"]

_EXTENSIONS: Final = (".toml", ".env", ".html", ".jinja", ".jinja2", ".j2")
"""Extensions of the files that are watched in addition to Python files."""

_CHECK_MILLISECONDS: Final = 1000
"""Interval at which this program checks whether the supervisor is still running."""


def start_watching(log: Log) -> subprocess.Popen[bytes]:
    """Start this program for the current directory; the program logs to the same destination as `log`.

    Raises `OptionError` if watchfiles is not installed.
    """
    if importlib.util.find_spec("watchfiles") is None:
        raise OptionError("reload: needs watchfiles; pip install 'intralb-gevent[reload]'")
    # Use another process group, because Ctrl-C in a terminal is meant for the supervisor.
    writer = None if log.writer is None else log.writer.fileno()
    described = json.dumps({"json": LINES.json, "path": log.path, "level": log.level, "writer": writer})
    return subprocess.Popen(
        [sys.executable, "-m", __name__, os.getcwd(), described],
        stdin=subprocess.DEVNULL,
        process_group=0,
        pass_fds=[] if writer is None else [writer],
    )


def _log_like(described: str) -> Log:
    values = json.loads(described)
    LINES.json, writer = values["json"], values["writer"]
    return Log(values["path"], values["level"], None if writer is None else socket.socket(fileno=writer))


def _forget_bytecode(paths: Iterable[str]) -> None:
    """Delete the bytecode of changed files.

    Python compares whole seconds and the size only, and would load the previous version of a file that is saved twice
    within a second.
    """
    for path in paths:
        if path.endswith(".py"):
            with contextlib.suppress(OSError):
                os.remove(importlib.util.cache_from_source(path))


def _watch(directory: str, log: Log) -> None:
    from watchfiles import PythonFilter, watch

    supervisor = os.getppid()
    changes = watch(
        directory,
        watch_filter=PythonFilter(extra_extensions=_EXTENSIONS),
        rust_timeout=_CHECK_MILLISECONDS,
        yield_on_timeout=True,
        raise_interrupt=False,
    )
    for changed in changes:
        if os.getppid() != supervisor:
            return
        if changed:
            _forget_bytecode(path for _, path in changed)
            names = sorted(os.path.relpath(path, directory) for _, path in changed)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            # Reopen the log file before each line, because no signal informs this program that the file was rotated.
            log.reopen()
            log.say(f"{names[0]}{more} changed")
            os.kill(supervisor, signal.SIGHUP)


if __name__ == "__main__":
    _watch(sys.argv[1], _log_like(sys.argv[2]))
