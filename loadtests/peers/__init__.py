"""The benchmark of our server against others, run by `python -m loadtests.peers`."""
