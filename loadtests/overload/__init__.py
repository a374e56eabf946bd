"""The open-loop overload benchmark, run by `python -m loadtests.overload`."""
