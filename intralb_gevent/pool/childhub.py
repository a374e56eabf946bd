"""Gives a process that a greenlet has forked an event loop that runs nothing of its parent's.

A forked process has copies of the hub, of every watcher and timer in its loop, and of all greenlets that were waiting.
gevent goes on with them (`gevent.reinit`), so the first wait in the child makes it a second server. This module leaves
the hub for good instead: nothing enters its stack again, the loop is emptied for a new hub, and no greenlet of the
parent gets control. No object of the parent is finalized either, because a database connection, for instance, would
send its last message on the socket that both processes share.

Decides what is stopped in the loop, and where a switch to a greenlet of the parent leads. It must not know servers.
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
"""The plain switch: a hub's own forbids being called in another hub."""


def current_hub() -> Any:
    """Return the hub of this thread, or None if it has none yet."""
    return get_hub_if_exists()


def outermost(current: Any, hub: Any) -> Any:
    """Return the greenlet below the hub that `current` belongs to: itself, unless a library has nested greenlets."""
    while current.parent is not None and current.parent is not hub:
        current = current.parent
    return current


def end_with_callback(ended: Ended) -> None:
    """Call `ended` when the present callback of the hub returns or raises: its child must not get back to the loop.

    Nothing can wait in a callback, so until then nothing else runs. Tracing its outermost frame tells the moment.
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
    """Ignore the call of a function."""


def leave_hub(hub: Any, top: Any, ended: Ended) -> list[object]:
    """Leave the copy of the parent's hub. Called in the child, by `top` or by a greenlet nested in it.

    The next call of `get_hub()` makes a hub with an empty loop. `ended` is called when `top` has ended, with the
    exception that it has raised. Returns the objects that must stay referenced while the child lives.
    """
    loop = hub.loop
    kept = [hub, loop, *_finish_closing()]
    hub.__class__ = _left(type(hub))
    kept += _empty(loop)
    set_loop(loop)
    set_hub(None)  # type: ignore[arg-type]  # as gevent itself does in Hub.destroy()
    end = None if top.parent is None else _End.put_over(top, loop, ended)
    greenlet.settrace(_Fence(hub, top, end, greenlet.gettrace()))
    # What is garbage at the fork is left to the parent: the collector does not look at frozen objects.
    gc.freeze()
    return kept


# The loop.


def _empty(loop: Any) -> list[object]:
    """Stop all watchers and callbacks of a loop; return the objects that they referred to.

    The loop itself is kept, because only libev's default loop can watch child processes. The parent's hub is in the
    middle of running it, but libev allows a loop to be run inside of itself. Stopping a watcher changes nothing in the
    kernel's epoll set, which the parent shares: libev makes another set before the child waits.
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
    """Return all watchers of a loop: libev has no list of them, but each refers to its loop."""
    found = gc.get_referrers(loop)
    own = getattr(loop, "_threadsafe_async", None)
    if own is not None:
        # gevent's cffi loop has watchers written in Python; up to Python 3.10 their attributes are in a dictionary.
        found += gc.get_referrers(*[attributes for attributes in found if type(attributes) is dict])
    return [watcher for watcher in found if isinstance(watcher, loop.WatcherType) and watcher is not own]


def _silence(watcher: Any) -> None:
    kind = type(watcher).__name__
    if kind == "stat":
        # Stopping it would stop it in the parent, as both processes share one inotify instance.
        watcher.ref, watcher.args, watcher.callback = False, (), _nothing
    elif kind != "fork":
        # A fork watcher is meant for the child: thread pools use it to make new threads.
        closing = watcher.args if kind == "check" else ()
        watcher.stop()
        for argument in closing or ():
            if isinstance(argument, _socket.socket):
                # gevent closes a socket in the next iteration of the loop, by this watcher.
                argument.close()


def _nothing() -> None:
    """Do nothing, in place of a callback of the parent."""


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


# The hub.


class _LeftHub:
    """What the parent's hub becomes in the child. It passes calls on to the new hub.

    Sockets and queues that were made before the fork refer to it. Locks and events replace a dead hub by themselves.
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
        """Leave an error to the new hub."""
        get_hub().handle_error(*error)

    def destroy(self, destroy_loop: bool | None = None) -> None:
        """Destroy nothing: the loop is the new hub's."""


def _left(kind: type[Hub]) -> type[Hub]:
    return type("LeftHub", (_LeftHub, kind), {"__slots__": ()})


class _End(Hub):
    """The new parent of the greenlet that has forked, instead of the hub that was left: it runs when that has ended."""

    @classmethod
    def put_over(cls, top: Any, loop: Any, ended: Ended) -> _End:
        """Make the parent of `top`."""
        end = cls(loop=loop)
        end._top, end._ended = top, ended
        root = top.parent.parent
        # Start it: an exception thrown into a greenlet that has not started is passed on to its parent.
        _switch(end)
        end.parent = root
        top.parent = end
        return end

    _top: Any
    _ended: Ended

    def run(self) -> None:
        """Wait until the greenlet has ended, then end the process."""
        try:
            _switch(self.parent)
            while not self._top.dead:
                # Some code waits by switching to the parent of its greenlet.
                _switch(get_hub())
        except BaseException as error:
            self._ended(error)
        # gevent has printed the traceback already.
        failed = getattr(self._top, "exception", None) is not None
        self._ended(SystemExit(1) if failed else None)

    def handle_system_error(self, type: Any, value: Any, tb: Any = None) -> None:
        """End the process because the greenlet that has forked raised SystemExit or KeyboardInterrupt."""
        self._ended(value)


class _Fence:
    """A trace function of greenlet that turns a switch to one of the parent's greenlets back.

    When the child releases a lock, sets an event or kills a greenlet, gevent switches to the greenlets that waited for
    that in the parent. A slot among them would go on with its request a second time.
    """

    def __init__(self, hub: Any, top: Any, end: _End | None, earlier: Callable[..., object] | None) -> None:
        self._hub: Final = hub
        self._ours: Final = (top,) if end is None else (top, end)
        self._earlier: Final = earlier

    def __repr__(self) -> str:
        return f"<_Fence around {self._ours!r}>"

    def __call__(self, event: str, args: Any) -> None:
        """Check a switch; greenlet calls this in its target, before anything else runs there."""
        if event in ("switch", "throw") and not self._is_ours(args[1]):
            # When a greenlet of the parent ends, control passes to its parent, the hub that was left.
            _switch(get_hub() if args[0].dead else args[0])
        if self._earlier is not None:
            self._earlier(event, args)

    def _is_ours(self, target: Any) -> bool:
        while target is not None and target is not self._hub:
            if target in self._ours:
                return True
            target = target.parent
        return False
