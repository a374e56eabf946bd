"""Ends waits for multiprocessing's locks, queues and pipes, which block the process.

A signal has such a wait call the signal's handler, and go on unless that raises. But Python calls the handler as well
when the wait has just come to its end, and then the abort would leave a lock held for ever, or a message half read. So
two looks are needed: the frame has done nothing in between, and the lock or the pipe is as it was.
"""

from __future__ import annotations

import sys
from types import BuiltinMethodType, FrameType
from typing import Any, Final

from gevent.monkey import get_original

from .callsites import call_site, callee, is_a
from .landing import cancel_landing, trace
from .safepoints import lands_outside

__all__ = ["has_waited", "state_of_wait"]

_PACKAGE: Final = "multiprocessing"

_WAITED_FOR: Final = frozenset({"_semlock", "_wait_semaphore", "_rlock", "_sem"})
"""Locks that multiprocessing's own code may be ended at: not where `Condition.wait()` takes its lock back."""

_TAKES: Final = frozenset({"acquire", "__enter__"})

_poll: Any = get_original("select", "poll")


class _Look:
    """What a look has found; it is kept as the trace function of the frame, so that nothing else refers to that."""

    def __init__(self, state: tuple[int, bool]) -> None:
        self.state: tuple[int, bool] | None = state
        """None as soon as the frame has gone on."""

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        cancel_landing()
        self.state = None


def state_of_wait(frame: FrameType | None) -> tuple[int, bool] | None:
    """Return what changes as soon as the wait at the innermost frame has ended; None if that is no such wait."""
    if frame is None or _PACKAGE not in sys.modules:
        return None
    if frame.f_code.co_name == "_recv" and frame.f_globals.get("__name__") == "multiprocessing.connection":
        return (0, False) if _has_read_nothing(frame) else None
    semaphore = _semaphore(frame)
    return None if semaphore is None else (semaphore._count(), semaphore._is_mine())


def has_waited(frame: FrameType, state: tuple[int, bool], patient: bool) -> bool:
    """Say whether the wait has lasted since the last look, and an abort may be raised in it now."""
    if not lands_outside(frame, _PACKAGE, patient):
        return False
    look: Any = frame.f_trace
    if isinstance(look, _Look) and look.state == state:
        cancel_landing()
        return True
    trace(frame, _Look(state))
    return False


def _semaphore(frame: FrameType) -> Any:
    """Return the semaphore in C that a frame is taking, if it may be ended there."""
    path = call_site(frame.f_code, frame.f_lasti).path
    module: str = frame.f_globals.get("__name__") or ""
    if module.startswith(_PACKAGE + ".") and _WAITED_FOR.isdisjoint(path[-2:-1]):
        return None
    called, owner = callee(frame)
    if getattr(called, "__name__", None) not in _TAKES:
        return None
    found = called.__self__ if type(called) is BuiltinMethodType else owner
    kind = getattr(sys.modules.get("_multiprocessing"), "SemLock", None)
    return found if kind is not None and is_a(found, kind) else None


def _has_read_nothing(frame: FrameType) -> bool:
    """Say whether a pipe waits for the beginning of a message."""
    caller, known = frame.f_back, frame.f_locals
    if caller is None or caller.f_code.co_name != "_recv_bytes" or "size" in caller.f_locals:
        return False
    if call_site(frame.f_code, frame.f_lasti).path != ("read",) or known["remaining"] != known["size"]:
        return False
    poll = _poll()
    poll.register(known["handle"])
    return not poll.poll(0)
