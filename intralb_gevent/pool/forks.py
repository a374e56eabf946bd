"""Whether a handler has forked the process, and how the one that it has made so ends.

Decides that such a process never goes on as a second server on the same sockets. It must not know slots or jobs.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Final, NoReturn

__all__ = ["FORKS", "end_child"]


class _Forks:
    """How often this process, or one that it comes from, has been forked since this was imported."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0
        os.register_at_fork(after_in_child=self._in_child)

    def __repr__(self) -> str:
        return f"<_Forks {self.count}>"

    def _in_child(self) -> None:
        self.count += 1


FORKS: Final = _Forks()
"""Where it counts more than when a handler began, this process is one that the handler has forked."""


def end_child(error: BaseException) -> NoReturn:
    """End this process with the code that `sys.exit` was given, or with 1 and a traceback for another exception.

    At once: the usual way down is the server's, and would remove its socket file and close its sessions.
    """
    code = error.code if isinstance(error, SystemExit) else 1
    with suppress(Exception):
        if not isinstance(error, SystemExit):
            traceback.print_exception(error)
        elif not isinstance(code, (int, type(None))):
            print(code, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
