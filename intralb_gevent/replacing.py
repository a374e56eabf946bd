"""Replace the process of a framework's management command with `intralb-gevent serve`.

The framework has already imported modules that must be imported after monkey-patching. So the command executes a new
program, with the same process id, instead of starting the server itself.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

__all__ = ["serve_instead"]

_NOT_INSTALLED = "intralb-gevent: pip install 'intralb-gevent[reload]' to restart when a file changes"
_RELOAD = ("--reload", "--no-reload")
_ONE_LOOK = ("-h", "--help", "--show-config")


def serve_instead(
    flags: Sequence[str], reloads: bool, application: str | None = None, variables: Mapping[str, str] | None = None
) -> NoReturn:
    """Replace this process with `intralb-gevent serve` and these flags.

    If `reloads` is true and watchfiles is installed, this function adds `--reload`. `--reload` is not added if `flags`
    contain `--no-reload`, or a flag that only shows information.
    """
    more = [] if application is None else [application]
    if reloads and not any(flag in flags for flag in (*_RELOAD, *_ONE_LOOK)):
        if importlib.util.find_spec("watchfiles") is not None:
            more.append("--reload")
        else:
            print(_NOT_INSTALLED, file=sys.stderr)
    command = [sys.executable, "-m", "intralb_gevent", "serve", *more, *flags]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, {**os.environ, **(variables or {})})
