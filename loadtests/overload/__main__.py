"""Measures the goodput of our server and of others under overload: `python -m loadtests.overload`."""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main())
