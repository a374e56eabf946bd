"""The settings of the processes of `serve`: the number of processes, and the limits at which a process is replaced.

These settings concern the whole program and not one balancer, so they are not part of `Options`. The supervisor reads
these settings without importing gevent or the application.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .fields import Declaration, check_fields, declarations_in, option
from .kinds import Kind, integer, require, seconds, switch

__all__ = ["MOST_PROCESSES", "ProcessOptions", "process_declarations"]

_PROCESSES = "Processes"
MOST_PROCESSES = 1024
_SIZE = re.compile(r"(?P<number>[0-9]{1,15})(?P<unit>[KMG]?)").fullmatch
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_PATH = re.compile(r"/[!-~]*").fullmatch


def _count() -> Kind:
    def convert(value: Any) -> int | str:
        if value == "auto":
            return "auto"
        require(isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_PROCESSES)
        return int(value)

    def parse(text: str) -> int | str:
        return text if text == "auto" else int(text)

    return Kind(f"a whole number from 1 to {MOST_PROCESSES}, or auto", "NUMBER|auto", convert, parse, textual=True)


def _size() -> Kind:
    def convert(value: Any) -> int:
        size = parse(value) if isinstance(value, str) else value
        require(isinstance(size, int) and not isinstance(size, bool) and size > 0)
        return int(size)

    def parse(text: str) -> int:
        match = _SIZE(text)
        if match is None:
            raise ValueError(text)
        return int(match["number"]) * _UNITS[match["unit"]]

    allowed = "a number of bytes above 0, with or without one of the units K, M and G, such as 512M"
    return Kind(allowed, "SIZE", convert, parse, textual=True)


def _path() -> Kind:
    def convert(value: Any) -> str:
        require(isinstance(value, str) and _PATH(value) is not None)
        return str(value)

    return Kind("a path such as /healthz, of printable ASCII characters", "PATH", convert, str, textual=True)


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """The settings of the processes of `serve`; they are immutable, keyword-only, and checked at construction."""

    processes: int | str = option(
        _PROCESSES,
        1,
        _count(),
        "Number of processes that serve requests; a supervisor starts and replaces the processes. With auto, there is "
        "one process for each CPU. With 1, there is no supervisor, unless reload or a process_max setting needs one.",
    )
    reload: bool = option(
        _PROCESSES,
        False,
        switch(),
        "Restart when a file of the application changes, for development. There is one process, regardless of the "
        "setting processes. If the application cannot be imported, requests are answered with the error. This setting "
        "needs watchfiles.",
    )
    ready_path: str | None = option(
        _PROCESSES,
        None,
        _path(),
        "Path that the application must answer with 2xx before a new process accepts connections. Default: none.",
    )
    process_timeout_seconds: float = option(
        _PROCESSES,
        30.0,
        seconds(positive=True),
        "If the event loop of a supervised process does not run for this time, the process writes its stacks and is "
        "replaced. A new process may take twice as long to become ready.",
    )
    process_max_requests: int | None = option(
        _PROCESSES,
        None,
        integer(1),
        "Number of requests after which a process is replaced, lowered at random by up to a fifth. Default: unlimited.",
    )
    process_max_seconds: float | None = option(
        _PROCESSES,
        None,
        seconds(positive=True),
        "Age at which a process is replaced, lowered at random by up to a fifth. Default: unlimited.",
    )
    process_max_rss: int | None = option(
        _PROCESSES,
        None,
        _size(),
        "Resident memory above which a process is replaced. Default: unlimited.",
    )

    def __post_init__(self) -> None:
        """Check each field against its declaration."""
        check_fields(self)

    @property
    def supervised(self) -> bool:
        """True if these settings require a supervisor."""
        limits = (self.process_max_requests, self.process_max_seconds, self.process_max_rss)
        return self.reload or self.processes != 1 or any(limit is not None for limit in limits)

    @property
    def start_seconds(self) -> float:
        """Seconds within which a new process must be ready."""
        return 2 * self.process_timeout_seconds


def process_declarations() -> tuple[Declaration, ...]:
    """Return the declarations of the settings of the processes, in their order in the class."""
    return declarations_in(ProcessOptions)
