"""Reads the frames of native threads that keep running.

On Python 3.11, `frame.f_back` allocates an object, and a garbage collection may start at this allocation. If a
finalizer then releases the GIL, the other thread may leave the frame that is being read, and Python reads and writes
freed memory. So no collection may start while frames are read. Python 3.12 and later start a collection only between
two instructions, but then finalizers would still run in a native thread, in which they must not use gevent.
"""

from __future__ import annotations

import gc
import sys
from types import FrameType

__all__ = ["ThreadFrames"]


class ThreadFrames:
    """Context manager that returns the current frame of each native thread, by thread id; automatic garbage collection
    is off in its block.
    """

    def __init__(self) -> None:
        self._collects = False

    def __enter__(self) -> dict[int, FrameType]:
        self._collects = gc.isenabled()
        gc.disable()
        return sys._current_frames()

    def __exit__(self, *error: object) -> None:
        if self._collects:
            gc.enable()
