"""The server that is watched: ours, with the application of the open-loop benchmark or the demo.

Decides what it is asked for, and with which flags it is started. It must not know who asks.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..target import OwnServer, with_defaults
from .load import PRIORITY_HEADER

__all__ = ["WORKLOADS", "Workload", "server"]

_APPLICATION: Final = ("serve", "loadtests.open_loop.applications:application")
_TEN_SLOTS: Final = ("--max-workers=1", "--max-concurrent-per-router=10")
# The server accepts a priority only from a trusted proxy, in the field that it is started with.
_ALWAYS: Final = ("--trusted-proxies=127.0.0.1", f"--priority-header={PRIORITY_HEADER}")


@dataclass(frozen=True)
class Workload:
    """What is asked for, and the server that it is asked of."""

    title: str
    about: str
    path: str
    command: Sequence[str]
    flags: Sequence[str] = ()


WORKLOADS: Final = {
    "db": Workload(
        "ten connections of 50 ms",
        "our server with an application that waits 50 ms with one of its ten database connections",
        "/db",
        _APPLICATION,
        _TEN_SLOTS,
    ),
    "cpu": Workload("5 ms of Python", "our server with an application that computes for 5 ms", "/cpu", _APPLICATION),
    "demo": Workload("the demo's slow page", "the demo", "/slow?seconds=0.05", ("demo",), _TEN_SLOTS),
}
"""Each can be answered 200 times per second: by ten slots of 50 ms, or by a core in 5 ms."""


def server(workload: Workload, flags: Sequence[str], directory: pathlib.Path) -> OwnServer:
    """Return the server, not yet started."""
    ours = with_defaults([*workload.flags, *_ALWAYS], flags)
    return OwnServer(directory, workload.command, workload.about, ours, _environ(workload, directory))


def _environ(workload: Workload, directory: pathlib.Path) -> Mapping[str, str]:
    if workload.command != _APPLICATION:
        return {"INTRALB_DEMO_DATABASE": str(directory / "notes.sqlite3")}
    return {}
