"""Write data that is too large for memory to temporary files.

The files have no Python buffer, so that a full disk is reported immediately and only once.
"""

from __future__ import annotations

import errno
import os
import tempfile
from io import FileIO

from .openfiles import OPEN_FILES

__all__ = ["FileShorter", "temporary_file", "write_all"]


class FileShorter(OSError):
    """Raised if a file ends before all of its bytes are sent, because another process has truncated it."""


def temporary_file() -> FileIO:
    """Return a new unnamed, unbuffered file; the caller must close it.

    Raises OSError if the file would use a descriptor that is reserved for handlers and probes.
    """
    try:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # the caller closes the file
    except FileNotFoundError:
        # The first file needs a search for a directory, and the search hides why it cannot create files.
        os.close(os.open(os.devnull, os.O_RDONLY))
        raise
    if file.fileno() >= OPEN_FILES.refused_end:
        file.close()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return file


def write_all(file: FileIO, data: bytes | bytearray | memoryview) -> None:
    """Write all of the data. Raises OSError if the disk is full, possibly after writing a part of the data."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
