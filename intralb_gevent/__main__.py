"""Start the command line, as a supervisor or in a monkey-patched process.

If the process is not a supervisor, this module records which modules are already imported, monkey-patches the process,
and only then imports the modules that use gevent.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line and return the exit code."""
    early = frozenset(sys.modules)
    from .cli.choice import may_be_supervisor

    if may_be_supervisor(sys.argv[1:], os.environ):
        from .cli.supervising import supervise

        code = supervise(sys.argv[1:])
        if code is not None:
            return code
    from .process.patching import patch_process

    patch_process()
    from .cli.main import run
    from .process.leaving import run_and_leave

    return run_and_leave(lambda: run(sys.argv[1:], early))


if __name__ == "__main__":
    sys.exit(main())
