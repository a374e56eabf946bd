"""Tests of which paths are remembered as long waits."""

from hypothesis import assume, given
from hypothesis import strategies as st

from intralb_gevent.policy.longwaits import LongWaitPaths


def waited(times: int, seconds: float = 0.0) -> LongWaitPaths:
    paths = LongWaitPaths()
    for _ in range(times):
        paths.add_wait("/poll", 10.0)
    paths.add_time("/poll", seconds, 10.0)
    return paths


def name(number: int) -> str:
    """Return a path without digits for a number."""
    return "/" + str(number).translate(str.maketrans("0123456789", "abcdefghij"))


def test_a_path_is_expected_to_wait_after_its_first_long_wait() -> None:
    paths = LongWaitPaths()
    assert not paths.expected_waits("/poll", 10.0)
    paths.add_wait("/poll", 10.0)
    assert paths.expected_waits("/poll", 10.0)
    assert not paths.expected_waits("/other", 10.0)


@given(waits=st.integers(1, 100), milliseconds=st.integers(0, 1000))
def test_a_path_that_computes_for_more_than_2500_us_for_each_wait_loads_the_loop(waits: int, milliseconds: int) -> None:
    assume(milliseconds != 2.5 * waits)
    paths, computes = waited(waits, milliseconds / 1000), milliseconds > 2.5 * waits
    assert paths.expected_waits("/poll", 10.0) != computes


def test_the_time_of_a_path_without_long_waits_is_not_kept() -> None:
    paths = LongWaitPaths()
    paths.add_time("/report", 1.0, 10.0)
    paths.add_wait("/report", 10.0)
    assert paths.expected_waits("/report", 10.0)


def test_new_observations_outweigh_old_ones() -> None:
    paths = waited(20)
    for second in range(11, 71):
        paths.add_time("/poll", 0.005, float(second))
    assert not paths.expected_waits("/poll", 71.0)
    for second in range(71, 251):
        paths.add_wait("/poll", float(second))
    assert paths.expected_waits("/poll", 251.0)


def test_a_path_is_forgotten_two_minutes_after_its_last_long_wait() -> None:
    paths = waited(1)
    assert paths.expected_waits("/poll", 129.0)
    assert not paths.expected_waits("/poll", 131.0)


def test_the_number_of_paths_is_bounded() -> None:
    paths = LongWaitPaths()
    for number in range(2 * LongWaitPaths.MOST_PATHS):
        paths.add_wait(name(number), 10.0)
    assert repr(paths) == f"<LongWaitPaths {LongWaitPaths.MOST_PATHS} paths>"
    assert paths.expected_waits(name(2 * LongWaitPaths.MOST_PATHS - 1), 10.0)


ids = st.text("ab0123456789-", min_size=1, max_size=40)


@given(first=ids, second=ids)
def test_parts_of_a_path_with_a_digit_are_ignored(first: str, second: str) -> None:
    paths = LongWaitPaths()
    paths.add_wait(f"/jobs/{first}/wait", 10.0)
    both_have_digits = any(map(str.isdigit, first)) and any(map(str.isdigit, second))
    assert paths.expected_waits(f"/jobs/{second}/wait", 10.0) == (both_have_digits or first == second)
    assert not paths.expected_waits(f"/jobs/{first}", 10.0)
