"""Invariants of the legacy bank's accounts and ledger, for any database."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

__all__ = ["BALANCE", "STAGES", "TABLES", "USERS", "faults_of"]

USERS = range(1, 41)
BALANCE = 100_000
STAGES = ("connect", "look", "locked", "half", "half", "commit", "commit", "committed")
TABLES = [
    "create table account (id int primary key, owner int not null, balance bigint not null)",
    "create table ledger (number int, account int, amount int)",
    "insert into account values " + ", ".join(f"({user}, {user}, {BALANCE})" for user in USERS),
]


def faults_of(
    accounts: Iterable[tuple[int, int]], ledger: Iterable[tuple[int, int, int]], asked: list[Any]
) -> list[str]:
    """Return one string for each fault: lost or created money, and missing or unexpected payments."""
    balances, entries = dict(accounts), defaultdict(list)
    changes: Counter[int] = Counter()
    for number, account, amount in ledger:
        entries[number].append((account, amount))
        changes[account] += amount
    return [
        *lost_money(balances, changes),
        *(fault for one in asked for fault in misbooked(one, entries[one.question.number])),
    ]


def lost_money(balances: dict[int, int], changes: Counter[int]) -> list[str]:
    faults = []
    if (total := sum(balances.values())) != BALANCE * len(USERS):
        faults.append(f"the sum of the accounts is {total} in place of {BALANCE * len(USERS)}")
    wrong = [account for account, balance in balances.items() if balance != BALANCE + changes[account]]
    return faults + ["an account that differs from its ledger"] * len(wrong)


def misbooked(asked: Any, entries: list[tuple[int, int]]) -> Iterable[str]:
    """Yield one word for each fault in the entries of a request."""
    question = asked.question
    paid = sorted({question.user: -question.amount, question.other: question.amount}.items())
    if entries and sorted(entries) != paid:
        yield "a payment that was booked in part, or more than once"
    elif entries and (question.page != "pay" or (question.at and question.at != "committed")):
        yield "a payment that was booked though its request was cut before it"
    elif not entries and question.page == "pay" and asked.status == 200:
        yield "a payment that was answered for and not booked"
