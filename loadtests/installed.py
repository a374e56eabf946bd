"""How our own server is started for a measurement: the one that is installed, which may be compiled.

Decides that the source beside this file is only the last place to look for it. It must not know what is measured.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Final

from .interruption import uninterrupted

__all__ = ["COMMAND", "ROOT", "is_compiled"]

ROOT: Final = pathlib.Path(__file__).resolve().parent.parent

# Isolated, as the working directory and PYTHONPATH would come first; the applications to serve are found at the end.
_START: Final = (
    f"import sys; sys.path.append({str(ROOT)!r}); from intralb_gevent.__main__ import main; sys.exit(main())"
)
COMMAND: Final = (sys.executable, "-I", "-c", _START)
"""The command line of the server, for its own arguments to follow."""


def is_compiled() -> bool:
    """Ask the server whether it is."""
    with uninterrupted():
        told = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=10)
    return "(compiled" in told.stdout
