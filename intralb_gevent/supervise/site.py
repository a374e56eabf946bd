"""The supervisor's input from the command line: the program, the listeners, and the settings of the processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..config.processes import ProcessOptions
from ..policy.recycling import Limits
from .cpus import usable_cpus
from .descriptors import Descriptor
from .launch import Program
from .log import Log

__all__ = ["Site", "limits_of", "wanted_by"]


@dataclass(frozen=True)
class Site:
    """A program, its listeners, and other facts that do not change while the supervisor runs."""

    program: Program
    listeners: Sequence[Descriptor]
    protocol: Mapping[str, str]
    """The variables of systemd's protocol with which this process was started; they are passed to a successor."""
    lends: bool
    """True if another program, such as systemd, keeps the listeners open after all processes have ended."""
    read_options: Callable[[], ProcessOptions]
    """Function that reads the settings again; raises OptionError if a setting is invalid."""
    close_listeners: Callable[[], None]
    when_ready: Callable[[], None]
    """Function that is called once, when all processes are ready for the first time."""
    restore_files: Callable[[bool], object] = int
    """Function that is called before a reload; it creates deleted sockets and the deleted pid file again. Its argument
    tells whether a process of the latest reload serves."""
    withdraw_files: Callable[[], object] = int
    """Function that is called after a failed reload; it removes the sockets that `restore_files` has created."""
    log: Log = field(default_factory=Log)


def wanted_by(options: ProcessOptions) -> int:
    """Return the number of processes to run."""
    if options.reload:
        return 1
    return usable_cpus() if isinstance(options.processes, str) else options.processes


def limits_of(options: ProcessOptions) -> Limits:
    """Return the limits after which a process is replaced."""
    return Limits(options.process_max_requests, options.process_max_seconds, options.process_max_rss)
