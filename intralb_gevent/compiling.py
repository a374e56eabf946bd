"""What mypyc is told of classes that it compiles, and whether it has compiled this installation's modules.

Which ones it compiles is said in setup.py. It must not know what is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

__all__ = ["is_compiled", "mypyc_attr"]

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**attributes: object) -> Callable[[type], type]:
        """Return a class as it is: only mypyc looks at the attributes."""
        return lambda decorated: decorated


def is_compiled(module: str) -> bool:
    """Say whether a module of this package, such as "pool.balancer", is compiled here."""
    spec = find_spec(f"{__package__}.{module}")
    return spec is not None and spec.origin is not None and not spec.origin.endswith(".py")
