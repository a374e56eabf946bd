"""The sources of a command's settings: its flags, the environment, and the settings file.

A settings file and a file with environment variables are found and read here. The directory that `chdir` names becomes
the current one. This module is also used in processes that are not monkey-patched, so it imports no gevent.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from ..config import sources
from ..config.logs import LogOptions
from ..config.processes import ProcessOptions
from ..config.serving import ServingOptions
from ..errors import OptionError
from .arguments import given_settings

__all__ = ["DEFAULT_FILE", "Inputs", "env_file_variables"]

DEFAULT_FILE = "intralb.toml"
"""Name of the settings file that is found by itself, in the current directory."""


@dataclass(frozen=True)
class Inputs:
    """The flags, variables and file of one command, read but not yet checked."""

    flags: Mapping[str, Any]
    environ: Mapping[str, str]
    """The environment, with the variables of `env_file`."""
    file: str | None
    """Path of the settings file, as the user would write it; None if there is none."""
    in_file: Mapping[str, sources.Given]

    @classmethod
    def read(cls, parsed: argparse.Namespace, environ: Mapping[str, str]) -> Inputs:
        """Find the settings file, enter the directory that the settings name, and read the variables' file.

        Raises `OptionError`. Paths in the settings are relative to that directory; the path of the settings file is
        relative to the directory in which the command was started.
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
        """Make the variables of the file, and the modules of the current directory, available to this process."""
        for name, value in self.environ.items():
            environ.setdefault(name, value)
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())

    @property
    def found(self) -> list[str]:
        """The sources that the command does not name: the settings file, and PORT if it decides the address."""
        file = [] if self.file is None else [self.file if os.path.dirname(self.file) else f"./{self.file}"]
        named = "bind" in self.flags or "bind" in self.in_file or bool(self.environ.get("INTRALB_BIND"))
        port = self.environ.get("PORT", "")
        return [*file, f"PORT={port}"] if port and not named else file

    def warnings(self) -> list[str]:
        """Return a warning for each variable that looks like a setting and is none."""
        return sources.unknown_variables(self.environ)

    def settings(self, defaults: Mapping[str, str | bool] | None = None) -> sources.Settings:
        """Return all settings in effect; this may import modules that the settings name."""
        return sources.load(self.flags, self.environ, self.in_file, defaults)

    def processes(self) -> ProcessOptions:
        """Return the settings of the processes."""
        return sources.load_processes(self.flags, self.environ, self.in_file)

    def logs(self) -> tuple[LogOptions, str]:
        """Return the settings of the log, and its format."""
        return sources.load_logs(self.flags, self.environ, self.in_file)

    def serving(self) -> ServingOptions:
        """Return the settings of the program."""
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
    """Return the variables in a file of NAME=VALUE lines, as python-dotenv reads it; raises `OptionError`."""
    try:
        from dotenv import dotenv_values
    except ImportError:
        raise OptionError("env_file: needs python-dotenv; pip install 'intralb-gevent[env]'") from None
    try:
        with open(path, encoding="utf-8") as file:
            found = dotenv_values(stream=file)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise OptionError(f"env_file: {path!r} cannot be read ({why}); name a file of NAME=VALUE lines") from None
    return {name: value for name, value in found.items() if value is not None}
