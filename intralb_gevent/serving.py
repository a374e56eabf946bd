"""Runs one balancer on several addresses, from binding to the end of the shutdown.

Decides the order of these steps, and what scripts and logs are told of them. It must not know where the
settings came from.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence

from .binding import Address, removed_at_the_end
from .http.server import WSGIServer, graceful_shutdown
from .pool.balancer import LoadBalancer

__all__ = ["configure_logging", "serve"]


def serve(
    balancer: LoadBalancer,
    addresses: Sequence[Address],
    ready_file: str | None,
    announce: Callable[[Sequence[Address]], None],
) -> None:
    """Listen on every address, announce them as bound, and return when the shutdown is over.

    Raises `SystemExit` with a message when it cannot listen, and with 1 when the shutdown cut requests.
    """
    _forget(ready_file)
    with contextlib.ExitStack() as stack:
        servers = [_listening(address, balancer, stack) for address in addresses]
        graceful_shutdown(*servers)
        bound = [address.bound(server.server_port) for address, server in zip(addresses, servers, strict=True)]
        if ready_file is not None:
            _write_ready_file(ready_file, bound)
            stack.enter_context(removed_at_the_end(ready_file))
        announce(bound)
        servers[0].serve_forever()


def _listening(address: Address, balancer: LoadBalancer, stack: contextlib.ExitStack) -> WSGIServer:
    with _explained(f"cannot listen on {address}", "choose another --bind"):
        server = WSGIServer(stack.enter_context(address.listener()), balancer)
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


def _write_ready_file(ready_file: str, bound: Sequence[Address]) -> None:
    """Write it in one step, so that nobody reads half of it."""
    facts = {"pid": os.getpid(), "addresses": [address.facts() for address in bound]}
    temporary = f"{ready_file}.{os.getpid()}"
    with _explained(f"cannot write the ready file {ready_file!r}", "choose another --ready-file"):
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(facts, file)
        os.replace(temporary, ready_file)


def configure_logging() -> None:
    """Show our log on the standard error as plain lines, unless the application has configured it itself."""
    ours, jobs = logging.getLogger("intralb_gevent"), logging.getLogger("intralb_gevent.jobs")
    if ours.handlers or jobs.handlers:
        return
    # An application's dictConfig() turns off every logger that exists by then, unless told not to.
    ours.disabled = jobs.disabled = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    # The handlers of the application would show every line a second time.
    ours.propagate = False
