"""Copy the project without the package to a directory, and run the tests there: `python tests/apart.py DIRECTORY`.

The tests then import the installed package, compiled or not, instead of the source next to them.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = (
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


def copy(directory: Path, with_package: bool = False) -> None:
    """Copy the project to a directory, without what builds and tests have left in it."""
    left_out = LEFT_OUT if with_package else (*LEFT_OUT, "intralb_gevent")
    shutil.copytree(ROOT, directory, ignore=shutil.ignore_patterns(*left_out), dirs_exist_ok=True)


if __name__ == "__main__":
    copy(Path(sys.argv[1]))
