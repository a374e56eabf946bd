"""Put the patched `ssl.SSLContext` into modules that were imported before monkey-patching.

A module that ran `from ssl import SSLContext` before monkey-patching still refers to the original class, but this class
no longer works. For example, `opentelemetry-instrument` imports urllib3 before the server can patch. The property
setters of the original class use the global name `ssl.SSLContext`, which now refers to the patched class. Therefore,
each setter calls itself, and fails with RecursionError. Other unpatched objects are not replaced, because some modules
need them.
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
    """Replace the original class with the patched class in the modules named `early`; return the changed modules."""
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
