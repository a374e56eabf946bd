"""Measures how accurately deadlines are kept: `python -m loadtests.deadlines`."""
