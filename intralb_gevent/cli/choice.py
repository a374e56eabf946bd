"""Decide, before anything is imported or patched, whether the command line may need a supervisor.

A supervisor must not be monkey-patched, but a process that serves should import as little as possible before patching.
So this module does not read the settings; it only searches the flags, the variables and the current directory for signs
that the settings may need a supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

__all__ = ["is_supervised", "may_be_supervisor", "replaces_supervisor"]

_SERVING = {"serve", "demo"}
_FLAGS = ("--process", "-w", "--config", "-c", "--chdir", "--env-file", "--reload")
_VARIABLES = ("INTRALB_PROCESS", "INTRALB_CONFIG", "INTRALB_CHDIR", "INTRALB_ENV_FILE", "INTRALB_RELOAD")
_FILE = "intralb.toml"


def may_be_supervisor(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether this process may have to be a supervisor."""
    if replaces_supervisor(environ):
        return True
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
    names = _inherited(environ)
    return "intralb-state" in names and "intralb-notify" not in names


def replaces_supervisor(environ: Mapping[str, str]) -> bool:
    """Return whether this process replaces a supervisor, and therefore is one, even if it runs a single process."""
    return "intralb-notify" in _inherited(environ)


def _inherited(environ: Mapping[str, str]) -> Collection[str]:
    """Return the names of the descriptors that this process has inherited."""
    return environ.get("LISTEN_FDNAMES", "").split(":") if environ.get("LISTEN_PID") == str(os.getpid()) else ()
