"""Each module of this package is a management command."""
