"""The open-loop overload benchmark: `python -m loadtests.overload`. Nothing in the package knows of it."""
