"""Describes in one line what prevents a process from ending: threads, child processes, and the main thread's stack.

A native thread calls this code while the main thread is blocked. Therefore, this code does not use gevent, and acquires
no lock that the main thread may hold.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from .threadframes import ThreadFrames

__all__ = ["child_processes", "describe", "place", "threads_left"]

_FRAMES = 6
_NAMES = 20
_OURS = __name__.rpartition(".")[0]


def describe(main: Any, ident: int) -> str:
    """Return the one-line description. `main` is the main greenlet, and `ident` is the id of the main thread, as
    `_thread.get_ident()` returns it."""
    parts = [
        _listed("threads", threads_left()),
        _listed("child processes", child_processes()),
        f"the main thread is at {place(main, ident)}",
    ]
    return "; ".join(filter(None, parts))


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{kind} {', '.join(names[:_NAMES])}{more}" if names else ""


def threads_left() -> list[str]:
    """Return the names of the threads for which Python waits at its exit."""
    # Do not call threading.enumerate(), because it acquires a lock.
    active: dict[int, threading.Thread] = vars(threading).get("_active", {})
    main = threading.main_thread()
    return [thread.name for thread in list(active.values()) if not thread.daemon and thread is not main]


def child_processes() -> list[str]:
    """Return the id and the name of each child process that has not ended."""
    return [f"{pid} ({name})" for pid, state, name in map(_status, _child_ids()) if state not in ("", "Z")]


def _child_ids() -> Iterator[str]:
    for task in pathlib.Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from task.read_text().split()


def _status(pid: str) -> tuple[str, str, str]:
    try:
        name, _, rest = pathlib.Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return pid, "", ""
    return pid, rest.split()[0], name


def place(main: Any, ident: int) -> str:
    """Describe the innermost frames of the main thread; if the loop is idle, describe those of the main greenlet."""
    with ThreadFrames() as threads:
        frames = list(_outwards(threads.get(ident)))
    idle = not frames or (frames[0].f_code.co_name == "run" and _module(frames[0]) == "gevent.hub")
    if idle and main is not None:
        frames = list(_outwards(main.gr_frame)) or frames
    # Show frames of gevent only if there are no other frames.
    telling = [each for each in frames if not _module(each).startswith("gevent.")] or frames
    return ", called by ".join(map(_shown, telling[:_FRAMES])) or "its end"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames from the innermost to the outermost, except frames of the modules in `process/`."""
    while frame is not None:
        if not _module(frame).startswith(_OURS):
            yield frame
        frame = frame.f_back


def _shown(frame: FrameType) -> str:
    code = frame.f_code
    file = os.path.join(*pathlib.Path(code.co_filename).parts[-2:])
    return f"{code.co_name} ({file}:{frame.f_lineno})"
