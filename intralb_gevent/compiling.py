"""What mypyc is told of classes that it compiles (setup.py says which modules are); elsewhere it has no effect.

It must not know any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["mypyc_attr"]

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**attributes):
        """Return a class as it is: only mypyc looks at the attributes."""
        return lambda decorated: decorated
