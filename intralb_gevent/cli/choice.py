"""Decide, before anything is imported or patched, whether the command line may need a supervisor.

A supervisor is not monkey-patched, and a process without a supervisor should import nothing more before patching. So
this module only looks for a reason to need a supervisor; the settings are read afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

__all__ = ["is_supervised", "may_be_supervisor"]

_SERVING = {"serve", "demo"}
_FLAGS = ("--process", "-w", "--config", "-c", "--chdir", "--env-file", "--reload")
_VARIABLES = ("INTRALB_PROCESS", "INTRALB_CONFIG", "INTRALB_CHDIR", "INTRALB_ENV_FILE", "INTRALB_RELOAD")
_FILE = "intralb.toml"


def may_be_supervisor(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether this process may have to be a supervisor."""
    if not set(arguments[:1]) & _SERVING or is_supervised(environ):
        return False
    if not {"-h", "--help", "--show-config"}.isdisjoint(arguments):
        return False
    set_here = any(name.startswith(_VARIABLES) for name in environ) or os.path.exists(_FILE)
    return set_here or any(argument.startswith(_FLAGS) for argument in arguments)


def is_supervised(environ: Mapping[str, str]) -> bool:
    """Return whether a supervisor started this process: the supervisor's state, but not its own socket, was passed."""
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    ours = environ.get("LISTEN_PID") == str(os.getpid())
    return ours and "intralb-state" in names and "intralb-notify" not in names
