"""Load tests of the sample application: `python -m loadtests.run`. Nothing in the package knows of them."""
