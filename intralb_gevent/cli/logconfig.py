"""Configure `logging` with the file that `log_config` names, and open the file that `log_file` names.

Processes that are not monkey-patched also use this module, so it does not import gevent.
"""

from __future__ import annotations

import json
import logging
import logging.config
import tomllib

from ..errors import OptionError

__all__ = ["configure_by_file", "file_handler"]


def configure_by_file(path: str) -> None:
    """Configure `logging`, and leave existing loggers enabled; raises `OptionError` if the file cannot be used."""
    try:
        if path.endswith((".json", ".toml")):
            with open(path, "rb") as file:
                described = json.load(file) if path.endswith(".json") else tomllib.load(file)
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **described})
        else:
            logging.config.fileConfig(path, disable_existing_loggers=False)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}{f' ({error.__cause__})' if error.__cause__ else ''}"
        raise OptionError(f"log_config: {path!r} cannot configure logging: {' '.join(cause.split())}") from None


def file_handler(path: str) -> logging.FileHandler:
    """Return a handler that appends to the log file; raises `OptionError` if the file cannot be opened."""
    try:
        return logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OptionError(
            f"log_file: cannot open {path!r}: {error.strerror}; name a file that this user may write"
        ) from None
