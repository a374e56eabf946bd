"""Runs one balancer on several addresses, from binding to the end of the shutdown.

Decides the order of these steps, and what scripts and logs are told of them. It must not know where the
settings came from.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gevent import pywsgi

from .binding import Address, removed_at_the_end
from .http.openfiles import OPEN_FILES
from .http.server import WSGIServer, graceful_shutdown
from .observe.admin import AdminServer
from .pool.balancer import LoadBalancer
from .pool.loghandlers import JOBS, LOGGER
from .process.freedmemory import FreedMemory

__all__ = ["Places", "configure_logging", "keep_freed_memory", "serve"]

KEPT_BYTES = 64 * 1024 * 1024

HEAP_PIECE_BYTES = 4 * 1024 * 1024
"""Larger pieces of memory are taken from the system, and given back, one by one."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Their numbers in glibc's malloc.h."""

_Server = TypeVar("_Server", bound=pywsgi.WSGIServer)


@dataclass(frozen=True)
class Places:
    """Where to listen for clients and for operators, and the file that tells scripts of it."""

    addresses: Sequence[Address]
    admin: Address | None = None
    ready_file: str | None = None


def serve(balancer: LoadBalancer, places: Places, announce: Callable[[Sequence[Address]], None]) -> None:
    """Listen on every address, announce them as bound, and return when the shutdown is over.

    Raises `SystemExit` with a message when it cannot listen, and with 1 when the shutdown cut requests.
    """
    _forget(places.ready_file)
    OPEN_FILES.raise_limit(balancer.options, len(places.addresses))
    with contextlib.ExitStack() as stack:
        servers = [_listening(WSGIServer, "--bind", address, balancer, stack) for address in places.addresses]
        graceful_shutdown(*servers).ends_process = True
        bound = [address.bound(server.server_port) for address, server in zip(places.addresses, servers, strict=True)]
        facts = {"pid": os.getpid(), "addresses": [address.facts() for address in bound]}
        if places.admin is not None:
            admin = _listening(AdminServer, "--admin-bind", places.admin, balancer, stack)
            stack.callback(admin.close)
            facts["admin"] = places.admin.bound(admin.server_port).facts()
        if places.ready_file is not None:
            _write_ready_file(places.ready_file, facts)
            stack.enter_context(removed_at_the_end(places.ready_file))
        stack.enter_context(FreedMemory())
        announce(bound)
        servers[0].serve_forever()


def _listening(
    kind: Callable[..., _Server], flag: str, address: Address, balancer: LoadBalancer, stack: contextlib.ExitStack
) -> _Server:
    with _explained(f"cannot listen on {address}", f"choose another {flag}"):
        server = kind(stack.enter_context(address.listener()), balancer)
        server.start()
    return server


@contextlib.contextmanager
def _explained(what: str, remedy: str) -> Iterator[None]:
    """End the program in one line, with exit code 1, when the system refuses what the block does."""
    try:
        yield
    except OSError as error:
        # gevent puts the address behind the system's words.
        reason = (error.strerror or str(error)).partition(": (")[0]
        raise SystemExit(f"intralb-gevent: error: {what}: {reason}; {remedy}") from None


def _forget(ready_file: str | None) -> None:
    """Remove the file that a killed server has left: it tells of an address that is no more."""
    if ready_file is not None:
        refused = _explained(f"cannot remove the old ready file {ready_file!r}", "choose another --ready-file")
        with refused, contextlib.suppress(FileNotFoundError):
            os.unlink(ready_file)


def _write_ready_file(ready_file: str, facts: dict[str, Any]) -> None:
    """Write it in one step, so that nobody reads half of it.

    Where others may write to its directory, they must not find out where we write: nobody can guess the temporary name,
    and a link that is there is not followed. The process's umask decides who may read it.
    """
    temporary = f"{ready_file}.{secrets.token_hex(8)}"
    refused = _explained(f"cannot write the ready file {ready_file!r}", "choose another --ready-file")
    with refused, open(temporary, "x", encoding="utf-8") as file, _removed_if_it_fails(temporary):
        json.dump(facts, file)
        file.flush()
        os.replace(temporary, ready_file)


@contextlib.contextmanager
def _removed_if_it_fails(path: str) -> Iterator[None]:
    """Remove a file if the block fails."""
    try:
        yield
    except OSError:
        os.unlink(path)
        raise


def keep_freed_memory() -> None:
    """Let glibc keep up to `KEPT_BYTES` of what is freed at the end of its heap.

    By default it gives back all above 128 KB at once and takes it again, page by page, for the next large bodies, which
    costs more than all else about them. What is more is given back after a while (`FreedMemory`). Where the C library
    has no mallopt() nothing is changed.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        # It would grow by itself with what is freed, had the other not been set.
        mallopt(_M_MMAP_THRESHOLD, HEAP_PIECE_BYTES)


def configure_logging() -> None:
    """Show our log on the standard error as plain lines, unless the application has configured it itself."""
    if LOGGER.handlers or JOBS.handlers:
        return
    # An application's dictConfig() turns off every logger that exists by then, unless told not to.
    LOGGER.disabled = JOBS.disabled = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    # The handlers of the application would show every line a second time.
    LOGGER.propagate = False
