"""Cancel coroutines of aborted requests in asgiref's `async_to_sync`, which Flask and Django use for async views.

asgiref runs a coroutine on an asyncio event loop in another thread, while the request waits. Under gevent, the other
thread is a greenlet, so aborting the request does not stop the coroutine. While the coroutine runs, no other request
can run a coroutine, because asyncio allows one running loop per native thread. This module does not import asgiref: in
an application that has not imported asgiref, there are no coroutines to cancel.

From Python 3.14 on, asyncio wakes a loop only if the loop does not appear to be running in the current thread. This
module makes asyncio treat another greenlet as another thread, so that `sync_to_async` returns to its coroutine.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from typing import Any

from ..pool.guards import Guard, register

__all__ = ["protect"]


def protect() -> None:
    """Cancel the coroutines of aborted requests, and wake their loops, from now on; a second call changes nothing."""
    register(_GUARD)
    futures: Any = asyncio.futures
    futures.events = _EVENTS


class _Events:
    """The module `asyncio.events`, in which a loop that another greenlet runs is not the running loop."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio.events, name)

    def _get_running_loop(self) -> asyncio.AbstractEventLoop | None:
        loop = asyncio._get_running_loop()
        # Loops that are not derived from asyncio's do not reveal their greenlet, so they count everywhere.
        runner = getattr(loop, "_thread_id", None)
        return loop if runner is None or runner == threading.get_ident() else None


_EVENTS = _Events()


class _AsyncToSyncGuard(Guard):
    """Cancels the coroutines for which an aborted request waits in `async_to_sync`."""

    def __repr__(self) -> str:
        return "asgiref's guard"

    def abandon(self) -> None:
        """Cancel the tasks of the asyncio loop that runs for this greenlet; asyncio then closes the loop."""
        module: Any = sys.modules.get("asgiref.sync")
        loops = {} if module is None else module.AsyncToSync.loop_thread_executors
        for loop, executor in list(loops.items()):
            # Suppress the RuntimeError that a loop raises if it has just been closed.
            if getattr(executor, "_work_thread", None) is threading.current_thread():
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_cancel_tasks, loop)


_GUARD = _AsyncToSyncGuard()


def _cancel_tasks(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
