"""Puts the patched `ssl.SSLContext` into modules that were imported before monkey-patching.

Those who have done `from ssl import SSLContext` by then, as urllib3 has under an instrumenting command, hold a class
that cannot work any more: `ssl` itself has the patched one by its name, so each setting of the original calls itself
until RecursionError. The patched class does all that the original does. Other originals are left where they are, for
some modules hold them on purpose.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Collection
from types import ModuleType

from gevent import monkey

__all__ = ["replace_ssl_context"]

_LEFT_OUT = sys.stdlib_module_names | {"gevent"}


def replace_ssl_context(early: Collection[str]) -> list[str]:
    """Replace the class in the modules of these names, and return those in which it was."""
    original = monkey.get_original("ssl", "SSLContext")
    patched = ssl.SSLContext
    changed = []
    for name in sorted(early):
        module = sys.modules.get(name)
        if original is patched or name.partition(".")[0] in _LEFT_OUT or not isinstance(module, ModuleType):
            continue
        held = [attribute for attribute, value in list(vars(module).items()) if value is original]
        for attribute in held:
            setattr(module, attribute, patched)
        changed += [name] if held else []
    return changed
