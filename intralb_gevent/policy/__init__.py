"""Decisions, and nothing else: numbers and `now` come in, a decision comes out.

No module here knows gevent, a clock, I/O or randomness, so a property test can drive each of them.
"""
