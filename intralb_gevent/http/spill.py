"""Temporary files for what is too large to be kept in memory.

Decides how they are made and written: without a buffer of Python's, so that a full disk shows at once and only once. It
must not know what is in them.
"""

from __future__ import annotations

import errno
import os
import tempfile
from io import FileIO

from .openfiles import OPEN_FILES

__all__ = ["temporary_file", "write_all"]


def temporary_file() -> FileIO:
    """Return a new file without a name, and without a buffer; whoever asked closes it.

    Raises OSError where it would take one of the open files that are kept for handlers and probes.
    """
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # it is the caller's
    if file.fileno() >= OPEN_FILES.refused_end:
        file.close()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return file


def write_all(file: FileIO, data: bytes | bytearray | memoryview) -> None:
    """Write all of it; raises OSError when there is no room, though some may have been written."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
