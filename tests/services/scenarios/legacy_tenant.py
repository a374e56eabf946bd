"""Storm scenario with a tenant in a thread-local; each tenant has its own schema."""

from __future__ import annotations

from typing import Any

from . import legacy_postgresql as postgresql
from .ledger import USERS
from .legacy_postgresql import asked, connections, left

__all__ = ["APPLICATION", "STAGES", "clean", "connections", "left", "prepare", "verify"]

APPLICATION = "legacy.with_tenant:application"
STAGES = ("connect", "look", "half", "commit")


def schema(run: str, user: int) -> str:
    return f"{run}_tenant{user}"


def prepare(run: str) -> dict[str, str]:
    for user in USERS:
        tables = ["create table settings (owner int)", f"insert into settings values ({user})"]
        postgresql.make(schema(run, user), [*tables, "create table visit (number int)"])
    return {"LEGACY_POSTGRESQL": postgresql.ADDRESS}


def clean(run: str) -> None:
    postgresql.clean(run)
    for user in USERS:
        postgresql.clean(schema(run, user))


def verify(server: Any, requests: list[Any]) -> list[str]:
    """Return visits that are missing, or that were recorded for a tenant other than the visitor's."""
    seen = {}
    for user in USERS:
        for (number,) in asked("select number from visit", schema=schema(server.run, user)):
            seen[number] = user
    owner = {request.question.number: request.question.user for request in requests}
    faults = ["a visit with another tenant" for number, user in seen.items() if owner[number] != user]
    answered = {
        request.question.number for request in requests if request.question.page == "pay" and request.status == 200
    }
    return faults + ["a visit that was answered for and is missing"] * len(answered - set(seen))
