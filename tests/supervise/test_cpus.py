"""`--processes auto` counts the CPUs that the process is allowed to use."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import os
from intralb_gevent.supervise.cpus import usable_cpus
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(usable_cpus())
"""


def test_a_process_bound_to_one_cpu_has_one() -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", CODE], env=environ, capture_output=True, text=True, timeout=20)
    assert done.stdout == "1\n"
