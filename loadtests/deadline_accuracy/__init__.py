"""How accurately deadlines are kept: `python -m loadtests.deadlines`. Nothing in the package knows of it."""
