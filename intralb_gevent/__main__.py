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

    return run(sys.argv[1:], early)


if __name__ == "__main__":
    sys.exit(main())
