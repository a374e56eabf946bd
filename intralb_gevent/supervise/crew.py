"""Starts the supervisor's processes, receives their reports, and detects when a process has ended."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

from ..config.processes import ProcessOptions
from ..policy.recycling import limits_with
from .descriptors import STATE, TABLE, Descriptor
from .member import Process
from .notify import REQUESTS, Message, NotifySocket
from .site import Site, limits_of
from .statefile import StateFile
from .table import Table

__all__ = ["Crew"]


class Crew:
    """All processes that have not ended, in the order in which they were started."""

    def __init__(
        self, site: Site, notify: NotifySocket, state: StateFile, table: Table, known: Mapping[str, Any]
    ) -> None:
        self._site, self._notify, self._state, self._table = site, notify, state, table
        self.all = [Process.from_dict(each) for each in known.get("processes", ())]
        self.started = int(known.get("started", 0))
        """Number of processes started so far."""

    def __repr__(self) -> str:
        return f"<Crew {[(each.pid, each.state) for each in self.all]}>"

    def in_state(self, *states: str) -> list[Process]:
        """Return the processes that are in one of the given states."""
        return [each for each in self.all if each.state in states]

    def start(self, generation: int, options: ProcessOptions) -> Process:
        """Start a process; raises OSError if the system cannot start one."""
        microseconds = int(options.process_timeout_seconds * 1e6)
        variables = {"NOTIFY_SOCKET": self._notify.address, "WATCHDOG_USEC": str(microseconds)}
        pid = self._site.program.launch(self._descriptors, variables)
        self.started += 1
        limits = limits_with(limits_of(options), random.random())
        self.all.append(Process(pid, self.started, generation, monotonic(), limits))
        return self.all[-1]

    @property
    def _descriptors(self) -> Sequence[Descriptor]:
        own = [Descriptor(self._state.descriptor, STATE), Descriptor(self._table.descriptor, TABLE)]
        return [*self._site.listeners, *own]

    def listen(self) -> Iterator[tuple[Process, Message]]:
        """Record the reports that have arrived from processes, and yield each process with its report."""
        known = {each.pid: each for each in self.all}
        for message in self._notify.received():
            process = known.get(message.pid)
            if process is not None:
                _note(process, message, monotonic())
                yield process, message

    def reap(self) -> Iterator[tuple[Process, int]]:
        """Yield each process that has ended, and its exit code (or minus the number of the signal that killed it).

        The method also reaps other children: as the first process in a container, this process adopts orphans.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = next((each for each in self.all if each.pid == pid), None)
            if ended is not None:
                self.all.remove(ended)
                yield ended, os.waitstatus_to_exitcode(status)

    def forgive(self, seconds: float) -> None:
        """Extend the time limits of all processes by the seconds for which the supervisor itself did not run, perhaps
        because the whole machine was suspended."""
        for each in self.all:
            each.started += seconds
            each.seen += seconds


def _note(process: Process, message: Message, now: float) -> None:
    fields = message.fields
    if "READY" in fields and process.state == "starting" and process.asked is None:
        process.state, process.ready, process.seen = "ready", now, now
    if "STOPPING" in fields:
        process.state, process.stopping, process.seen = "draining", True, now
    if "WATCHDOG" in fields:
        process.seen = now
    if fields.get(REQUESTS, "").isdecimal():
        process.requests = int(fields[REQUESTS])
    process.status = fields.get("STATUS", process.status)
    process.traceback = message.traceback or process.traceback
