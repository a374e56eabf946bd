"""Read the whole text of a file that a user names, such as the settings file."""

from __future__ import annotations

import errno
import os
from typing import Final

__all__ = ["text_of"]

_MOST_BYTES: Final = 16 * 1024**2


def text_of(path: str) -> str:
    """Return the text of a UTF-8 file, which may be a pipe.

    Raises `UnicodeDecodeError`, or OSError if the file cannot be read or is too large, because a device such as
    /dev/zero has no end.
    """
    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data.decode()
