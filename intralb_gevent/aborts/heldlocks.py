"""Finds the frames that hold a lock, from the bytecode of their functions.

While an application holds a lock, it changes data that requests share, and other requests rely on complete changes. A
frame holds a lock in the body of `with lock:`, and in a `try` block whose exception handler calls `lock.release()`.
This module calls no application code and raises no exceptions, because it runs in the watchdog's signal handler.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FrameType
from typing import Final

from gevent.lock import RLock, Semaphore
from gevent.monkey import get_original

from .blocks import block_handlers, entered_at, instructions_of, is_with_handler
from .callsites import is_a, path_before, value_at
from .safepoints import is_ours

__all__ = ["holds_lock", "lock_holder"]

_LOCKS: Final[tuple[type, ...]] = (
    type(get_original("_thread", "allocate_lock")()),
    *(get_original("_thread", "RLock"), threading._RLock, threading.Condition, threading.Semaphore),
    *(RLock, Semaphore),
)

_ENDS_HANDLER: Final = frozenset({"RERAISE", "RETURN_VALUE", "RETURN_CONST", "JUMP_BACKWARD"})


def lock_holder(frame: FrameType | None) -> FrameType | None:
    """Return the outermost frame of the application that holds a lock; None without such a frame."""
    found: FrameType | None = None
    while frame is not None and not is_ours(frame):
        if holds_lock(frame):
            found = frame
        frame = frame.f_back
    return found


def holds_lock(frame: FrameType) -> bool:
    """Return whether a frame is in a block that holds a lock."""
    return any(is_a(value_at(frame, path), _LOCKS) for path in _paths(frame.f_code, frame.f_lasti))


@lru_cache(maxsize=1024)
def _paths(code: CodeType, offset: int) -> tuple[tuple[str, ...], ...]:
    """Return the paths of all objects that a block around an instruction releases at its end.

    A path is a variable with attributes.
    """
    handlers = block_handlers(code, offset) if offset >= 0 else ()
    return tuple(path for handler in handlers for path in _released_by(code, handler) if path)


def _released_by(code: CodeType, handler: int) -> Iterator[tuple[str, ...]]:
    if is_with_handler(code, handler):
        yield path_before(code, entered_at(code, handler))
        return
    for each in instructions_of(code):
        if each.offset < handler:
            continue
        if each.opname in ("LOAD_METHOD", "LOAD_ATTR") and each.argval == "release":
            yield path_before(code, each.offset)
        if each.opname in _ENDS_HANDLER:
            return
