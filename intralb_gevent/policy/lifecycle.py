"""The states of a job and the legal transitions between them, as one table.

A job is new until it is admitted. A job is queued while all slots are busy. A job is ready from the time when a slot is
reserved for it until the next batch of jobs is started (`hub/dispatch.py`). From its start until its end, the job is
running.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from ..errors import IllegalTransition

__all__ = ["OUTCOMES", "TRANSITIONS", "Outcome", "State", "illegal"]

Outcome = Literal["completed", "failed", "shed", "expired", "timed_out", "disconnected", "killed"]
State = Literal["new", "queued", "ready", "running"] | Outcome

OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)

TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    "new": frozenset({"queued", "ready", "shed", "expired"}),
    "queued": frozenset({"ready", "shed", "expired", "disconnected", "killed"}),
    "ready": frozenset({"running", "shed", "expired", "disconnected", "killed"}),
    "running": frozenset({"completed", "failed", "timed_out", "disconnected", "killed"}),
    **{outcome: frozenset() for outcome in OUTCOMES},
}


def illegal(present: State, following: State) -> IllegalTransition:
    """Return the error for an illegal transition; its message lists the legal transitions."""
    possible = ", ".join(sorted(TRANSITIONS[present])) or "nothing more: it has ended"
    return IllegalTransition(f"a job that is {present} cannot become {following}; it can become {possible}")
