"""Runs a load test of the sample application with locust users: `python -m loadtests.run SCENARIO --shape SHAPE`."""

import sys

from .locust.demo import main

if __name__ == "__main__":
    sys.exit(main())
