"""Gives a forked process an event loop without the parent's watchers, timers and greenlets.

If a greenlet forks, the child process has copies of the hub, of every watcher and timer in the hub's loop, and of all
waiting greenlets. With `gevent.reinit`, gevent continues to use these copies, so the child would become a second server
at its first wait. This module abandons the copied hub instead: the hub never runs again, its loop is emptied for a new
hub, and no greenlet of the parent gets control. The child also does not finalize objects that it has copied from the
parent: a copied database connection, for example, would send its last message on the socket that both processes share.
"""

from __future__ import annotations

import _socket
import gc
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final, NoReturn

import gevent.os
import greenlet
from gevent._hub_local import get_hub_if_exists, set_hub, set_loop
from gevent.hub import Hub, get_hub
from gevent.monkey import get_original

__all__ = ["current_hub", "end_with_callback", "leave_hub", "outermost"]

Ended = Callable[[BaseException | None], NoReturn]

_close: Callable[[int], None] = get_original("os", "close")
_switch: Callable[[Any], Any] = greenlet.greenlet.switch
"""The method `switch` of plain greenlets. `Hub.switch` cannot be used instead, because it must not be called in another
hub."""


def current_hub() -> Any:
    """Return the hub of this thread, or None if the thread has no hub yet."""
    return get_hub_if_exists()


def outermost(current: Any, hub: Any) -> Any:
    """Return the ancestor of `current` whose parent is the hub.

    The result is `current` itself, unless a library nests greenlets.
    """
    while current.parent is not None and current.parent is not hub:
        current = current.parent
    return current


def end_with_callback(ended: Ended) -> None:
    """Call `ended` when the hub's current callback returns or raises an exception.

    `ended` ends the process, because a forked child must not return to the loop. A callback cannot wait, so no other
    code runs until the callback ends. To detect the end of the callback, this function traces the callback's outermost
    frame.
    """
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_back.f_code is not Hub.run.__code__:
        frame = frame.f_back

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if event == "return":
            ended(None)
        return trace

    frame.f_trace = trace
    sys.settrace(_trace_no_other_frame)


def _trace_no_other_frame(frame: FrameType, event: str, argument: object) -> None:
    """Return None, so that Python traces no function that is called from now on."""


def leave_hub(hub: Any, top: Any, ended: Ended) -> list[object]:
    """Abandon the copy of the parent's hub; called in the child, in `top` or in a greenlet nested in `top`.

    The next call of `get_hub()` creates a hub with an empty loop. When `top` has ended, `ended` is called with the
    exception that `top` has raised, or with None. Returns the objects that must stay referenced while the child lives.
    """
    loop = hub.loop
    kept = [hub, loop, *_finish_closing()]
    hub.__class__ = _left(type(hub))
    kept += _empty(loop)
    set_loop(loop)
    set_hub(None)  # type: ignore[arg-type]  # as gevent itself does in Hub.destroy()
    end = None if top.parent is None else _End.put_over(top, loop, ended)
    greenlet.settrace(_Fence(hub, top, end, greenlet.gettrace()))
    # Freeze all objects, so that only the parent collects garbage that was created before the fork.
    gc.freeze()
    return kept


# The copied loop.


def _empty(loop: Any) -> list[object]:
    """Stop all watchers and callbacks of a loop; return the objects that they referred to.

    The loop is not replaced, because only libev's default loop can watch child processes. The copied hub was running
    this loop at the time of the fork, but libev allows the new hub to start a nested run of the same loop. Stopping a
    watcher does not change the kernel's epoll set, which the parent shares, because libev creates a new set before the
    child waits.
    """
    loop.reinit()
    kept: list[object] = []
    for callback in loop._callbacks:
        kept.append((callback.callback, callback.args))
        callback.stop()
    if gc.get_freeze_count():
        gc.unfreeze()
    for watcher in _watchers(loop):
        if watcher.active or watcher.pending:
            kept.append((watcher, watcher.callback, watcher.args))
            _silence(watcher)
    return kept


def _watchers(loop: Any) -> list[Any]:
    """Return all watchers of a loop, as found by `gc.get_referrers`; libev has no list of watchers."""
    found = gc.get_referrers(loop)
    own = getattr(loop, "_threadsafe_async", None)
    if own is not None:
        # The watchers of gevent's cffi loop are Python objects, so the reference to the loop may be in a watcher's
        # attribute dictionary.
        found += gc.get_referrers(*[attributes for attributes in found if type(attributes) is dict])
    return [watcher for watcher in found if isinstance(watcher, loop.WatcherType) and watcher is not own]


