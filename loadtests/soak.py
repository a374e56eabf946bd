"""Runs steady traffic, under which the server's memory must not grow: `python -m loadtests.soak`."""

import sys

from .nightly.storm import soak as main

if __name__ == "__main__":
    sys.exit(main())
