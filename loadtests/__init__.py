"""Load tests of the sample application, and benchmarks of our server against others.

See docs/measurements/loadtests.md.
"""
