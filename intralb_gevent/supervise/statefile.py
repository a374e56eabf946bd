"""The supervisor's state in a memory file, which its processes inherit and read.

The admin pages show the state. A draining process reads from the state whether other processes still listen.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from typing import Any, Final

__all__ = ["StateFile"]

_HEADER: Final = struct.Struct("<II")
"""Format of the length and the checksum of the text; from the checksum, a reader detects a state that is still being
written."""

_TRIES: Final = 50


class StateFile:
    """A JSON object in an anonymous memory file, which one process writes and other processes read."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("intralb-state") if descriptor is None else descriptor

    def __repr__(self) -> str:
        return f"<StateFile {self.descriptor}>"

    def write(self, state: dict[str, Any]) -> None:
        """Replace the state in the file with `state`."""
        text = json.dumps(state).encode()
        os.pwrite(self.descriptor, _HEADER.pack(len(text), zlib.crc32(text)) + text, 0)

    def read(self) -> dict[str, Any]:
        """Return the state; {} if no state has been written, or if no attempt reads a complete state."""
        for _ in range(_TRIES):
            header = os.pread(self.descriptor, _HEADER.size, 0)
            if len(header) < _HEADER.size:
                break
            length, checksum = _HEADER.unpack(header)
            text = os.pread(self.descriptor, length, _HEADER.size)
            if zlib.crc32(text) == checksum:
                return dict(json.loads(text))
        return {}
