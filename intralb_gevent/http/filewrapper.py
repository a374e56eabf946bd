"""Implement `wsgi.file_wrapper`: the kernel sends a regular file; any other file-like object is read in blocks.

The kernel may send a file only if `read()` is certain to return the contents of the file.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from io import BufferedRandom, BufferedReader, FileIO
from typing import IO, Any, Final

from ..aborts.safepoints import calls_application

__all__ = ["FileWrapper"]

_READING: Final = frozenset({"read", "readinto", "readall"})
"""Names of the read methods that an application may have replaced on a single file object."""


class FileWrapper:
    """An iterable of the blocks of a file-like object. The server closes the object at the end of the response."""

    def __init__(self, file: IO[Any], block_size: int = 64 * 1024) -> None:
        self.file = file
        self.block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read, b"")

    @calls_application
    def _read(self) -> Any:
        # A block may be a bytearray. At the end of its data, a file-like object may return '' or None.
        return self.file.read(self.block_size) or b""

    def stretch(self) -> tuple[int, int, int] | None:
        """Return the descriptor, offset and size of the rest of a regular file, or None if `read()` must be called."""
        file = _plain_file(self.file)
        if file is None:
            return None
        try:
            file.flush()
            descriptor = file.fileno()
            offset = file.tell()
            status = os.fstat(descriptor)
        except OSError:
            # The file has no offset, for example because it is a pipe.
            return None
        count = status.st_size - offset
        return (descriptor, offset, count) if stat.S_ISREG(status.st_mode) and count > 0 else None


def _plain_file(file: Any) -> Any:
    """Return a plain file of the `io` module, also from inside a wrapper of `tempfile`; return None for anything else.

    The kernel must not send the file of any other object. A subclass may decrypt in its `read()`, and an object that
    delegates to a file may limit the bytes that are read.
    """
    file = _without_tempfile(file)
    if type(file) is FileIO:
        return file if _reads_itself(file) else None
    if type(file) is BufferedReader or type(file) is BufferedRandom:
        raw = file.raw
        return file if type(raw) is FileIO and _reads_itself(file) and _reads_itself(raw) else None
    return None


def _without_tempfile(file: Any) -> Any:
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is None:
        return file
    if type(file) is tempfile.SpooledTemporaryFile and _reads_itself(file):
        file = file._file
    if type(file) is tempfile._TemporaryFileWrapper and _reads_itself(file):
        file = file.file
    return file


def _reads_itself(file: Any) -> bool:
    return _READING.isdisjoint(vars(file))
