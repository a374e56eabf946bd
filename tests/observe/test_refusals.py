"""The last refusals are kept, within bounds whatever the rate and the environ are."""

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.observe.refusals import Refusals, leading_client


def add(refusals: Refusals, environ: dict, at: float = 1.0) -> None:
    more = {"lane": "", "reason": "overloaded", "priority": "critical", "ahead": 1, "expected_wait": 0.1, "left": 2.0}
    refusals.add(environ, at=at, **more)


@given(st.dictionaries(st.sampled_from(["REQUEST_METHOD", "PATH_INFO", "SCRIPT_NAME", "REMOTE_ADDR"]), st.text()))
def test_texts_of_clients_are_kept_short(environ: dict) -> None:
    refusals = Refusals()
    add(refusals, {name: value * 200 for name, value in environ.items()})
    (refusal,) = refusals.since(0)
    assert max(len(refusal.path), len(refusal.method), len(refusal.client)) <= 120


@given(st.integers(0, 500), st.integers(0, 500))
def test_those_since_a_number_are_the_newest_that_are_kept(count: int, number: int) -> None:
    refusals = Refusals()
    for _ in range(count):
        add(refusals, {})
    numbers = [each.number for each in refusals.since(number)]
    assert numbers == list(range(max(number, count - Refusals.KEPT) + 1, count + 1))


def test_a_flood_is_recorded_in_part_and_the_next_period_again() -> None:
    refusals = Refusals()
    for _ in range(1000):
        if refusals.wants(5.0):
            add(refusals, {}, 5.0)
    assert refusals.count == Refusals.MOST_IN_PERIOD
    assert refusals.wants(5.0 + Refusals.PERIOD_SECONDS)


def test_the_client_with_most_refusals_is_found_in_one_lane_and_period() -> None:
    refusals = Refusals()
    for number in range(10):
        add(refusals, {"REMOTE_ADDR": "10.0.0.7" if number % 5 else "10.0.0.8"}, at=float(number))
    assert leading_client(refusals.recent("", 5.0)) == ("10.0.0.7", 0.8)
    assert leading_client(refusals.recent("/other", 0.0)) == ("", 0.0)
