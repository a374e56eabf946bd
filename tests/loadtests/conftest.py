"""Makes the load tests, which are not installed, and the helpers of this directory importable."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
