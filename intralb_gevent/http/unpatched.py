"""Warn if a server starts in a process that is not monkey-patched: a handler that waits then blocks all others."""

from __future__ import annotations

from typing import Final

from gevent.monkey import is_module_patched

from ..hub.loghandlers import LOGGER

__all__ = ["warn_if_unpatched"]

_WARNING: Final = (
    "this process is not monkey-patched: while a handler waits for a socket or in time.sleep, no other request runs. "
    "Call gevent.monkey.patch_all() in the first lines of the program, or start it with intralb-gevent serve"
)
_warned = False


def warn_if_unpatched() -> None:
    """Log a warning, once in each process, unless sockets or threads are patched."""
    global _warned
    if not _warned and not (is_module_patched("socket") or is_module_patched("threading")):
        _warned = True
        LOGGER.warning("%s", _WARNING)
