"""Measures our server against others: `python -m loadtests.peers`."""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main())
