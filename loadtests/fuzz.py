"""Sends damaged bytes to every port of our server: `python -m loadtests.fuzz`."""

import sys

from .nightly.fuzz import fuzz as main

if __name__ == "__main__":
    sys.exit(main())
