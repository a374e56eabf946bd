"""Storm scenario with SQLAlchemy's scoped_session."""

from __future__ import annotations

from .ledger import STAGES
from .legacy_postgresql import clean, connections, left, prepare, verify

__all__ = ["APPLICATION", "STAGES", "clean", "connections", "left", "prepare", "verify"]

APPLICATION = "legacy.with_scoped_session:application"
