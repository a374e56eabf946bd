"""Processes are replaced one by one; each replacement is ready before the old process ends."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.rollout import Member, Step, next_step

STATES = st.sampled_from(["starting", "ready", "draining"])
CREWS = st.lists(st.tuples(STATES, st.booleans()), max_size=12).map(
    lambda crew: [Member(number, *each) for number, each in enumerate(crew, 1)]
)


def counted(crew: list[Member], *states: str) -> int:
    return sum(member.state in states for member in crew)


@given(CREWS, st.integers(1, 6), st.booleans())
def test_nothing_drains_that_is_needed_and_nothing_starts_that_is_not(
    crew: list[Member], wanted: int, proven: bool
) -> None:
    step = next_step(crew, wanted, proven)
    if step is None:
        return
    if step.action == "start":
        assert counted(crew, "starting", "ready") <= wanted
        assert proven or not counted(crew, "starting") or counted(crew, "starting", "ready") == wanted
        return
    (drained,) = [member for member in crew if member.number == step.number]
    assert drained.state != "draining"
    assert counted(crew, "starting", "ready") > wanted
    if drained.state == "ready":
        assert counted(crew, "ready") > min(wanted, counted(crew, "ready") - 1)
        assert counted(crew, "ready") > wanted or not counted(crew, "starting")


@given(CREWS, st.integers(1, 6), st.integers())
def test_every_crew_becomes_the_wanted_one_without_losing_capacity(crew: list[Member], wanted: int, seed: int) -> None:
    chance, number = random.Random(seed), len(crew)
    most = max(counted(crew, "starting", "ready"), wanted) + 1
    for _ in range(500):
        while (step := next_step(crew, wanted, proven=True)) is not None:
            if step.action == "start":
                number += 1
                crew = [*crew, Member(number, "starting")]
            else:
                ready = counted(crew, "ready")
                crew = [m._replace(state="draining") if m.number == step.number else m for m in crew]
                assert counted(crew, "ready") >= min(wanted, ready)
            assert counted(crew, "starting", "ready") <= most
        moving = [m for m in crew if m.state != "ready"]
        if not moving:
            break
        moved = chance.choice(moving)
        crew = [m for m in crew if m is not moved] + [
            m._replace(state="ready") for m in (moved,) if m.state == "starting"
        ]
    assert [(m.state, m.outdated) for m in crew] == [("ready", False)] * wanted


def test_the_first_start_is_alone() -> None:
    assert next_step([], 4, proven=False) == Step("start")
    starting = [Member(1, "starting")]
    assert next_step(starting, 4, proven=False) is None
    assert next_step(starting, 4, proven=True) == Step("start")


def test_a_reload_replaces_the_oldest_first_and_waits_for_its_end() -> None:
    old = [Member(1, "ready", True), Member(2, "ready", True)]
    assert next_step(old, 2, proven=True) == Step("start")
    assert next_step([*old, Member(3, "starting")], 2, proven=True) is None
    assert next_step([*old, Member(3, "ready")], 2, proven=True) == Step("drain", 1)
    assert next_step([Member(1, "draining", True), old[1], Member(3, "ready")], 2, proven=True) is None
    assert next_step([old[1], Member(3, "ready")], 2, proven=True) == Step("start")


def test_with_fewer_wanted_a_process_that_does_not_serve_yet_goes_first() -> None:
    crew = [Member(1, "ready"), Member(2, "ready"), Member(3, "starting")]
    assert next_step(crew, 2, proven=True) == Step("drain", 3)
    assert next_step(crew[:2], 1, proven=True) == Step("drain", 1)
