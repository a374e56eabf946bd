"""Our server beside the others: `python -m loadtests.peers`, or `python loadtests/peers.py`.

Decides nothing but how it is found; the rest is in side_by_side/.
"""

import pathlib
import sys

# Started by its path, it would not find the package that it is in.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from loadtests.side_by_side.run import main

if __name__ == "__main__":
    sys.exit(main())
