"""The text that a server writes when it has started: a block of lines on a terminal, and one line in a log."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .. import __version__
from ..config.options import Options
from .arguments import PROGRAM

__all__ = ["Started", "colours_wanted", "on_terminal"]

_BOLD, _CYAN, _GREEN, _PLAIN = "\033[1m", "\033[36m", "\033[32m", "\033[0m"
_ERROR: Final = 2
_WIDTH: Final = 11


def colours_wanted(environ: Mapping[str, str]) -> bool:
    """Return whether the terminal supports colours, and the user has not disabled colours.

    A variable NO_COLOR that is not empty disables colours (https://no-color.org).
    """
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def on_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return _is_terminal(_ERROR)


@dataclass(frozen=True)
class Started:
    """The facts about a server that has started."""

    application: str
    pid: int
    addresses: Sequence[str]
    options: Options
    processes: int = 1
    role: str = ""
    """A description of this process, if a supervisor runs several processes; otherwise ''."""
    protected: Sequence[str] = ()
    admin: str = ""
    settings: Sequence[str] = ()
    """The settings file and the variable PORT, if they were read (`Inputs.found`)."""
    note: str = ""

    @property
    def _workers(self) -> str:
        sizes = sorted({self.options.first_workers, self.options.max_workers})
        return f"{'-'.join(map(str, sizes))} workers x {self.options.max_concurrent_per_router} slots"

    @property
    def _process(self) -> str:
        return self.role or f"process {self.pid}"

    def text(self, is_first: bool) -> str:
        """Return the text to write to stderr; on a terminal, only the first of several processes writes the block."""
        if not _is_terminal(_ERROR):
            return self.line()
        return self.block(colours_wanted(os.environ)) if is_first else f"{PROGRAM}: {self._process} serves"

    def line(self) -> str:
        """Return the facts as one line, for a log."""
        parts = [
            f"{PROGRAM} {__version__} ({self._process}) serving {self.application} on {', '.join(self.addresses)} - "
            f"{self._workers}",
            f"queue {self.options.queue_size} each",
            f"deadline {self.options.deadline_seconds:g} s",
        ]
        parts += [f"protecting {', '.join(self.protected)}"] if self.protected else []
        parts += [f"admin on {self.admin}"] if self.admin else []
        parts += [f"settings from {' and '.join(self.settings)}"] if self.settings else []
        return ", ".join(parts)

    def block(self, colours: bool) -> str:
        """Return the facts as a block of lines, for a terminal."""
        head = f"{PROGRAM} {__version__}"
        lines = [f"{_painted(head, _BOLD, colours)}  {self._process}"]
        for name, text, colour in self._rows():
            lines.append(f"  {name:{_WIDTH}}{_painted(text, colour, colours) if colour else text}")
        return "\n".join([*lines, *([f"  {self.note}"] if self.note else [])])

    def _rows(self) -> list[tuple[str, str, str]]:
        options = self.options
        each = f"{self.processes} processes, each with " if self.processes > 1 else ""
        rows = [("serves", self.application, ""), ("listens on", ", ".join(self.addresses), _CYAN)]
        rows.append(("runs", f"{each}{self._workers}; queue {options.queue_size} for each worker", ""))
        rows.append(("deadline", f"{options.deadline_seconds:g} s; waits at most {_seconds(options)} in the queue", ""))
        if self.protected:
            rows.append(("protects", f"{', '.join(self.protected)}", _GREEN))
        elif options.integrations:
            rows.append(("protects", "no database library in use so far", ""))
        rows.append(("admin page", self.admin or "off (--admin-bind 9000)", _CYAN if self.admin else ""))
        if self.settings:
            rows.append(("settings", " and ".join(self.settings), ""))
        return rows


def _seconds(options: Options) -> str:
    return "any time" if options.max_wait_seconds == float("inf") else f"{options.max_wait_seconds:g} s"


def _painted(text: str, colour: str, colours: bool) -> str:
    return f"{colour}{text}{_PLAIN}" if colours else text
