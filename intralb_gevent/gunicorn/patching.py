"""Monkey-patches the worker process, and converts the arbiter's listeners to gevent sockets."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["is_patched", "patch"]


def is_patched() -> bool:
    """Return whether this process is monkey-patched, for example by gunicorn's configuration file."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


def patch(listeners: Iterable[Any]) -> list[Any]:
    """Monkey-patch this process, and return the listeners as gevent sockets."""
    import gevent
    from gevent.socket import socket as Socket

    from ..process.patching import patch_process

    patch_process()
    # A monkey-patched arbiter may have a hub, which this process has inherited and must reinitialize.
    gevent.reinit()
    return [Socket(each.FAMILY, socket.SOCK_STREAM, fileno=each.sock.detach()) for each in listeners]
