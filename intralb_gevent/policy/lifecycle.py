"""The states of a job and the ways between them, as one table.

A job is new until it is admitted, queued until its slot takes it up (be it for one turn of the hub), and running
until it ends.

Decides which change of state is legal. It must not know who asks for the change or what follows from it.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from ..errors import IllegalTransition

__all__ = ["NEXT", "OUTCOMES", "Outcome", "State", "move"]

Outcome = Literal["completed", "failed", "shed", "expired", "timed_out", "disconnected", "killed"]
State = Literal["new", "queued", "running"] | Outcome

OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)

NEXT: Final[dict[State, frozenset[State]]] = {
    "new": frozenset({"queued", "shed", "expired"}),
    "queued": frozenset({"running", "shed", "expired", "disconnected", "killed"}),
    "running": frozenset({"completed", "failed", "timed_out", "disconnected", "killed"}),
    **{outcome: frozenset() for outcome in OUTCOMES},
}


def move(present: State, following: State) -> State:
    """Return `following` if `present` leads to it; raise `IllegalTransition` if it does not."""
    # Comparisons are faster than a look into a set, so the usual transitions come first.
    usual = (
        (present == "new" and following == "queued")
        or (present == "queued" and following == "running")
        or (present == "running" and following == "completed")
    )
    if not usual and following not in NEXT[present]:
        raise _illegal(present, following)
    return following


def _illegal(present: State, following: State) -> IllegalTransition:
    """Return the error that says what a job that is `present` can become instead."""
    possible = ", ".join(sorted(NEXT[present])) or "nothing more: it has ended"
    return IllegalTransition(f"a job that is {present} cannot become {following}; it can become {possible}")
