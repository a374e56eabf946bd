"""Requests of each priority leave capacity for higher priorities, and all but a small share are served after them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.priority import PriorityScheduler, capacity_of
from intralb_gevent.priority import Priority

CLASSES = st.sampled_from(Priority)
WAITING = st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any)


@given(st.integers(1, 10_000), CLASSES)
def test_a_lower_class_never_has_more_places_than_a_higher(capacity: int, highest: Priority) -> None:
    of_classes = [capacity_of(capacity, priority, highest) for priority in Priority]
    assert of_classes == sorted(of_classes, reverse=True)
    assert of_classes[0] == capacity


def test_the_shares() -> None:
    assert [capacity_of(100, priority, Priority.CRITICAL_PLUS) for priority in Priority] == [100, 95, 75, 50]


def test_nothing_is_kept_for_a_class_that_has_never_come() -> None:
    assert capacity_of(100, Priority.CRITICAL, Priority.CRITICAL) == 100
    assert capacity_of(100, Priority.SHEDDABLE, Priority.CRITICAL) == 50


@given(st.lists(WAITING, max_size=200))
def test_only_sheddable_plus_goes_before_a_higher_class_and_seldom(seen: list[list[int]]) -> None:
    turns = PriorityScheduler()
    chosen = [turns.next(waiting) for waiting in seen]
    early = [
        index for index, (waiting, priority) in enumerate(zip(seen, chosen, strict=True)) if any(waiting[:priority])
    ]
    assert all(waiting[priority] for waiting, priority in zip(seen, chosen, strict=True))
    assert all(chosen[index] == Priority.SHEDDABLE_PLUS for index in early)
    assert all(later - sooner >= PriorityScheduler.EVERY for sooner, later in pairwise(early))


def test_a_crowd_of_the_highest_leaves_one_turn_in_twenty() -> None:
    turns = PriorityScheduler()
    chosen = [turns.next([9, 9, 9, 9]) for _ in range(200)]
    assert chosen.count(Priority.SHEDDABLE_PLUS) == 10
    assert chosen.count(Priority.CRITICAL_PLUS) == 190
