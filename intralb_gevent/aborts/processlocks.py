"""Aborts handlers that wait for locks, queues and pipes of multiprocessing; these waits block the whole process.

When a signal interrupts the wait for a lock, Python calls the signal handler, and continues the wait unless the signal
handler raises an exception. But Python may also call the signal handler when the wait has just ended. An abort right
after a wait would leave a lock held forever, or a message half read. Therefore, an abort requires two checks between
which the frame has executed no instruction, and the state of the lock or pipe has not changed.
"""

from __future__ import annotations

import sys
from types import BuiltinMethodType, FrameType
from typing import Any, Final

from gevent.monkey import get_original

from ..framevariables import variables
from .callsites import call_site, callee, is_a
from .landing import cancel_landing, trace
from .safepoints import lands_outside

__all__ = ["has_waited", "is_waiting", "state_of_wait"]

_PACKAGE: Final = "multiprocessing"

_WAITED_FOR: Final = frozenset({"_semlock", "_wait_semaphore", "_rlock", "_sem"})
"""Names of the attributes from which multiprocessing's own code loads the locks that it acquires; the wait for such a
lock may be aborted. The lock that `Condition.wait()` reacquires is not included."""

_TAKES: Final = frozenset({"acquire", "__enter__"})

_poll: Any = get_original("select", "poll")


class _Look:
    """The result of a check of a frame; it is stored as the frame's trace function, so that no other object has to
    refer to the frame."""

    def __init__(self, state: tuple[int, bool]) -> None:
        self.state: tuple[int, bool] | None = state
        """State of the lock or pipe at the check; None as soon as the frame has executed another instruction."""

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        cancel_landing()
        self.state = None


def state_of_wait(frame: FrameType | None) -> tuple[int, bool] | None:
    """Return a value that changes when a frame's wait for a lock or pipe of multiprocessing ends; None without such a
    wait."""
    if frame is None or _PACKAGE not in sys.modules:
        return None
    if frame.f_code.co_name == "_recv" and frame.f_globals.get("__name__") == "multiprocessing.connection":
        return (0, False) if _has_read_nothing(frame) else None
    semaphore = _semaphore(frame)
    return None if semaphore is None else (semaphore._count(), semaphore._is_mine())


def has_waited(frame: FrameType, state: tuple[int, bool], patient: bool) -> bool:
    """Return whether the frame has waited without a break since the last check, so that the wait can be aborted now."""
    if not lands_outside(frame, _PACKAGE, patient):
        return False
    look: Any = frame.f_trace
    if isinstance(look, _Look) and look.state == state:
        cancel_landing()
        return True
    trace(frame, _Look(state))
    return False


def is_waiting(frame: FrameType | None) -> bool:
    """Return whether the last check of a frame has found a wait, and the frame has executed no instruction since."""
    look: Any = None if frame is None else frame.f_trace
    return isinstance(look, _Look) and look.state is not None


def _semaphore(frame: FrameType) -> Any:
    """Return the C semaphore that a frame is acquiring; None without a semaphore, or if the wait must not be
    aborted."""
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
    """Return whether a frame waits for a message on a pipe, and no part of the message has arrived."""
    caller, known = frame.f_back, variables(frame)
    if caller is None or caller.f_code.co_name != "_recv_bytes" or "size" in variables(caller):
        return False
    if call_site(frame.f_code, frame.f_lasti).path != ("read",) or known["remaining"] != known["size"]:
        return False
    poll = _poll()
    poll.register(known["handle"])
    return not poll.poll(0)