def _silence(watcher: Any) -> None:
    kind = type(watcher).__name__
    if kind == "stat":
        # Do not stop this watcher: both processes share one inotify instance, so the watcher would also stop in the
        # parent.
        watcher.ref, watcher.args, watcher.callback = False, (), _nothing
    elif kind != "fork":
        # Do not stop fork watchers, because they are meant for the child: thread pools use them to start new threads.
        closing = watcher.args if kind == "check" else ()
        watcher.stop()
        for argument in closing or ():
            if isinstance(argument, _socket.socket):
                # Close the socket; gevent would have closed it in the next iteration, through the watcher that is
                # stopped here.
                argument.close()


def _nothing() -> None:
    """Do nothing; this function replaces a callback of the parent."""


def _finish_closing() -> list[object]:
    """Close the descriptors that the parent's loop was about to close, and forget the parent's child processes."""
    closing: dict[int, object] = getattr(gevent.os, "_closing_fd_to_event", {})
    for descriptor in list(closing):
        del closing[descriptor]
        with suppress(OSError):
            _close(descriptor)
    children: dict[int, object] = getattr(gevent.os, "_watched_children", {})
    kept = [*children.values()]
    children.clear()
    return kept


# The copied hub.


class _LeftHub:
    """Base class with which a child's copy of the parent's hub passes calls to the child's new hub.

    Sockets and queues that were created before the fork still refer to the copied hub. Locks and events replace a dead
    hub themselves.
    """

    __slots__ = ()

    dead = True
    threadpool = property(lambda self: get_hub().threadpool)
    resolver = property(lambda self: get_hub().resolver)

    def __repr__(self) -> str:
        return f"<the hub of the process that has forked this one, {os.getppid()}>"

    def switch(self) -> Any:
        """Wait in the new hub."""
        return get_hub().switch()

    def wait(self, watcher: Any) -> None:
        """Wait for a watcher in the new hub."""
        get_hub().wait(watcher)

    def handle_error(self, *error: Any) -> None:
        """Pass an error to the new hub."""
        get_hub().handle_error(*error)

    def destroy(self, destroy_loop: bool | None = None) -> None:
        """Do nothing, because the loop now belongs to the new hub."""


def _left(kind: type[Hub]) -> type[Hub]:
    return type("LeftHub", (_LeftHub, kind), {"__slots__": ()})


class _End(Hub):
    """A greenlet that replaces the abandoned hub as the parent of the forking greenlet, and ends the child process."""

    @classmethod
    def put_over(cls, top: Any, loop: Any, ended: Ended) -> _End:
        """Create the new parent of `top`."""
        end = cls(loop=loop)
        end._top, end._ended = top, ended
        root = top.parent.parent
        # Start the new greenlet now: an exception of `top` would bypass an unstarted greenlet, and reach that
        # greenlet's parent.
        _switch(end)
        end.parent = root
        top.parent = end
        return end

    _top: Any
    _ended: Ended

    def run(self) -> None:
        """Wait for the end of the greenlet that has called `fork`, and then end the process."""
        try:
            _switch(self.parent)
            while not self._top.dead:
                # Continue in the new hub: the greenlet that has forked waits by switching to its parent, which is this
                # greenlet.
                _switch(get_hub())
        except BaseException as error:
            self._ended(error)
        # Pass SystemExit instead of the exception, because gevent has already printed the traceback.
        failed = getattr(self._top, "exception", None) is not None
        self._ended(SystemExit(1) if failed else None)

    def handle_system_error(self, type: Any, value: Any, tb: Any = None) -> None:
        """End the process because the greenlet that has forked raised SystemExit or KeyboardInterrupt."""
        self._ended(value)


class _Fence:
    """A trace function for greenlets that switches back whenever one of the parent's greenlets gets control.

    When the child releases a lock, sets an event or kills a greenlet, gevent switches to copies of the parent's
    greenlets that wait for this lock, event or greenlet. Without this function, a copied greenlet that belongs to a
    slot could run the slot's request a second time.
    """

    def __init__(self, hub: Any, top: Any, end: _End | None, earlier: Callable[..., object] | None) -> None:
        self._hub: Final = hub
        self._ours: Final = (top,) if end is None else (top, end)
        self._earlier: Final = earlier

    def __repr__(self) -> str:
        return f"<_Fence around {self._ours!r}>"

    def __call__(self, event: str, args: Any) -> None:
        """Check a switch between greenlets; the greenlet library calls this method in the target greenlet before any
        other code."""
        if event in ("switch", "throw") and not self._is_ours(args[1]):
            # When a greenlet of the parent process ends, control passes to the abandoned hub; use the new hub instead.
            _switch(get_hub() if args[0].dead else args[0])
        if self._earlier is not None:
            self._earlier(event, args)

    def _is_ours(self, target: Any) -> bool:
        while target is not None and target is not self._hub:
            if target in self._ours:
                return True
            target = target.parent
        return False
