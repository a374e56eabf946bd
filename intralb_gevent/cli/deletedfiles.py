"""On SIGHUP, create deleted files of a running server again: the sockets of unix addresses, and the pid file.

Programs that clean directories for temporary files, and deployments, sometimes delete these files. Clients then cannot
connect, although the server still listens.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from .binding import UnixAddress
from .identity import Identity, pid_file
from .readyfile import explained

__all__ = ["restored_pid_file", "restored_socket"]


def restored_socket(address: UnixAddress, descriptor: int, stack: ExitStack, say: Callable[[str, str], object]) -> bool:
    """If the socket's file is missing, bind a new listener, which replaces the listener `descriptor`.

    Return whether the listener was replaced. `say` logs a text with a level. The end of `stack` removes the new file.
    """
    if os.path.lexists(address.path):
        return False
    try:
        with explained(f"cannot listen on {address} again", "restart the server"):
            listener = stack.enter_context(address.listener())
            listener.setblocking(False)
            # Clients could connect to the earlier listener only by its file, so its backlog gets no more connections.
            os.dup2(listener.fileno(), descriptor, inheritable=False)
            listener.close()
    except SystemExit as error:
        say(_cause(error), "ERROR")
        return False
    say(f"listens on {address} again, because the file was deleted", "WARNING")
    return True


def restored_pid_file(
    path: str | None, identity: Identity, stack: ExitStack, say: Callable[[str, str], object]
) -> bool:
    """If the pid file is missing, write it again; return whether it was written. `say` logs a text with a level."""
    if path is None or os.path.lexists(path):
        return False
    try:
        stack.enter_context(pid_file(path, identity))
    except SystemExit as error:
        say(_cause(error), "ERROR")
        return False
    say(f"wrote the pid file {path!r} again, because it was deleted", "WARNING")
    return True


def _cause(error: SystemExit) -> str:
    return str(error).removeprefix("intralb-gevent: error: ")
