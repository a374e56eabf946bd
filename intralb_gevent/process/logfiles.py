"""Reopens the files that `logging` writes to, so that a rotated file is let go of."""

from __future__ import annotations

import logging

__all__ = ["reopen_log_files"]


def reopen_log_files() -> int:
    """Close the file of every `logging.FileHandler`, which opens it anew for its next record; return how many.

    Waits for the handlers' locks, so it must not be called in the hub.
    """
    handlers = [reference() for reference in list(vars(logging)["_handlerList"])]
    return sum(_reopen(handler) for handler in handlers if isinstance(handler, logging.FileHandler))


def _reopen(handler: logging.FileHandler) -> bool:
    with_lock = handler.lock
    if with_lock is None:
        return _close_stream(handler)
    with with_lock:
        return _close_stream(handler)


def _close_stream(handler: logging.FileHandler) -> bool:
    stream = handler.stream
    if stream is None:
        return False
    # A file that nobody has moved must not be truncated.
    handler.mode = handler.mode.replace("w", "a").replace("x", "a")
    handler.stream = None
    stream.close()
    return True
