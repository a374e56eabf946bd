"""Isolates the child processes that a handler forks, and ends each child when the child's code has finished.

A handler forks through `os.fork`, through `multiprocessing`, or with the first job of a `ProcessPoolExecutor`. The
child process has copies of the listeners, of all connections and sessions, and of every other running request. The
child is isolated inside `os.fork()`, before any of its code can wait, so that it never becomes a second server on the
same sockets. A child that the program's main greenlet forks is not isolated, because such a child is meant to serve:
for example, a prefork master forks its workers.
"""

from __future__ import annotations

import _socket
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn, Protocol

from gevent import getcurrent
from gevent.monkey import get_original

from ..errors import ClientDisconnected
from .childhub import current_hub, end_with_callback, leave_hub, outermost

__all__ = ["FORKS", "close_copy", "detach", "end_child", "when_isolated"]

_ident: Callable[[], int] = get_original("_thread", "get_ident")


class Serving(Protocol):
    """A server or a balancer of this process."""

    def isolate(self) -> None:
        """In a child that a handler has forked, release all objects copied from the parent; must not wait."""


class _Forks:
    """The fork state of this process."""

    __slots__ = ("_functions", "_kept", "_main_thread", "_program", "count", "made", "serving")

    def __init__(self) -> None:
        self.count = 0
        """Number of times that this process and its ancestors have been isolated."""
        self.made = False
        """True once this process has forked; another process may then have copies of its sockets."""
        self.serving: set[Serving] = set()
        """Servers and balancers of this process. If there are none, only children that a slot's greenlet forks are
        isolated."""
        self._functions: list[Callable[[], object]] = []
        self._kept: list[object] = []
        """Objects copied from the parent that must not be finalized in the child."""
        self._program: Any = None
        """Greenlet whose forked children are not isolated; None means the main greenlet of the main thread."""
        self._main_thread = _ident()
        os.register_at_fork(after_in_parent=self._in_parent, after_in_child=self._in_child)

    def __repr__(self) -> str:
        return f"<_Forks isolated {self.count} times, {len(self.serving)} serving>"

    def when_isolated(self, function: Callable[[], object]) -> None:
        """Register a function that each isolated child calls before all else, in the greenlet that has forked."""
        self._functions.append(function)

    def keep(self, *objects: object) -> None:
        """Keep references to objects copied from the parent, so that they are not finalized in this child."""
        self._kept.extend(objects)

    def _in_parent(self) -> None:
        self.made = True

    def _in_child(self) -> None:
        try:
            self._isolate_if_need_be()
        except BaseException:
            # End the child, because a partly isolated child could become a second server.
            traceback.print_exc()
            os._exit(1)

    def _isolate_if_need_be(self) -> None:
        current, hub = getcurrent(), current_hub()
        top = outermost(current, hub)
        serves = self.serving or hasattr(top, "intralb_slot")
        if not serves or _is_about_to_execute() or (current is not hub and self._is_program(top)):
            return
        if current is hub:
            self._isolate_callback()
        else:
            self._isolate(hub, top)

    def _is_program(self, top: Any) -> bool:
        if self._program is not None:
            return top is self._program
        return top.parent is None and _ident() == self._main_thread

    def _isolate(self, hub: Any, top: Any) -> None:
        self.count += 1
        self._program = top
        for function in self._functions:
            _call(function)
        if hub is not None:
            self._kept += leave_hub(hub, top, end_child)
        _end_with_its_task()
        self._isolate_serving()

    def _isolate_callback(self) -> None:
        """Isolate a child that a callback of the hub has forked; the child ends when the callback returns."""
        self.count += 1
        for function in self._functions:
            _call(function)
        self._isolate_serving()
        end_with_callback(end_child)

    def _isolate_serving(self) -> None:
        serving, self.serving = self.serving, set()
        self._kept += serving
        for each in serving:
            each.isolate()


FORKS: Final = _Forks()
"""The fork state; if its `count` has grown since a handler began, the handler has forked this process."""


def when_isolated(function: Callable[[], object]) -> None:
    """Register a function that each process forked by a handler calls before all else; `function` must not wait."""
    FORKS.when_isolated(function)


def _call(function: Callable[[], object]) -> None:
    try:
        function()
    except Exception:
        traceback.print_exc()


def _is_about_to_execute() -> bool:
    """Return whether this is a child of gevent's `subprocess` that will execute a program without waiting first.

    A child that executes a program is not isolated: isolation would take some milliseconds, and executing a program
    closes the child's copies of the sockets anyway.
    """
    # Declare the type as `Any`: in the type stubs of frames, `f_locals` is a dictionary, which is wrong from Python
    # 3.13 on.
    frame: Any = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "gevent.os"):
        frame = frame.f_back
    if frame is None or frame.f_globals.get("__name__") != "gevent.subprocess":
        return False
    # Isolate the child if there is a `preexec_fn`: the application's function might wait.
    return frame.f_locals.get("preexec_fn", frame) is None


def _end_with_its_task() -> None:
    """If this native thread belongs to gevent's pool, end the process after its current task, before the next one."""
    current: Any = getcurrent()
    while current is not None:
        queue = getattr(current, "_task_queue", None)
        if queue is not None:
            FORKS.keep(*queue._queue)
            queue._queue.clear()
            queue._queue.append((int, (), {}, _EndOfTasks()))
        current = current.parent


class _EndOfTasks:
    """The result object of the last task of a thread; setting the result ends the process."""

    def set(self, result: object) -> None:
        """End the process."""
        end_child(None)


def close_copy(sock: Any) -> None:
    """Close this process's copy of a socket, without sending anything to the peer or using the event loop."""
    plain = getattr(sock, "_sock", sock)
    if isinstance(plain, _socket.socket):
        with suppress(OSError):
            _socket.socket.close(plain)


def detach(connection: Any) -> None:
    """Replace this process's copy of a database connection's socket by /dev/null.

    Without the socket, the driver can still use or finalize the connection object, and no other file gets the socket's
    descriptor number. When the parent ends, the database server notices the end of the connection, even if this process
    lives longer.
    """
    owners: tuple[Any, ...] = (connection, getattr(connection, "_sock", None))
    for owner in owners:
        with suppress(Exception):
            descriptor: int = owner.fileno()
            with open(os.devnull, "r+b") as nowhere:
                os.dup2(nowhere.fileno(), descriptor, inheritable=False)


def end_child(error: BaseException | None) -> NoReturn:
    """End this process with the code that a SystemExit contains, or with 1 and a traceback for any other exception.

    Without an exception, the exit code is 0. The exit code is also 0 for a ClientDisconnected, which `write` raises in
    a child. The process ends immediately, because Python's normal exit would also shut down the parent's server: the
    exit would remove the socket file and close the sessions.
    """
    if isinstance(error, ClientDisconnected):
        error = None
    code = error.code if isinstance(error, SystemExit) else error and 1
    with suppress(Exception):
        if error is not None and not isinstance(error, SystemExit):
            traceback.print_exception(error)
        elif not isinstance(code, (int, type(None))):
            print(code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
