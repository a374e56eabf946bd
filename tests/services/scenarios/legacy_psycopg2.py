"""Storm scenario with a thread-local psycopg2 connection."""

from __future__ import annotations

from .ledger import STAGES
from .legacy_postgresql import clean, connections, left, prepare, verify

__all__ = ["APPLICATION", "STAGES", "clean", "connections", "left", "prepare", "verify"]

APPLICATION = "legacy.with_psycopg2:application"
