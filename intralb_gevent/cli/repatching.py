"""Put the patched `ssl.SSLContext` into modules that were imported before monkey-patching.

A module that ran `from ssl import SSLContext` before the patching holds a class that no longer works; this happens to
urllib3 under an instrumenting command. In `ssl`, the class's name now refers to the patched class, so each property
setter of the original class calls itself until it fails with RecursionError. The patched class can always replace the
original. Other originals are not replaced, because some modules hold them on purpose.
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
    """Replace the class in the named modules, and return the names of the modules that held the original."""
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
