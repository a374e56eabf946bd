"""Whether a run has passed: a few checks, each with its sentence.

Decides what must hold. It must not know how the figures came about or who reads the sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .figures import Clients
from .watch import Watch

__all__ = ["Check", "verdict"]


@dataclass(frozen=True)
class Check:
    """One thing that must hold, and what was found."""

    passed: bool
    sentence: str


def verdict(clients: Clients, watch: Watch, allow_shed: bool, locust_code: int) -> list[Check]:
    """Return every check; the run has passed when all of them have."""
    return [*_clients_checks(clients, allow_shed), _agreement(clients, watch), *_ends(clients, watch, locust_code)]


def _clients_checks(clients: Clients, allow_shed: bool) -> Iterator[Check]:
    total = clients.total
    if not total.requests:
        yield Check(False, "No request was made at all.")
        return
    told = f": {_listed(total.unexpected)}" if total.unexpected else ""
    yield Check(
        not total.unexpected, f"{total.unexpected.total():,} of {total.requests:,} answers were unexpected{told}."
    )
    if total.refused:
        allowed = "which this run allows" if allow_shed else "which this run does not allow (see --allow-shed)"
        yield Check(allow_shed, f"{total.refused.total():,} were refused ({_listed(total.refused)}), {allowed}.")
    else:
        yield Check(True, "None was refused.")


def _agreement(clients: Clients, watch: Watch) -> Check:
    answers = clients.total.answers
    return Check(
        watch.ended >= answers, f"The clients had {answers:,} answers, and the server ended {watch.ended:,} jobs."
    )


def _ends(clients: Clients, watch: Watch, locust_code: int) -> Iterator[Check]:
    if locust_code and not clients.problems:
        yield Check(False, f"Locust ended with exit code {locust_code}, though it reported no failed request.")
    if watch.exit_code is not None:
        how = "with nothing cut" if watch.exit_code == 0 else "which means that it was not a clean shutdown"
        yield Check(watch.exit_code == 0, f"The server shut down with exit code {watch.exit_code}, {how}.")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} with {name}" for name, count in sorted(counts.items()))
