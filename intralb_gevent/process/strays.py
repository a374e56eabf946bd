"""Handles exceptions that reach neither a request nor a caller while a server is running.

A greenlet, timer or native thread may raise SystemExit, KeyboardInterrupt or SystemError. gevent throws such an
exception into the main greenlet, where the exception would end the server and its running requests. This module logs
the exception instead, and the server continues. This module also logs an exception that a signal handler of the
application raises while the event loop waits, unless the exception requests the end of the process.
"""

from __future__ import annotations

import logging
import os
import signal
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from gevent import GreenletExit
from gevent.exceptions import HubDestroyed
from gevent.hub import Hub

from ..quoting import escaped, quoted
from .signals import SIGNALS

__all__ = ["Strays"]

_End = Callable[[BaseException], None]


class Strays:
    """A context manager that handles the errors reported to one hub.

    `end` is called with an error that requires a graceful shutdown; without `end`, gevent handles such an error. gevent
    also handles errors in other hubs and in forked processes.
    """

    def __init__(self, hub: Hub, end: _End | None = None) -> None:
        self._hub = hub
        self._end = end
        self._pid = os.getpid()
        self._log: Final = SIGNALS.log
        self._earlier: Any = hub.handle_error
        self._destroy: Any = hub.destroy

    def __repr__(self) -> str:
        return f"<Strays of {self._hub!r}>"

    def __enter__(self) -> Strays:
        setattr(self._hub, "handle_error", self._handle)  # noqa: B010
        setattr(self._hub, "destroy", self._refuse_to_destroy)  # noqa: B010
        return self

    def __exit__(self, *raised: object) -> None:
        # Restore the hub's instance attribute if the application or another server had set it; otherwise, delete the
        # attribute.
        for name, earlier in (("handle_error", self._earlier), ("destroy", self._destroy)):
            if getattr(earlier, "__func__", None) is getattr(Hub, name):
                delattr(self._hub, name)
            else:
                setattr(self._hub, name, earlier)

    def _handle(self, context: Any, kind: Any, value: Any, trace: TracebackType | None) -> None:
        """Handle an error in place of `Hub.handle_error`; logging an error must not raise another one."""
        if not self._is_stray(context, kind):
            self._earlier(context, kind, value, trace)
        elif context is None and issubclass(kind, Hub.SYSTEM_ERROR):
            # A signal handler requests the end of the process, or the event loop no longer works.
            self._end(value) if self._end is not None else self._earlier(context, kind, value, trace)
        else:
            self._log.record(logging.ERROR, lambda: _described(context, kind, value, trace))

    def _is_stray(self, context: Any, kind: Any) -> bool:
        if kind is None or issubclass(kind, (HubDestroyed, GreenletExit)) or os.getpid() != self._pid:
            return False
        if issubclass(kind, KeyboardInterrupt) and not SIGNALS.owns(signal.SIGINT):
            # Pass this KeyboardInterrupt to gevent: the operator has sent SIGINT.
            return False
        return context is None or issubclass(kind, Hub.SYSTEM_ERROR)

    def _refuse_to_destroy(self, destroy_loop: bool | None = None) -> None:
        if os.getpid() != self._pid:
            self._destroy(destroy_loop)
            return
        stack = "".join(traceback.format_stack(limit=10)[:-1])
        self._log.record(
            logging.ERROR, lambda: f"the hub is not destroyed, as a server runs on it; called at:\n{stack}"
        )


def _described(context: Any, kind: type[BaseException], value: Any, trace: TracebackType | None) -> str:
    """Return the text of a log record, without calling a `repr` of the application."""
    where = "in a signal handler" if context is None else "outside of requests"
    lines = quoted("".join(traceback.format_exception(kind, value, trace)))
    return f"{escaped(kind.__name__)} {where} does not end the server:\n{lines}"
