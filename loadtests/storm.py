"""Sends random traffic of every kind: `python -m loadtests.storm`."""

import sys

from .nightly.storm import storm as main

if __name__ == "__main__":
    sys.exit(main())
