"""Starts the command line in a process that is monkey-patched before all else.

Decides the order of things and nothing more: note what was imported too early, patch, import the rest.
"""

from __future__ import annotations

import sys
import warnings


def main() -> int:
    """Run the command line and return the exit code."""
    early = frozenset(sys.modules)
    from gevent import monkey

    with warnings.catch_warnings():
        # `check` and `serve` name the modules that were imported too early, in words of their own.
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
        monkey.patch_all()
    if sys.version_info < (3, 11):
        _forget_log_handlers_at_exit()
    from .cli import run
    from .process.leaving import run_and_leave

    return run_and_leave(lambda: run(sys.argv[1:], early))


def _forget_log_handlers_at_exit() -> None:
    """Shut logging down after the application's `atexit` functions, and drop its handlers then.

    Python 3.10 drops them only while greenlet is being finalized, and writes a traceback for each, as it takes their
    patched lock (seen with greenlet 3.5).
    """
    import atexit
    import logging

    def forget() -> None:
        logging.shutdown()
        handlers: list[object] = vars(logging)["_handlerList"]
        handlers.clear()

    # Functions that are registered later, as the application's are, run earlier.
    atexit.register(forget)


if __name__ == "__main__":
    sys.exit(main())
