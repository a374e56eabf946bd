"""Steady traffic for long, and how large the server is: `python -m loadtests.soak`, or by its path.

Decides nothing but how it is found; the rest is in nightly/.
"""

import pathlib
import sys

# Started by its path, it would not find the package that it is in.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from loadtests.nightly.soaking import main

if __name__ == "__main__":
    sys.exit(main())
