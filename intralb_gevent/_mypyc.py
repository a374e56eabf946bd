"""Report whether a module of this installation is compiled with mypyc; setup.py lists the modules to compile."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["is_compiled"]


def is_compiled(module: str) -> bool:
    """Return True if a module of this package, such as "pool.intake", is compiled in this installation."""
    spec = find_spec(f"{__package__}.{module}")
    return spec is not None and spec.origin is not None and not spec.origin.endswith(".py")
