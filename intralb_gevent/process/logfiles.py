"""Reopens the files to which `logging` writes, so that `logging` does not continue to write to files that were
rotated."""

from __future__ import annotations

import logging

__all__ = ["reopen_log_files"]


def reopen_log_files() -> int:
    """Close the file of every `logging.FileHandler`, and return the number of closed files.

    Each handler reopens its file when it writes its next record. This function waits for the locks of the handlers, so
    it must not be called in the hub.
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
    # Reopen in append mode, so that a file that was not moved is not truncated.
    handler.mode = handler.mode.replace("w", "a").replace("x", "a")
    handler.stream = None
    stream.close()
    return True
