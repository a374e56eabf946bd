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
    from .cli import run

    try:
        return run(sys.argv[1:], early)
    finally:
        _shut_down_logging()


def _shut_down_logging() -> None:
    """Flush the log, and let nobody take its patched lock once greenlet is being finalized.

    Python 3.10 drops handlers that late, each with a traceback on the standard error (seen with greenlet 3.5).
    """
    import logging

    logging.shutdown()
    handlers: list[object] = vars(logging)["_handlerList"]
    handlers.clear()


if __name__ == "__main__":
    sys.exit(main())
