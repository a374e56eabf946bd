"""Removes descriptors from the event loop's epoll set before another process continues with their open files.

libev leaves a descriptor in the set when its watchers stop, because closing the descriptor usually removes it. But
while another process has a copy of the descriptor, closing the descriptor does not remove it from the set, so data for
the other process would wake the loop.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from gevent.monkey import get_original

__all__ = ["forget"]


def forget(loop: Any, descriptor: int) -> None:
    """Remove a descriptor whose watchers were stopped; does nothing if the loop does not use epoll."""
    if loop.backend != "epoll":
        return
    with contextlib.suppress(OSError, AttributeError):
        polled = get_original("select", "epoll").fromfd(os.dup(loop.fileno()))
        with contextlib.closing(polled):
            polled.unregister(descriptor)
