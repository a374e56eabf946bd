"""Measures how accurately deadlines are kept: `python -m loadtests.deadlines`."""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main())
