"""Ends the child processes that Python would end at a regular exit; used if this process exits in another way.

At a regular exit, Python terminates daemonic processes of `multiprocessing`. Python also closes the queues of a
`ProcessPoolExecutor`, so that its worker processes return. If the queues stayed open, the workers would never end,
because each worker keeps open the queue that it reads. The application must end all other child processes.

A native thread calls this code while the main thread is blocked, so this code neither acquires a lock nor uses gevent.
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
    """Send SIGTERM to the child processes that Python would end at a regular exit.

    The parent's children get no signal, although a forked process may have inherited records of them.
    """
    # A partially imported module, or another version of Python, may lack the attributes that this code reads.
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
    """Return the id of a process's parent; 0 if the process has ended or if its parent is unknown."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0
