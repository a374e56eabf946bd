"""What this package knows of other people's libraries: a module for each, imported by those who use it.

Decides nothing. It must not import any of its modules: each needs its library to be installed.
"""
