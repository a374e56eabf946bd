"""The history of a site: the sums over its processes, each second in its place, and what ended processes leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from intralb_gevent.observe import siteview
from intralb_gevent.observe.history import LONG_ROWS, SECONDS, STEP, Series
from intralb_gevent.observe.sitehistory import SiteHistory
from intralb_gevent.observe.siteview import Charts, SiteView
from intralb_gevent.supervise.table import Table

SERIES = (Series("completed", "sum"), Series("running", "mean"), Series("busy", "mean"), Series("stretch", "most"))
START = 5000
OTHER = """
import sys
from intralb_gevent.observe.history import Series
from intralb_gevent.observe.sitehistory import SiteHistory
from intralb_gevent.supervise.table import Table

row = Table(int(sys.argv[1])).claim()
history = SiteHistory(row, eval(sys.argv[2]))
for second, values in eval(sys.argv[3]):
    history.add(second, values)
"""


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def other(table: Table) -> Callable[..., int]:
    """Return a function that records rows in another process, which then ends, and returns its process id."""

    def record(rows: list[tuple[float, tuple[float, ...]]], series: tuple[Series, ...] = SERIES) -> int:
        arguments = [str(table.descriptor), repr([*map(tuple, series)]), repr(rows)]
        text = OTHER.replace("eval(sys.argv[2])", "[Series(*each) for each in eval(sys.argv[2])]")
        process = subprocess.Popen([sys.executable, "-c", text, *arguments], pass_fds=[table.descriptor])
        assert process.wait(60) == 0
        return process.pid

    return record


def columns(history: SiteHistory, end: int, process: int | None = None, *, long: bool = False) -> Any:
    *_, found = history.columns(end, process, long=long)
    return found


def own(table: Table) -> SiteHistory:
    row = table.claim()
    assert row is not None
    return SiteHistory(row, SERIES)


def test_the_processes_of_a_site_are_added_up(table, other) -> None:
    mine = own(table)
    mine.add(START, (1, 4, 0.25, 0.5))
    mine.add(START + 1.2, (2, 5, 0.25, 0.5))
    pid = other([(START + 0.9, (10, 40, 0.5, 0.125)), (START + 1.9, (20, 50, 0.125, 2))])
    assert columns(mine, START + 2) == [[11, 22], [44, 55], [0.5, 0.25], [0.5, 2]]
    assert columns(mine, START + 2, pid) == [[10, 20], [40, 50], [0.5, 0.125], [0.125, 2]]
    assert columns(mine, START + 2, os.getpid()) == [[1, 2], [4, 5], [0.25, 0.25], [0.5, 0.5]]
    assert columns(mine, START + 2, 1) == [[], [], [], []]
    assert [*map(list, mine.rows(START + 1, START + 2, None))] == [[22, 55, 0.25, 2]]
    assert [*map(list, mine.rows(START + 1, START + 3, pid))] == [[20, 50, 0.125, 2], [0, 0, 0, 0]]


def test_the_long_history_has_sums_means_and_maxima_of_ten_seconds(table) -> None:
    mine = own(table)
    for second in range(START, START + 2 * STEP):
        mine.add(second, (1, second % 2, 0.5, second % 3))
    assert columns(mine, START + 2 * STEP, long=True) == [[10, 10], [0.5, 0.5], [0.5, 0.5], [2, 2]]


def test_a_row_of_each_second_however_the_timer_runs(table) -> None:
    mine = own(table)
    for second, completed in [(0.1, 1), (0.9, 2), (3.1, 30)]:
        mine.add(START + second, (completed, 7, 1, 3))
    assert columns(mine, START + 4) == [[3, 0, 0, 30], [7, 7, 7, 7], [1, 1, 1, 1], [3, 3, 3, 3]]


def test_the_successor_of_a_process_continues_its_row(table, other) -> None:
    other([(START + second, (1, 1, 1, 1)) for second in range(5)])
    other([(START + second, (100, 1, 1, 1)) for second in range(4, 10)])
    reader = own(table)
    assert columns(reader, START + 10) == [[1, 1, 1, 1, 101, *[100] * 5], [1] * 10, [1] * 10, [1] * 10]
    assert columns(reader, START + 10, long=True) == [[605], [1], [1], [1]]


def test_old_records_and_those_of_other_versions_are_not_shown(table, other) -> None:
    mine = own(table)
    other([(START, (5, 5, 5)), (START + SECONDS, (6, 6, 6))], SERIES[:3])
    mine.add(START, (1, 1, 1, 1))
    assert columns(mine, START + SECONDS + 1) == [[], [], [], []]
    assert columns(mine, START + SECONDS)[0][0] == 1
    assert columns(mine, START + STEP * (LONG_ROWS + 1), long=True) == [[], [], [], []]


SUCCESSOR = """
import sys
from intralb_gevent.observe.siteview import SiteView
from intralb_gevent.supervise.table import Table

view = SiteView(Table(int(sys.argv[1])).claim(), ())
if sys.argv[2]:
    view.publish(sys.argv[2].encode())
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def member(table: Table) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Return a function that starts another process of the site, which publishes the given part, unless it is empty."""
    started: list[subprocess.Popen[str]] = []

    def start(part: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SUCCESSOR, str(table.descriptor), part]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, pass_fds=[table.descriptor], **pipes))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "claimed\n"
        return started[-1]

    yield start
    for process in started:
        process.communicate(timeout=60)


def test_a_process_that_is_still_starting_has_no_part_of_its_predecessor(table, member) -> None:
    row = table.claim()
    assert row is not None
    view = SiteView(row, SERIES)
    predecessor = member('{"pid":1}')
    assert [*view.parts()] == [b'{"pid":1}']
    predecessor.kill()
    predecessor.wait()
    assert [*view.parts()] == []
    member("")
    assert [*view.parts()] == []


def test_a_slow_viewer_gets_its_missing_seconds_in_several_events(table, monkeypatch) -> None:
    row = table.claim()
    assert row is not None
    view = SiteView(row, SERIES)
    monkeypatch.setattr(siteview, "monotonic", lambda: float(START))
    charts = Charts(view, None)
    for second in range(START, START + 25):
        view.history.add(second, (second, 0, 0, 0))
    monkeypatch.setattr(siteview, "monotonic", lambda: START + 25.5)
    events = [json.loads(charts.event().split(b"data: ")[1]) for _ in range(4)]
    assert [len(event) for event in events] == [10, 10, 5, 0]
    assert [values[0] for event in events for values in event] == [*range(START, START + 25)]
