"""While an async view waits, let Django's ordinary code run in the other greenlets of the process.

asyncio knows one running event loop per native thread. Under gevent, the loop that waits for an async view therefore
appears to be running in the greenlet of every other request. Django then refuses to use its databases in these
requests, and asgiref, which stores Django's connections, looks for connections of a coroutine. So a transaction could
be begun on one connection and committed on another. This module makes both detect only a loop that the current
greenlet itself runs.
"""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import asgiref.local
import django.utils.asyncio

__all__ = ["protect"]


def protect() -> None:
    """From now on, Django and asgiref ignore the asyncio loops of other greenlets; a second call changes nothing."""
    django_asyncio: Any = django.utils.asyncio
    django_asyncio.get_running_loop = _running_loop_of_greenlet
    local: Any = asgiref.local
    # Versions of asgiref before 3.7 do not look for a loop in this module.
    if hasattr(local, "asyncio"):
        local.asyncio = SimpleNamespace(**{**vars(asyncio), "get_running_loop": _running_loop_of_greenlet})


def _running_loop_of_greenlet() -> asyncio.AbstractEventLoop:
    """Return the asyncio loop that the current greenlet runs; raises RuntimeError if there is none."""
    loop = asyncio.get_running_loop()
    # Loops that are not derived from asyncio's do not reveal their greenlet, so they count everywhere.
    runner = getattr(loop, "_thread_id", None)
    if runner is not None and runner != threading.get_ident():
        raise RuntimeError("no running event loop in this greenlet")
    return loop
