"""Code that all load tests and benchmarks share."""


class LoadTestError(Exception):
    """Raised if a run cannot start or a measurement fails; the message gives the reason and, if possible, a remedy."""
