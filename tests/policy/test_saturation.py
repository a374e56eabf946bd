"""Saturation is demand divided by capacity; the weights that follow from it send each server what it can serve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.saturation import (
    MOST,
    RESOURCES,
    SPARE,
    Mean,
    Saturation,
    slot_ratio,
    weight_percent,
)

IDLE = dict.fromkeys(RESOURCES, 0.0)


@given(st.floats(0.2, 9), st.integers(1, 1000))
def test_rejected_requests_are_demand(load: float, capacity: int) -> None:
    """At a multiple of the capacity, all slots are busy and the rest is rejected."""
    rejected = max(0.0, load - 1)
    running = round(capacity * min(1.0, load))
    assert slot_ratio(running, 0, capacity, rejected) == pytest.approx(load, abs=1 / capacity)


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 100), st.floats(0, 1e9))
def test_it_is_bounded(running: int, queued: int, capacity: int, rejected: float) -> None:
    assert 0 <= slot_ratio(running, queued, capacity, rejected) <= MOST


@given(st.sampled_from(RESOURCES), st.floats(0, 20), st.lists(st.floats(0.01, 30), min_size=1, max_size=50))
def test_the_scarcest_resource_counts(name: str, ratio: float, steps: list[float]) -> None:
    saturation = Saturation()
    for seconds in steps:
        saturation.add({**IDLE, name: ratio}, seconds)
    assert saturation.value == saturation.by_resource[name] <= min(MOST, ratio) + 1e-4
    assert sum(saturation.by_resource.values()) == saturation.value


@given(st.floats(0, 10), st.integers(1, 100))
def test_a_mean_does_not_depend_on_how_often_it_is_read(value: float, parts: int) -> None:
    once, often = Mean(), Mean()
    once.add(value, 7.0)
    for _ in range(parts):
        often.add(value, 7.0 / parts)
    assert often.value == pytest.approx(once.value)


def test_a_mean_follows_within_ten_seconds_and_not_at_once() -> None:
    saturation = Saturation()
    saturation.add({**IDLE, "slots": 1.0}, 1.0)
    assert 0.1 < saturation.value < 0.3
    saturation.add({**IDLE, "slots": 1.0}, 9.0)
    assert 0.8 < saturation.value < 0.9
    saturation.add(IDLE, 10.0)
    assert saturation.value < 0.2


@given(st.floats(0, MOST), st.floats(0, MOST))
def test_weights_fall_with_saturation_and_are_never_nothing(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 1 <= weight_percent(high) <= weight_percent(low) <= 100
    assert weight_percent(min(low, SPARE)) == 100


@given(st.floats(1, 8), st.floats(0.5, 3))
def test_weights_send_a_slower_server_less(ratio: float, load: float) -> None:
    """Arrivals are `load` times the joint capacity of both servers, divided by weights that follow from each part."""
    capacities = (ratio, 1.0)
    arrivals = load * sum(capacities)
    weights = [100, 100]
    for _ in range(50):
        got = [arrivals * weight / sum(weights) for weight in weights]
        saturations = [min(MOST, part / capacity) for part, capacity in zip(got, capacities, strict=True)]
        weights = [round((old + weight_percent(new)) / 2) for old, new in zip(weights, saturations, strict=True)]
    equal = [min(MOST, arrivals / 2 / capacity) for capacity in capacities]
    assert max(saturations) <= max(equal) + 0.05
    assert saturations[0] <= saturations[1] + 0.05
