"""Pure decision logic: each policy takes numbers and the current time as arguments, and returns a decision.

No module here uses gevent, a clock, I/O or randomness, so property tests can test each of them.
"""
