"""Tests of the table in shared memory, with real processes that claim its rows."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from intralb_gevent.errors import OptionError
from intralb_gevent.supervise.table import LANES, READY, Table, lane_key

OWNER = """
import sys
from intralb_gevent.supervise.table import READY, Table

row = Table(int(sys.argv[1])).claim()
for line in sys.stdin:
    exec(line)
    print(row.index, flush=True)
"""

Owner = Callable[[str], int]


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def claim(table: Table) -> Iterator[Callable[[], tuple[Any, Owner]]]:
    """Return a function that starts a process with a row, and returns it with a function that executes a line in it."""
    started = []

    def begin() -> tuple[Any, Owner]:
        command = [sys.executable, "-c", OWNER, str(table.descriptor)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=[table.descriptor])
        started.append(process)

        def execute(line: str) -> int:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        execute("row.state = READY")
        return process, execute

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_each_process_writes_a_row_that_all_can_read(table, claim):
    (first, one), (second, two) = claim(), claim()
    two("row.write_connections(3), row.write_load(2, 8, [(7, 0), (9, 5)])")
    rows = table.rows()
    assert [(row.number, row.pid, row.state) for row in rows] == [(0, first.pid, READY), (1, second.pid, READY)]
    assert (rows[1].connections, rows[1].queued, rows[1].running, rows[1].free) == (3, 2, 8, 5)
    assert rows[1].lanes == {7: 0, 9: 5}
    one("row.leave()")
    assert [row.pid for row in table.rows()] == [second.pid]


def test_a_row_shows_since_when_the_loop_is_busy(table, claim):
    _, execute = claim()
    execute("row.busy(12.5)")
    assert table.rows()[0].busy_since == 12.5
    execute("row.idle()")
    assert table.rows()[0].busy_since == 0.0
    assert time.monotonic() - table.rows()[0].beat < 60


def test_the_row_of_a_killed_process_is_free_for_the_next_one(table, claim):
    killed, execute = claim()
    _, other = claim()
    execute("row.write_data({'totals': {'submitted': 5}})")
    killed.kill()
    killed.wait()
    heir, execute = claim()
    assert execute("assert row.earlier == {'totals': {'submitted': 5}}") == 0
    assert other("pass") == 1
    assert [row.pid for row in table.rows()] != [heir.pid]
    assert table.data(0) == {"totals": {"submitted": 5}}


def test_a_forked_child_does_not_keep_the_row_of_its_parent(table, claim):
    parent, execute = claim()
    # The child ends itself, and holds neither the pipes of its parent nor the row.
    execute("import os, signal; child = os.fork() or (os.closerange(0, 2), signal.alarm(10), signal.pause())")
    parent.kill()
    parent.wait()
    _, execute = claim()
    assert execute("pass") == 0


def test_a_copy_that_a_killed_process_has_left_half_written_is_not_read(table):
    row = table.claim()
    row.write_data({"n": 1})
    row.write_data({"n": 2})
    newest = row.table.newest(row.index)[0]
    # Damage the newest copy, as a process does that is killed while it writes.
    offset = next(offset for offset in range(0, 1 << 22, 8) if _number_at(table, offset) == newest)
    os.pwrite(table.descriptor, b"{", offset + 17)
    assert table.data(row.index) == {"n": 1}
    # Its heir overwrites the damaged copy, not the complete one.
    heir = table.claim()
    heir.write_data({"n": 3})
    assert table.data(row.index) == {"n": 3}
    os.pwrite(table.descriptor, b"{", offset + 17)
    assert table.data(row.index) == {"n": 1}


def _number_at(table: Table, offset: int) -> int:
    # The words of the rows come first, and contain no number that looks like the header of a copy.
    data = os.pread(table.descriptor, 8, offset)
    return int.from_bytes(data, "little") if offset >= 2049 * 512 else -1


def test_data_that_do_not_fit_leave_the_earlier_ones(table):
    row = table.claim()
    assert row.write_data({"n": 1})
    assert not row.write_data({"n": "x" * 300_000})
    assert table.data(row.index) == {"n": 1}


def test_more_lanes_than_fit_do_not_damage_the_next_row(table, claim):
    _, execute = claim()
    row = table.claim()
    execute(f"row.write_load(0, 0, [(n, 1) for n in range({LANES} + 50)])")
    row.write_connections(1)
    row.write_load(1, 1, [(lane_key(""), 4)])
    assert len(table.rows()[0].lanes) == LANES
    assert table.rows()[1].lanes == {lane_key(""): 4}
    assert table.rows()[1].connections == 1


def test_a_table_of_another_version_is_refused_with_its_remedy():
    descriptor = os.memfd_create("other")
    os.pwrite(descriptor, b"intralb-table-99", 0)
    with pytest.raises(OptionError, match=r"layout b'intralb-table-99' is not allowed.*SIGUSR2"):
        Table(descriptor)
    os.close(descriptor)


def test_readers_never_see_torn_data(table, claim):
    writer, _ = claim()
    line = "any(not row.write_data({'a': n, 'b': [n] * 500}) for n in range(10**9))\n"
    writer.stdin.write(line)
    writer.stdin.flush()
    end, seen = time.monotonic() + 1.0, set()
    while time.monotonic() < end:
        found = table.data(0)
        assert not found or found["b"] == [found["a"]] * 500
        seen.add(found.get("a"))
    writer.send_signal(signal.SIGKILL)
    assert len(seen) > 2
