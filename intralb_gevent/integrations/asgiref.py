"""Coroutines that a request has handed to asgiref's `async_to_sync`, as Flask and Django do with async views.

asgiref runs a coroutine on an event loop of its own in another thread, which is a greenlet here, and the request only
waits for it. So an abort does not reach the coroutine, and as long as it runs no other request can run one: asyncio
keeps the running loop for each native thread. Decides which coroutines an aborted request has left running. Nothing is
imported: where the application has not loaded asgiref, there are none.
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
    """Cancel the coroutines of requests that are aborted; a second call changes nothing."""
    register(_GUARD)


class _AsyncToSyncGuard(Guard):
    """Cancels what an aborted request has waited for in `async_to_sync`."""

    def __repr__(self) -> str:
        return "asgiref's guard"

    def abandon(self) -> None:
        """Have the loop that runs on behalf of this greenlet cancel its tasks, upon which asyncio closes it."""
        module: Any = sys.modules.get("asgiref.sync")
        loops = {} if module is None else module.AsyncToSync.loop_thread_executors
        for loop, executor in list(loops.items()):
            # A loop that has just ended refuses it.
            if getattr(executor, "_work_thread", None) is threading.current_thread():
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_cancel_tasks, loop)


_GUARD = _AsyncToSyncGuard()


def _cancel_tasks(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
