"""Moves connections between processes that accept from the same listener.

The modules of this package use the event loop, but know neither HTTP nor jobs: `http/` decides which connections move,
and when.
"""
