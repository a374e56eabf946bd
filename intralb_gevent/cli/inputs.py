"""The sources of a command's settings: its flags, the environment, and the settings file.

This module finds and reads the settings file and the file of `env_file`, and enters the directory that `chdir` names.
Processes that are not monkey-patched also use this module, so it does not import gevent.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from ..config import sources
from ..config.logs import LogOptions
from ..config.processes import ProcessOptions
from ..config.serving import ServingOptions
from ..config.textfile import text_of
from ..errors import OptionError
from .arguments import given_settings

__all__ = ["DEFAULT_FILE", "Inputs", "env_file_variables"]

DEFAULT_FILE = "intralb.toml"
"""Name of the settings file that is read from the current directory if the user names no settings file."""


@dataclass(frozen=True)
class Inputs:
    """The flags, variables and settings file of one command; their values have been read, but not yet validated."""

    flags: Mapping[str, Any]
    environ: Mapping[str, str]
    """The environment variables, including those in the file of `env_file`."""
    file: str | None
    """Path of the settings file, as the user would write it; None without a settings file."""
    in_file: Mapping[str, sources.Given]

    @classmethod
    def read(cls, parsed: argparse.Namespace, environ: Mapping[str, str]) -> Inputs:
        """Read the settings file, enter the directory of `chdir`, and read the variables in the file of `env_file`.

        The path of the settings file is relative to the directory in which the command was started; paths in the
        settings are relative to the directory of `chdir`. Raises `OptionError` if a file or the directory is unusable.
        """
        flags, file = given_settings(parsed), _settings_file(parsed, environ)
        in_file = {} if file is None else sources.in_file(file)
        serving = sources.load_serving(flags, environ, in_file)
        if serving.chdir is not None:
            _enter(serving.chdir)
        if serving.env_file is not None:
            environ = {**env_file_variables(serving.env_file), **environ}
        return cls(flags, environ, file, in_file)

    def use(self, environ: MutableMapping[str, str]) -> None:
        """Add the variables of `env_file` to `environ`, and the current directory to `sys.path`."""
        for name, value in self.environ.items():
            environ.setdefault(name, value)
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())

    @property
    def found(self) -> list[str]:
        """The sources of settings to show to the user: the settings file, and PORT if this variable sets the port."""
        file = [] if self.file is None else [self.file if os.path.dirname(self.file) else f"./{self.file}"]
        named = "bind" in self.flags or "bind" in self.in_file or bool(self.environ.get("INTRALB_BIND"))
        port = self.environ.get("PORT", "")
        return [*file, f"PORT={port}"] if port and not named else file

    def warnings(self) -> list[str]:
        """Return a warning for each variable whose name begins with INTRALB_ but names no setting."""
        return sources.unknown_variables(self.environ)

    def settings(self, defaults: Mapping[str, str | bool] | None = None) -> sources.Settings:
        """Return all settings in effect; this imports the modules that settings such as `db_init_func` name."""
        return sources.load(self.flags, self.environ, self.in_file, defaults)

    def processes(self) -> ProcessOptions:
        """Return only the settings for the supervisor and its processes."""
        return sources.load_processes(self.flags, self.environ, self.in_file)

    def logs(self) -> tuple[LogOptions, str]:
        """Return only the log settings and the value of `log_format`."""
        return sources.load_logs(self.flags, self.environ, self.in_file)

    def serving(self) -> ServingOptions:
        """Return only the settings of the program, such as the addresses and the user."""
        return sources.load_serving(self.flags, self.environ, self.in_file)


def _settings_file(parsed: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    named = parsed.config or environ.get("INTRALB_CONFIG")
    if named or not parsed.finds_settings:
        return named or None
    return DEFAULT_FILE if os.path.exists(DEFAULT_FILE) else None


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        raise OptionError(f"chdir: {directory!r} cannot be entered ({error.strerror}); name a directory") from None


def env_file_variables(path: str) -> dict[str, str]:
    """Parse a file of NAME=VALUE lines with python-dotenv; raises `OptionError` if the file cannot be read."""
    try:
        from dotenv import dotenv_values
    except ImportError:
        raise OptionError("env_file: needs python-dotenv; pip install 'intralb-gevent[env]'") from None
    try:
        found = dotenv_values(stream=io.StringIO(text_of(path)))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise OptionError(f"env_file: {path!r} cannot be read ({why}); name a file of NAME=VALUE lines") from None
    return {name: value for name, value in found.items() if value is not None}
