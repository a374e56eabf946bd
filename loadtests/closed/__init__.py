"""The closed-loop benchmark, run by `python -m loadtests.closed`."""
