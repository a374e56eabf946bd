"""The command `top`: shows the most important part of the status page in a terminal.

The command reads the same feed as the page. If the output is not a terminal, the command prints one screen and exits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
from collections.abc import Collection, Iterator
from time import sleep
from typing import Any, Final

from ..errors import OptionError
from . import binding
from .announcement import colours_wanted
from .inputs import Inputs
from .topscreen import Screen
from .topsite import whole

__all__ = ["top"]

_REQUEST: Final = b"GET /events?history=0 HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
_SILENT_SECONDS: Final = 10.0
"""Seconds without data after which `top` treats the connection as lost."""

_RETRY_SECONDS: Final = 1.0
_ENTER: Final = "\033[?1049h\033[?25l"
_LEAVE: Final = "\033[?25h\033[?1049l"
_HOME: Final = "\033[H"
_CLEAR_LINE, _CLEAR_BELOW = "\033[K", "\033[J"


def top(parsed: argparse.Namespace, early: Collection[str] = ()) -> int:
    """Run the command and return its exit code; raises `OptionError` if the address has no status page."""
    address = _address(parsed)
    if not sys.stdout.isatty():
        hello, frame = _one_frame(address)
        print("\n".join(Screen(hello, colours=False).lines(frame, 160, 60)))
        return 0
    print(_ENTER, end="")
    try:
        _show(address)
    except KeyboardInterrupt:
        pass
    finally:
        print(_LEAVE, end="", flush=True)
    return 0


def _show(address: binding.Address) -> None:
    """Show each frame that arrives, until the user presses Ctrl-C."""
    colours, seen = colours_wanted(os.environ), False
    while True:
        try:
            for hello, frame in _frames(address):
                seen = True
                width, height = shutil.get_terminal_size()
                _draw(Screen(hello, colours=colours).lines(frame, width, height - 1))
        except OptionError:
            if not seen:
                raise
        _draw([f"The connection to {address} is lost; trying again. Press Ctrl-C to exit."])
        sleep(_RETRY_SECONDS)


def _draw(lines: list[str]) -> None:
    print(_HOME + "".join(f"{line}{_CLEAR_LINE}\r\n" for line in lines) + _CLEAR_BELOW, end="", flush=True)


def _address(parsed: argparse.Namespace) -> binding.Address:
    text = parsed.address or Inputs.read(parsed, os.environ).serving().admin_bind
    if text is None:
        raise OptionError("top: name the address of admin_bind, such as 127.0.0.1:9000 or unix:/run/admin.sock")
    return binding.parse(text, "top")


# Functions that read the feed.


def _one_frame(address: binding.Address) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a frame of all processes; the first frame of a site may miss processes that have not reported yet."""
    frames = _frames(address)
    hello, first = next(frames)
    return next(frames, (hello, first)) if hello.get("site") else (hello, first)


def _frames(address: binding.Address) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each frame, together with the feed's first event, until the connection is closed."""
    try:
        with _connected(address) as connection, connection.makefile("rb") as feed:
            connection.sendall(_REQUEST)
            _check(feed, address)
            yield from _events(feed)
    except OSError as error:
        raise OptionError(f"top: no status page at {address} ({error}); name the address of --admin-bind") from None


def _connected(address: binding.Address) -> socket.socket:
    if isinstance(address, binding.UnixAddress):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_SILENT_SECONDS)
        connection.connect(address.path)
        return connection
    if isinstance(address, binding.HostAddress):
        host = "127.0.0.1" if address.host in ("0.0.0.0", "") else address.host
        return socket.create_connection((host, address.port), _SILENT_SECONDS)
    raise OptionError(f"top: {address} is not allowed; name HOST:PORT or unix:PATH")


def _check(feed: Any, address: binding.Address) -> None:
    status = feed.readline().split(b" ", 2)
    while feed.readline().strip():
        pass
    if len(status) < 2 or status[1] != b"200":
        why = feed.read(1000).decode(errors="replace").strip() or "another server listens there"
        raise OptionError(f"top: no status page at {address}: {why}")


def _events(feed: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    hello: dict[str, Any] = {}
    parts: list[dict[str, Any]] = []
    for line in feed:
        if not line.startswith(b"data: "):
            continue
        value = json.loads(line[6:])
        if "verdict" in value:
            yield hello, whole(value, parts)
            parts = []
        elif "series" in value:
            hello = value
        elif "running" in value:
            parts.append(value)
