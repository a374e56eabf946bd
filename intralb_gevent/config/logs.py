"""The settings of the log of `serve`: its level, its file, or a file that configures `logging`.

These settings concern the whole program and not one balancer, so they are not part of `Options`. The supervisor also
reads these settings, because it logs in the same format and to the same file as its processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .fields import Declaration, check_fields, declarations_in, option
from .kinds import Kind, choice, require

__all__ = ["LogOptions", "log_declarations"]

_LOGS = "Logs"


def _file() -> Kind:
    def convert(value: Any) -> str:
        require(isinstance(value, str) and value != "" and "\0" not in value)
        return str(value)

    return Kind("the path of a file", "FILE", convert, str, textual=True)


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """The settings of the log of `serve`; they are immutable, keyword-only, and checked at construction."""

    log_level: str = option(
        _LOGS,
        "info",
        choice("debug", "info", "warning", "error", "critical"),
        "Lowest level of the records that are written. The lines of requests depend only on enable_logging.",
    )
    log_file: str | None = option(
        _LOGS,
        None,
        _file(),
        "File to which the log is appended; on SIGUSR1, the file is reopened. With log_format combined, only the lines "
        "of requests are written to the file. Default: the standard error.",
    )
    log_config: str | None = option(
        _LOGS,
        None,
        _file(),
        "File that configures logging instead of log_level and log_file. The file has the format of "
        "logging.config.fileConfig or, if its name ends with .json or .toml, of dictConfig. Default: none.",
    )

    def __post_init__(self) -> None:
        """Check each field against its declaration."""
        check_fields(self)


def log_declarations() -> tuple[Declaration, ...]:
    """Return the declarations of the log settings, in their order in the class."""
    return declarations_in(LogOptions)
