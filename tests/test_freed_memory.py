"""A serving process returns freed memory to the kernel."""

import subprocess
import sys

import pytest

PROGRAM = """
import gevent
from intralb_gevent.policy.trimming import Trimming
from intralb_gevent.process.freedmemory import FreedMemory, resident

FreedMemory.LOOK_SECONDS = 0.05
Trimming.PAUSE_SECONDS = 0.1
Trimming.SPARE_BYTES = 20_000_000
before = resident()
with FreedMemory() as freed:
    pieces = [bytes(1000 + 12 * number) for number in range(5000)]
    kept = pieces[::50]
    del pieces
    assert resident() - before > 100_000_000, resident() - before
    with gevent.Timeout(20):
        while resident() - before > 50_000_000:
            gevent.sleep(0.05)
print("given back")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc and /proc")
def test_what_is_freed_between_pieces_that_are_in_use_is_given_back() -> None:
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert (completed.stdout, completed.stderr) == ("given back\n", "")
