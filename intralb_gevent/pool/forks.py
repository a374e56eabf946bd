"""Isolates the processes that a handler forks, and ends them.

A handler forks with `os.fork`, `multiprocessing`, or the first job of a `ProcessPoolExecutor`. The child has copies of
the listeners, of all connections and sessions, and of every other request that was running. It is isolated inside
`os.fork()`, before anything in it can wait, so that it never goes on as a second server on the same sockets. A fork in
the program's main greenlet, such as that of a prefork master, is left as it is, because its child is meant to serve.

Decides which child is isolated, in which order, and with what code it ends. It must not know slots or jobs.
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
    """Something that serves in this process: a server, or a balancer."""

    def isolate(self) -> None:
        """Release what belongs to the parent, in a child that a handler has forked. Must not wait."""


class _Forks:
    """The state of this process with regard to forks."""

    __slots__ = ("_functions", "_kept", "_main_thread", "_program", "count", "made", "serving")

    def __init__(self) -> None:
        self.count = 0
        """How many times this process or one of its ancestors was isolated."""
        self.made = False
        """Whether this process has forked, so that another one may have copies of its sockets."""
        self.serving: set[Serving] = set()
        """The servers and balancers of this process; a child is isolated only while there are any."""
        self._functions: list[Callable[[], object]] = []
        self._kept: list[object] = []
        """Objects of the parent that must not be finalized in the child."""
        self._program: Any = None
        """The greenlet in whose forks no child is isolated; None for the main greenlet of the main thread."""
        self._main_thread = _ident()
        os.register_at_fork(after_in_parent=self._in_parent, after_in_child=self._in_child)

    def __repr__(self) -> str:
        return f"<_Forks isolated {self.count} times, {len(self.serving)} serving>"

    def when_isolated(self, function: Callable[[], object]) -> None:
        """Call `function` in each isolated child, in the greenlet that has forked, before everything else."""
        self._functions.append(function)

    def keep(self, *objects: object) -> None:
        """Keep objects of the parent from being finalized in this child."""
        self._kept.extend(objects)

    def _in_parent(self) -> None:
        self.made = True

    def _in_child(self) -> None:
        try:
            self._isolate_if_need_be()
        except BaseException:
            # A child that is half isolated could be a second server.
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
        """Isolate a child that a callback of the hub has forked, until that returns."""
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
"""If its `count` has grown since a handler began, this process is a child that the handler has forked."""


def when_isolated(function: Callable[[], object]) -> None:
    """Call `function` in each process that a handler forks, before everything else. It must not wait."""
    FORKS.when_isolated(function)


def _call(function: Callable[[], object]) -> None:
    try:
        function()
    except Exception:
        traceback.print_exc()


def _is_about_to_execute() -> bool:
    """Return whether this is a child of gevent's `subprocess` that executes a program without waiting before.

    It needs no isolation, which takes some milliseconds: its copies of the sockets are closed by the execution.
    """
    # Not typed as a frame: its `f_locals` are declared to be a dictionary, and are none from Python 3.13 on.
    frame: Any = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "gevent.os"):
        frame = frame.f_back
    if frame is None or frame.f_globals.get("__name__") != "gevent.subprocess":
        return False
    # A `preexec_fn` of the application may wait.
    return frame.f_locals.get("preexec_fn", frame) is None


def _end_with_its_task() -> None:
    """Make a native thread of gevent's pool end the process after its task, not run the next task of the parent."""
    current: Any = getcurrent()
    while current is not None:
        queue = getattr(current, "_task_queue", None)
        if queue is not None:
            FORKS.keep(*queue._queue)
            queue._queue.clear()
            queue._queue.append((int, (), {}, _EndOfTasks()))
        current = current.parent


class _EndOfTasks:
    """The result object of a task after which the process ends."""

    def set(self, result: object) -> None:
        """End the process."""
        end_child(None)


def close_copy(sock: Any) -> None:
    """Close this process's copy of a socket, sending nothing to the peer and not using the event loop."""
    plain = getattr(sock, "_sock", sock)
    if isinstance(plain, _socket.socket):
        with suppress(OSError):
            _socket.socket.close(plain)


def detach(connection: Any) -> None:
    """Replace this process's copy of the socket of a database connection by /dev/null.

    So the driver may still use or finalize the connection, and no other file gets the number of its descriptor. The
    database server sees the connection end with the parent, even if this process lives on.
    """
    owners: tuple[Any, ...] = (connection, getattr(connection, "_sock", None))
    for owner in owners:
        with suppress(Exception):
            descriptor: int = owner.fileno()
            with open(os.devnull, "r+b") as nowhere:
                os.dup2(nowhere.fileno(), descriptor, inheritable=False)


def end_child(error: BaseException | None) -> NoReturn:
    """End this process: with the code that `sys.exit` was given, or with 1 and a traceback for another exception.

    The code is 0 without an exception, and for ClientDisconnected, which `write` raises in a child. The process ends at
    once, as Python's usual shutdown would run the steps of the server: remove its socket file, close its sessions.
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
