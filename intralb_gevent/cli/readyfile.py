"""Write small files, such as the ready file, from which scripts read the bound addresses.

This module also turns an OSError at the start of a server into a message of one line.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from typing import Any

__all__ = ["explained", "forget_ready_file", "require_replaceable", "write_file", "write_ready_file"]


@contextlib.contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Exit with code 1 and a one-line message if the block raises OSError."""
    try:
        yield
    except OSError as error:
        # Remove the address, which gevent appends to the kernel's message.
        reason = (error.strerror or str(error)).partition(": (")[0]
        if error.errno == errno.EADDRINUSE:
            remedy = f"stop what listens there, or {remedy}"
        raise SystemExit(f"intralb-gevent: error: {what}: {reason}; {remedy}") from None


def forget_ready_file(ready_file: str | None) -> None:
    """Remove a ready file left by a killed server, because the address in the file is no longer valid."""
    if ready_file is not None:
        refused = explained(f"cannot remove the old ready file {ready_file!r}", "choose another --ready-file")
        with refused, contextlib.suppress(FileNotFoundError):
            require_replaceable(ready_file)
            os.unlink(ready_file)


def require_replaceable(path: str) -> None:
    """Raise OSError if the path leads to a device, a pipe or a directory: root could replace even /dev/null."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "a file that is not a regular file is there")


def write_ready_file(ready_file: str, facts: dict[str, Any]) -> None:
    """Write `facts`, such as the bound addresses, to the ready file as JSON."""
    write_file(ready_file, json.dumps(facts), "ready file", "--ready-file")


def write_file(path: str, text: str, what: str, flag: str) -> None:
    """Write a file atomically, so that readers see the whole text; exit with a one-line message if writing fails.

    Other users may be able to write to the file's directory. So the temporary file has a random name, and an existing
    link is not followed. The process's umask determines which users may read the file.
    """
    temporary = f"{path}.{secrets.token_hex(8)}"
    refused = explained(f"cannot write the {what} {path!r}", f"choose another {flag}")
    with refused:
        require_replaceable(path)
        with open(temporary, "x", encoding="utf-8") as file, _removed_if_it_fails(temporary):
            file.write(text)
            file.flush()
            os.replace(temporary, path)


@contextlib.contextmanager
def _removed_if_it_fails(path: str) -> Iterator[None]:
    """Remove a file if the block raises OSError."""
    try:
        yield
    except OSError:
        os.unlink(path)
        raise
