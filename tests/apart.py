"""Copies the project without the package to a directory, for the tests to run there: `python tests/apart.py DIRECTORY`.

So the tests import what is installed, which may be compiled, and not the source that they lie beside.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(
    "intralb_gevent",
    "build",
    "dist",
    "*.egg-info",
    ".git",
    ".tox",
    ".venv",
    "venv",
    "__pycache__",
    ".*_cache",
    "reports",
)

if __name__ == "__main__":
    shutil.copytree(ROOT, sys.argv[1], ignore=LEFT_OUT, dirs_exist_ok=True)
