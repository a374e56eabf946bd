"""What clients get that wait for each answer, of us and of the others: `python -m loadtests.closed`, or by its path.

Decides nothing but how it is found; the rest is in closed_loop/.
"""

import pathlib
import sys

# Started by its path, it would not find the package that it is in.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from loadtests.closed_loop.run import main

if __name__ == "__main__":
    sys.exit(main())
