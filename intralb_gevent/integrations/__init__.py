"""Adapters for third-party libraries, one module per library.

Each module imports its library, so this package imports none of the modules.
"""
