"""Adapters for third-party libraries, one module per library.

Most of these modules import their library, so this package imports none of the modules.
"""
