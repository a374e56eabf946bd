"""How accurately deadlines are kept: `python -m loadtests.deadlines`, or `python loadtests/deadlines.py`.

Decides nothing but how it is found; the rest is in deadline_accuracy/.
"""

import pathlib
import sys

# Started by its path, it would not find the package that it is in.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from loadtests.deadline_accuracy.run import main

if __name__ == "__main__":
    sys.exit(main())
