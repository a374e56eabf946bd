"""The benchmark of our server beside the others: `python -m loadtests.peers`. Nothing in the package knows of it."""

__all__ = ["BenchmarkError"]


class BenchmarkError(Exception):
    """Something cannot be measured; the message says why and, where it can be helped, what to do."""
