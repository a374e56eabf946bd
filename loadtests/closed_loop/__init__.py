"""The closed-loop benchmark: `python -m loadtests.closed`. Nothing in the package knows of it."""
