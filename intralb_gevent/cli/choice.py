"""Decide, before anything is imported or patched, whether the command line may need a supervisor.

A supervisor must not be monkey-patched, but a process that serves should import as little as possible before patching.
So this module does not read the settings; it only searches the flags, the variables and the current directory for signs
that the settings may need a supervisor.
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
    """Return whether a supervisor started this process to serve requests, and not to replace the supervisor.

    A supervisor passes its state to serving processes and to a new supervisor, but passes its socket only to the
    new supervisor.
    """
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    ours = environ.get("LISTEN_PID") == str(os.getpid())
    return ours and "intralb-state" in names and "intralb-notify" not in names
