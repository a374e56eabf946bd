"""The history keeps the newest rows in both resolutions, in memory that does not grow."""

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.observe.history import LONG_ROWS, SECONDS, STEP, History, Series

SERIES = (Series("ended", "sum"), Series("running", "mean"), Series("stretch", "most"))


@given(st.integers(0, 1500))
def test_the_newest_seconds_and_the_sums_of_ten_are_kept_in_their_order(rows: int) -> None:
    history = History(SERIES)
    for number in range(rows):
        history.add([1.0, number, number])
    expected = [float(number) for number in range(rows)]
    assert list(history.column(1, long=False)) == expected[-SECONDS:]
    full = rows // STEP
    assert list(history.column(0, long=True)) == [float(STEP)] * full
    assert list(history.column(1, long=True)) == [STEP * number + (STEP - 1) / 2 for number in range(full)]
    assert list(history.column(2, long=True)) == [STEP * number + STEP - 1 for number in range(full)]


def test_six_hours_are_kept_and_no_more() -> None:
    history = History(SERIES)
    for _ in range(STEP * (LONG_ROWS + 5)):
        history.add([1.0, 2.0, 3.0])
    assert len(history.column(0, long=True)) == LONG_ROWS
    assert len(history.column(0, long=False)) == SECONDS
