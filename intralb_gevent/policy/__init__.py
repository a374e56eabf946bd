"""Pure decision logic: each policy takes numbers and the current time as arguments, and returns a decision.

No module in this package uses gevent, a clock, I/O or randomness, so each policy can be tested with property tests.
"""
