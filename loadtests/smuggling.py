"""Sends ambiguous requests, directly and through proxies: `python -m loadtests.smuggling`."""

import sys

from .nightly.smuggle import main as main

if __name__ == "__main__":
    sys.exit(main())
