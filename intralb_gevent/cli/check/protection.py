"""Find libraries whose connections keep the open transaction and the locks of an interrupted request.

`intralb-gevent serve` protects these connections unless the option `integrations` is off.
"""

from __future__ import annotations

import sys

from .findings import Finding

__all__ = ["unprotected"]

_SESSIONS = {
    "Django": ("django.db", "intralb_gevent.integrations.django"),
    "SQLAlchemy": ("sqlalchemy.engine", "intralb_gevent.integrations.sqlalchemy"),
}
"""Two modules for each library: a module that is imported if the library is in use, and our module that protects it."""


def unprotected(protects: bool) -> list[Finding]:
    """Return a hint for each unprotected library in use; `protects` is True if the server protects all of them."""
    if protects:
        return []
    return [
        _finding(name)
        for name, (module, ours) in _SESSIONS.items()
        if module in sys.modules and ours not in sys.modules and (name != "Django" or _django_has_databases())
    ]


def _django_has_databases() -> bool:
    settings = getattr(sys.modules.get("django.conf"), "settings", None)
    if settings is None or not settings.configured:
        return False
    engines = [database.get("ENGINE", "") for database in settings.DATABASES.values()]
    return any(engine and not engine.endswith(".dummy") for engine in engines)


def _finding(name: str) -> Finding:
    return Finding(
        "hint",
        f"{name}'s connections are not protected",
        "When a request is interrupted, its statement goes on in the database, and its transaction and its locks last "
        "until the connection is closed.",
        "leave integrations on (--integrations), or open its sessions in db_init_func (docs/guides/databases.md)",
    )
