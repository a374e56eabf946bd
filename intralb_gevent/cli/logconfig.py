"""Configure `logging` with the file that `log_config` names.

Processes that are not monkey-patched also use this module, so it does not import gevent.
"""

from __future__ import annotations

import json
import logging.config
import tomllib

from ..errors import OptionError

__all__ = ["configure_by_file"]


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
