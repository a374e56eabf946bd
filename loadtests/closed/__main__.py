"""Compares servers, with clients that wait for each response: `python -m loadtests.closed`."""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main())
