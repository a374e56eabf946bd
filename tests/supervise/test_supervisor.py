"""The supervisor's limits."""

from __future__ import annotations

import subprocess
import sys

STORM = """
from intralb_gevent.config.processes import ProcessOptions
from intralb_gevent.supervise.launch import Program
from intralb_gevent.supervise.notify import Notifier
from intralb_gevent.supervise.site import Site
from intralb_gevent.supervise.supervisor import Supervisor

nothing = lambda: None
site = Site(Program(["/bin/true"], "/"), [], {}, False, lambda: ProcessOptions(), nothing, nothing)
supervisor = Supervisor(site, ProcessOptions(processes=1023), Notifier(None))
for by in [+1] * 5 + [-1] * 2000:
    supervisor._resize(by)
    print(supervisor.wanted)
"""


def test_a_storm_of_signals_asks_for_no_more_processes_than_the_setting_allows() -> None:
    """Run it in a process of its own, because a supervisor installs signal handlers."""
    done = subprocess.run([sys.executable, "-c", STORM], capture_output=True, text=True, timeout=60, check=True)
    wanted = [int(line) for line in done.stdout.split()]
    assert (max(wanted), wanted[4], min(wanted)) == (1024, 1024, 1)
