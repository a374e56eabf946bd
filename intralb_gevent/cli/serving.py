"""Run one balancer on several addresses, from binding the sockets to the end of the shutdown.

This module also writes the ready file, from which scripts read the addresses.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from ..errors import OptionError
from ..http.openfiles import OPEN_FILES
from ..http.server import WSGIServer, graceful_shutdown
from ..integrations.push import MetricsPush
from ..observe.admin import AdminServer
from ..observe.agent import AgentServer
from ..pool.balancer import LoadBalancer
from ..process.freedmemory import FreedMemory
from ..process.signals import SIGNALS
from .binding import Address, OpenAddress, UnixAddress, removed_at_the_end
from .deletedfiles import restored_pid_file, restored_socket
from .membership import Membership
from .places import Places
from .readyfile import explained, forget_ready_file, write_ready_file

__all__ = ["keep_freed_memory", "serve"]

KEPT_BYTES = 64 * 1024 * 1024

HEAP_PIECE_BYTES = 4 * 1024 * 1024
"""Size in bytes above which malloc maps a block separately; malloc allocates smaller blocks from its heap."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of mallopt()'s parameters, from glibc's malloc.h."""

_Server = TypeVar("_Server", bound=WSGIServer)


def serve(
    balancer: LoadBalancer, places: Places, membership: Membership, announce: Callable[[Sequence[Address], str], None]
) -> None:
    """Listen on every address, announce the bound addresses and the admin address, and return after the shutdown.

    Raises `SystemExit` with a message if an address cannot be used, and with code 1 if the shutdown aborted requests.
    """
    forget_ready_file(places.ready_file)
    OPEN_FILES.raise_limit(balancer.options, len(places.addresses))
    membership.wait_for_ready_path(balancer)
    with contextlib.ExitStack() as stack:
        listening = partial(_listening, balancer, membership, stack)
        tls = {} if places.tls is None else {"ssl_context": places.tls}
        servers = [listening(WSGIServer, "--bind", address, **tls) for address in places.addresses]
        shutdown = graceful_shutdown(*servers)
        shutdown.ends_process = True
        bound = [address.bound(server.server_port) for address, server in zip(places.addresses, servers, strict=True)]
        facts = {"pid": os.getpid(), "addresses": [address.facts() for address in bound]}
        probed: list[WSGIServer] = []
        for name, kind, own in (("admin", AdminServer, places.admin), ("agent", AgentServer, places.agent)):
            if own is not None:
                probed.append(listening(kind, f"--{name}-bind", own))
                stack.callback(probed[-1].close)
                facts[name] = own.bound(probed[-1].server_port).facts()
        if places.admin_token is not None and probed and isinstance(probed[0], AdminServer):
            probed[0].pages.allow_actions(places.admin_token)
        where = "" if places.admin is None else str(places.admin.bound(probed[0].server_port))
        SIGNALS.on_hangup = partial(_hang_up, places, servers, probed, stack)
        if places.ready_file is not None:
            write_ready_file(places.ready_file, facts)
            stack.enter_context(removed_at_the_end(places.ready_file))
        stack.enter_context(FreedMemory())
        announce(bound, where)
        stack.callback(membership.leave)
        membership.serving(balancer, servers, shutdown, probed)
        if places.metrics is not None:
            stack.callback(_pushing(balancer, places.metrics, membership).stop)
        servers[0].serve_forever()


def _listening(
    balancer: LoadBalancer,
    membership: Membership,
    stack: contextlib.ExitStack,
    kind: Callable[..., _Server],
    flag: str,
    address: Address,
    **more: Any,
) -> _Server:
    with explained(f"cannot listen on {address}", f"choose another {flag}"):
        server = kind(stack.enter_context(address.listener()), balancer, **more)
        membership.prepare(server, address)
        server.start()
    return server


def _pushing(balancer: LoadBalancer, target: str, membership: Membership) -> MetricsPush:
    """Start to push the metrics of this process to `target`."""
    process = None if membership.site is None else str(membership.site.number)
    push = MetricsPush(balancer, target, membership.processes if membership.supervised else None, process)
    push.start()
    return push


def _hang_up(
    places: Places, servers: Sequence[WSGIServer], probed: Sequence[WSGIServer], stack: contextlib.ExitStack
) -> None:
    """Create deleted files again, and read the certificates again; called in a greenlet after SIGHUP."""
    own = [each for each in (places.admin, places.agent) if each is not None]
    pairs = zip([*places.addresses, *own], [*servers, *probed], strict=True)
    done = [_listen_again(address, server, stack) for address, server in pairs]
    done.append(restored_pid_file(places.pid_file, places.identity, stack, _say))
    if places.tls is not None:
        _read_certificates(places, servers)
    elif not any(done):
        SIGNALS.say_ignored(signal.SIGHUP)


def _listen_again(address: Address, server: WSGIServer, stack: contextlib.ExitStack) -> bool:
    known = address.address if isinstance(address, OpenAddress) else address
    if not isinstance(known, UnixAddress) or server.closing:
        return False
    return server.replace_listener(lambda number: restored_socket(known, number, stack, _say))


def _say(text: str, level: str) -> None:
    SIGNALS.say(getattr(logging, level), f"SIGHUP: {text}")


def _read_certificates(places: Places, servers: Sequence[WSGIServer]) -> None:
    """Read the certificates again, for new connections; keep the old certificates if reading fails."""
    try:
        context = places.certificates()
    except OptionError as error:
        SIGNALS.say(logging.ERROR, f"SIGHUP: the certificates stay as they were: {error}")
        return
    for server in servers:
        server.shared.tls = context
    SIGNALS.say(logging.INFO, "SIGHUP: read the certificates again, for new connections")


def keep_freed_memory() -> None:
    """Let glibc keep up to `KEPT_BYTES` of freed memory at the end of its heap.

    By default, glibc returns freed memory above 128 KB to the kernel. The kernel would then provide the memory for the
    next large bodies page by page, which costs more than all other work on these bodies. After a peak, `FreedMemory`
    also returns free memory between used blocks to the kernel. If the C library has no mallopt(), this function does
    nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        # Also set the mmap threshold, which glibc no longer adapts once the trim threshold is set.
        mallopt(_M_MMAP_THRESHOLD, HEAP_PIECE_BYTES)
