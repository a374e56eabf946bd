"""Ends the child processes that Python itself would have ended, where the process exits without that.

Python terminates daemonic processes of `multiprocessing`, and closes the queues of a `ProcessPoolExecutor`, whose
workers then return. Otherwise they would stay for ever, as each of them keeps the queue open that it waits for. Other
children are the application's own affair.

A native thread calls this while the main thread is stuck, so nothing here takes a lock or uses gevent.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["end_children"]


def end_children() -> None:
    """Send SIGTERM to the children that Python would end; those of a parent of this process are none of them."""
    # Modules that are half imported, or of another version of Python, have other attributes.
    with contextlib.suppress(Exception):
        for pid in {*_daemons(), *_executor_workers()}:
            if _parent(pid) in _possible_parents():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGTERM)


def _daemons() -> Iterator[int]:
    processes: Any = sys.modules.get("multiprocessing.process")
    for child in list(getattr(processes, "_children", ())):
        if child.daemon:
            yield child._popen.pid


def _executor_workers() -> Iterator[int]:
    executors: Any = sys.modules.get("concurrent.futures.process")
    for manager in list(getattr(executors, "_threads_wakeups", ())):
        yield from list(manager.processes)


def _possible_parents() -> set[int | None]:
    server: Any = sys.modules.get("multiprocessing.forkserver")
    return {os.getpid(), getattr(getattr(server, "_forkserver", None), "_forkserver_pid", None) or os.getpid()}


def _parent(pid: int) -> int:
    """Return the parent of a process; 0 if it has ended, or the system does not tell."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0
